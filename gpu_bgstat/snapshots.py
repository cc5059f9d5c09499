"""Backgrounds now and then, while collecting goes on: somebody looks at a camera long before its recording is over."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpu_bgstat.errors import ConfigError, OutputError
from gpu_bgstat.frames import Background

_LOG = logging.getLogger("gpu_bgstat")


@dataclass(frozen=True)
class Snapshots:
    """Every so many seconds, `take` gets the background of the samples so far; its `run.snapshot` is true.

    It is called between two samples, by the thread that collects, which waits for it. The seconds count from the end
    of the call before. While there are fewer than two samples, there is nothing to take.
    An OutputError that it raises is a warning in the end, and collecting goes on; anything else ends the estimate.
    """

    every_s: float
    take: Callable[[Background], object]

    def __post_init__(self) -> None:
        if not 0 < self.every_s < math.inf:
            raise ConfigError(f"a snapshot every {self.every_s:g} s: give more than 0 seconds")


class Album:
    """When the next snapshot is due, and which could not be written. Without `snapshots`, none ever is."""

    def __init__(self, snapshots: Snapshots | None) -> None:
        self._snapshots = snapshots
        self._started = self._last = time.monotonic()
        self._failures: list[float] = []  # the first and the last: seconds since the start
        self._failed = 0
        self._why = ""

    def due(self) -> bool:
        return self._snapshots is not None and time.monotonic() - self._last >= self._snapshots.every_s

    def add(self, background: Background) -> None:
        """Has the snapshot taken; a failure is told at once, and kept for the report."""
        assert self._snapshots is not None
        try:
            self._snapshots.take(background)
        except OutputError as error:
            self._failed += 1
            self._failures = [*self._failures[:1], time.monotonic() - self._started]
            self._why = str(error)
            _LOG.warning("a snapshot is left out: %s", error)
        self._last = time.monotonic()

    def told(self) -> list[str]:
        """What is to be said of the failures."""
        if not self._failed:
            return []
        times = " to ".join(f"{moment:.0f} s" for moment in self._failures)
        return [f"{self._failed} snapshots could not be written, {times} after the start: {self._why}"]
