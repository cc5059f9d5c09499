"""Hundreds of damaged videos: no crash, no hang, no wrong frame index.

What "no wrong frame index" can mean: where all frames are read, a frame has the number and the time that a plain
decoder gives it which begins at the beginning and passes over what it cannot decode. Which frame it is, its pixels
tell, as long as they are still those of a frame of the whole recording; of a frame whose pixels are harmed, only
number and time are held against the plain decoder. Where only samples are decoded, damage between them may go
unnoticed, and then shifts numbers: docs/decoding.md.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from clips import Clip
from conftest import RECORDINGS, recording

HANG_S = 20
WORKERS = 2
TESTS = Path(__file__).resolve().parent
TINY = (64, 48)


def x264(params: str) -> dict[str, str]:
    return {"preset": "veryfast", "crf": "22", "x264-params": params}


B3 = x264("bframes=3:b-adapt=0")
HEVC = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1:keyint=12:bframes=3"}
VP9 = {"auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "6", "deadline": "realtime"}
CLIPS: dict[str, Clip] = {
    "mpeg4.avi": Clip("avi", "mpeg4", b_frames=0, gop=12, frames=60, size=TINY),
    "mpeg4.mp4": Clip("mp4", "mpeg4", b_frames=2, gop=12, frames=60, size=TINY),
    "h264.mp4": Clip("mp4", "libx264", B3, gop=12, frames=60, size=TINY),
    "h264.mkv": Clip("mkv", "libx264", B3, gop=12, frames=60, size=TINY),
    "h264.ts": Clip("ts", "libx264", B3, gop=12, frames=60, size=TINY),
    "mjpeg.avi": Clip("avi", "mjpeg", pixel_format="yuvj420p", frames=60, size=TINY),
    "hevc.mp4": Clip("mp4", "libx265", HEVC, gop=None, frames=60, size=TINY),
    "vp9.webm": Clip("webm", "libvpx-vp9", VP9, gop=12, frames=60, size=TINY),
}
OF_EACH_CLIP = 50
OF_EACH_RECORDING = 12


@dataclass
class Worker:
    """A process that reads mutants. `ask` tells what became of one; a dead or stalled process is replaced."""

    folder: Path
    patience_s: float = HANG_S
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def _start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        self._process = subprocess.Popen(
            [sys.executable, TESTS / "mutants.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        return self._process

    def ask(self, source: Path, seed: int) -> tuple[str, list[str]]:
        process = self._process or self._start()
        assert process.stdin and process.stdout
        question = {"source": str(source), "seed": seed, "folder": str(self.folder)}
        with suppress(BrokenPipeError):  # it is dead, as its silence will tell
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self.patience_s)
        answer = process.stdout.readline() if ready else b""
        if answer:
            told = json.loads(answer)
            return told["outcome"], told["faults"]
        self.close()
        if ready:
            return "died", [f"exit code {process.returncode}"]
        return "hung", [f"no end within {self.patience_s} s"]

    def close(self) -> None:
        if self._process:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def run(mutants: Iterable[tuple[Path, int]], folder: Path) -> tuple[Counter[str], list[str]]:
    """How many mutants came to which end, and what was wrong."""
    queue, lock = iter(mutants), threading.Lock()
    outcomes: Counter[str] = Counter()
    faults: list[str] = []

    def work(worker: Worker) -> None:
        try:
            while True:
                with lock:
                    mutant = next(queue, None)
                if mutant is None:
                    return
                outcome, found = worker.ask(*mutant)
                with lock:
                    outcomes[outcome] += 1
                    faults.extend(f"{mutant[0].name} seed {mutant[1]}: {fault}" for fault in found)
        finally:
            worker.close()

    threads = [threading.Thread(target=work, args=(Worker(folder / str(number)),)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes, faults


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: clip.write(folder / name) for name, clip in CLIPS.items()}


@pytest.mark.parametrize(("sent", "outcome"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "hung")])
def test_what_kills_or_stalls_a_reader_is_seen(
    sent: signal.Signals, outcome: str, clips: dict[str, Path], tmp_path: Path
) -> None:
    with closing(Worker(tmp_path / "0", patience_s=5)) as worker:
        assert worker.ask(clips["mpeg4.avi"], 0)[0] in ("read", "told", "refused")
        assert worker._process
        worker._process.send_signal(sent)
        assert worker.ask(clips["mpeg4.avi"], 1)[0] == outcome
        assert worker.ask(clips["mpeg4.avi"], 1)[0] in ("read", "told", "refused")


def test_mutants_of_clips(clips: dict[str, Path], tmp_path: Path) -> None:
    mutants = [(path, seed) for path in clips.values() for seed in range(OF_EACH_CLIP)]
    outcomes, faults = run(mutants, tmp_path)
    assert not faults, "\n".join(faults)
    assert outcomes.total() == len(mutants)


def test_mutants_of_recordings(tmp_path: Path) -> None:
    recording("codec")
    recordings = sorted((RECORDINGS / "codec").iterdir())
    mutants = [(path, seed) for path in recordings for seed in range(OF_EACH_RECORDING)]
    outcomes, faults = run(mutants, tmp_path)
    assert not faults, "\n".join(faults)
    assert outcomes.total() == len(mutants)
