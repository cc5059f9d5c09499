"""Estimates in processes that are killed: at the n-th call of the checkpoint to the system, or at any moment.

Each one is forked from a process that has loaded everything and decoded nothing.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_bgstat import checkpoint, journal, pipeline
from gpu_bgstat.backends import scratch
from gpu_bgstat.config import Config
from gpu_bgstat.frames import Background

CALLS = ("open", "write", "ftruncate", "lseek", "fsync", "fdatasync")  # of the journal and the samples' file


@dataclass
class Outcome:
    """How a run ended; `resumed` samples were there when it began."""

    killed: bool
    log: list[str]  # what was done to the files, in order
    result: dict[str, Any]


class Killer:
    """Stands where the journal expects `os`, counts the calls, and kills this process at one of them."""

    def __init__(self, at: int | None, half: bool, log: Path) -> None:
        self._at, self._half = at, half
        self._count = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.counted(name, real) if name in CALLS else real

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._count += 1
            if self._count == self._at:
                if name == "write" and self._half:
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments)
            os.write(self._log, f"{name}\n".encode())
            return result

        return call


def run(
    source: Any,
    config: Config,
    folder: Path | None,
    *,
    kill_at: int | None = None,
    half: bool = False,
    after_s: float | None = None,
    slow_s: float = 0.0,
) -> Outcome:
    """An estimate in a process of its own, with a commit after each sample.

    kill_at  at this call of the journal, counted from 1; with `half`, after half of what it should have written
    after_s  this long after its start, from outside
    slow_s   waits so long after each sample
    """
    told, log = (Path(f"{folder or 'none'}.{name}") for name in ("told", "log"))
    if folder is None:
        told, log = Path(str(config.scratch), "told"), Path(str(config.scratch), "log")
    told.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _child(source, config, folder, Killer(kill_at, half, log), told, slow_s)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, told.read_text() if told.exists() else status
    return Outcome(killed, log.read_text().split(), json.loads(told.read_text()) if told.exists() else {})


def _child(source: Any, config: Config, folder: Path | None, killer: Killer, told: Path, slow_s: float) -> None:
    try:
        if slow_s or folder:
            checkpoint.EVERY_S, checkpoint._COMMITS_SHARE = 0.0, 0
        journal.os = killer  # type: ignore[assignment]
        journal._sync = killer.counted("sync journal", os.fsync)
        scratch._sync = killer.counted("sync samples", os.fsync)
        began: list[int] = []

        def progress(now: Any) -> None:
            began.append(now.samples)
            time.sleep(slow_s)

        background = pipeline.estimate(source, config, progress, checkpoint=folder)
        told.write_text(json.dumps({**summary(background), "first": began[0] if began else None, "came": len(began)}))
        os._exit(0)
    except BaseException:  # noqa: BLE001 (a forked child must not return)
        told.write_text(traceback.format_exc())
        os._exit(1)


def summary(background: Background) -> dict[str, Any]:
    """All that must be the same after a resume."""
    arrays = (background.background, background.variance, background.stable, background.heatmap)
    return {
        "pixels": [array.tobytes().hex() for array in arrays],
        "samples": [[sample.index, sample.time_s, sample.brightness] for sample in background.samples],
        "warnings": list(background.run.warnings),
        "damaged": background.run.damaged,
        "seen": background.run.frames_seen,
    }
