"""How far an estimate is: a bar on a terminal, a plain line now and then in a log, nothing if asked for silence."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gpu_bgstat.pipeline import Progress

LINE_EVERY_S = 10.0  # in a log


class Meter:
    """Shows frames, samples, rate and time left on stderr. Use it as a context manager."""

    def __init__(self, shown: bool) -> None:
        console = Console(stderr=True)
        self._plain = shown and not console.is_terminal
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = self._told = 0.0
        self._first = 0  # the frames that were read when the clock started
        if shown and console.is_terminal:
            columns = (
                TextColumn("reading"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("frames, {task.fields[samples]} samples, {task.fields[rate]:.0f} frames/s,"),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self._bar = Bar(*columns, console=console, transient=True)

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._started or progress.frames < self._first:  # a second reading starts anew
            # the clock starts with the first sample: opening is not reading
            self._started, self._told, self._first = now, self._told or now, progress.frames
        rate = (progress.frames - self._first) / max(1e-3, now - self._started)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("", total=progress.total, samples=0, rate=0.0)
            self._bar.update(
                self._task, completed=progress.frames, total=progress.total, samples=progress.samples, rate=rate
            )
        elif self._plain and now - self._told >= LINE_EVERY_S:
            self._told = now
            print(self._line(progress, rate), file=sys.stderr, flush=True)

    def _line(self, progress: Progress, rate: float) -> str:
        of = f" of {progress.total}" if progress.total else ""
        left = f", {(progress.total - progress.frames) / rate:.0f} s left" if progress.total and rate else ""
        return f"frame {progress.frames}{of}, {progress.samples} samples, {rate:.0f} frames/s{left}"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
