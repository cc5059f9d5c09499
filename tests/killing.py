"""Estimates in processes that are killed: at the n-th call of the checkpoint to the system, or at any moment.

Each one is forked from a process that has loaded everything and decoded nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from gpu_bgstat import checkpoint, journal, pipeline
from gpu_bgstat.backends import scratch
from gpu_bgstat.config import Config
from gpu_bgstat.frames import Background

CALLS = ("open", "write", "ftruncate", "lseek", "fsync", "fdatasync")  # of the journal and the samples' file


@dataclass
class Run:
    """One estimate in a process of its own, with a commit after each sample.

    folder   of the checkpoint; None for none
    kill_at  at this call of the checkpoint, counted from 1; with `half`, after half of what it should have written
    after_s  this long after its start, from outside
    slow_s   waits so long after each sample
    """

    source: Any
    config: dict[str, Any]
    folder: str | None = None
    kill_at: int | None = None
    half: bool = False
    after_s: float | None = None
    slow_s: float = 0.0


@dataclass
class Outcome:
    """How a run ended, what was done to the checkpoint's files, in order, and what came out."""

    killed: bool
    log: list[str]
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


def in_turn(runs: Sequence[Run]) -> list[Outcome]:
    """Runs one after the other; AssertionError with the traceback if one fails otherwise than by being killed."""
    given = json.dumps([asdict(run) for run in runs])
    done = subprocess.run([sys.executable, __file__], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Outcome(**outcome) for outcome in json.loads(done.stdout)]


def forked(run: Run, told: Path, log: Path) -> Outcome:
    for path in (told, log):
        path.write_text("")
    child = os.fork()
    if not child:
        _child(run, told, log)
    if run.after_s is not None:
        time.sleep(run.after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    if not killed and os.WEXITSTATUS(status):
        raise SystemExit(told.read_text())
    return Outcome(killed, log.read_text().splitlines(), json.loads(told.read_text() or "{}"))


def _child(run: Run, told: Path, log: Path) -> NoReturn:
    try:
        checkpoint.EVERY_S, checkpoint._COMMITS_SHARE = 0.0, 0
        killer = Killer(run.kill_at, run.half, log)
        setattr(journal, "os", killer)  # noqa: B010 (mypy)
        journal._sync = killer.counted("sync journal", os.fsync)
        scratch._sync = killer.counted("sync samples", os.fsync)
        kept: list[int] = []  # samples there were, after each one that came

        def progress(now: pipeline.Progress) -> None:
            kept.append(now.samples)
            time.sleep(run.slow_s)

        background = pipeline.estimate(run.source, Config(**run.config), progress, checkpoint=run.folder)
        told.write_text(json.dumps({**summary(background), "came": len(kept)}))
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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [forked(Run(**run), Path(folder, "told"), Path(folder, "log")) for run in json.load(sys.stdin)]
    print(json.dumps([asdict(outcome) for outcome in outcomes]))
