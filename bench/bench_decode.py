"""Sampled frames out of a recording: this package against the usual ways, in one process, in turns.

    python bench/bench_decode.py [--quick] [--json FILE] [--turns 5] [--only NAME] [--recordings DIR] [--strict]

Peers that are not installed are left out and named. To have all of them:

    apt-get install ffmpeg          # the command, and the libraries that torchcodec loads
    pip install torch               # the build for CPUs is enough
    pip install '.[bench]'          # decord, torchcodec

Before anything is timed, every way's frames are compared with those of `cv2.VideoCapture.read`: ours and OpenCV's
own bit for bit; others convert colours by their own arithmetic, so theirs must be near, and nearer to the right frame
than to its neighbours. Who gives wrong frames is marked ✗ and is nobody's peer. Ratios are taken within a turn, and
the median of the turns counts. `limit` is the least that FFmpeg's decoders can do for the samples (see decoders.py).

tables   sampled      one frame in 100 of 1500
         short        one in 10 of 90
         every-frame  all of 300
         keyframes    as `sampled`, each sample moved to a keyframe (--snap keyframe)
         whole        recording to PNG, against the cassette's own code (ours also writes a report and the variance)
         length       1, 4 and 16 times the frames, as many samples
--only   words that must all be a table's or a codec's name, such as "sampled mjpeg"
--quick  small recordings, everything once; it shows that the benchmark works, its times mean nothing
--strict exit code 1 if a target is missed
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import av
import cassette
import cv2
import numpy as np
from decode_tables import CASSETTE, Row, all_tables, targets
from decoders import OURS, READ, WAYS, Job, Way, can_snap, config, keyframes, limits
from numpy.typing import NDArray
from recordings import CODECS, lengthened, recordings

from gpu_bgstat.arena import Arena
from gpu_bgstat.backends.tiles import cores
from gpu_bgstat.frames import Image
from gpu_bgstat.pipeline import estimate

SLOW_S = 30.0  # what takes longer is not repeated
TOLERANCE = 1.0  # grey levels, mean difference: another conversion from YUV stays below
GRID = 4  # every fourth pixel in both directions is enough to tell frames apart


@dataclass(frozen=True)
class Case:
    name: str
    frames: int
    every: int
    snap: bool = False


@dataclass(frozen=True)
class Size:
    """All that --quick makes smaller. Noise of 4 levels gives x264's defaults 2 Mbit/s, like a real camera's."""

    arena: Arena
    cases: tuple[Case, ...]
    lengths: tuple[int, ...]


FULL = Size(
    Arena(1920, 1080, noise=4.0),
    (
        Case("sampled", 1500, 100),
        Case("short", 90, 10),
        Case("every-frame", 300, 1),
        Case("keyframes", 1500, 100, snap=True),
    ),
    (1, 4, 16),
)
QUICK = Size(
    Arena(320, 240, noise=4.0),
    (
        Case("sampled", 150, 20),
        Case("short", 40, 10),
        Case("every-frame", 40, 1),
        Case("keyframes", 150, 20, snap=True),
    ),
    (1, 2),
)

TO_READ: dict[tuple[str, str], float] = {  # how many times faster than `read` it must be
    ("sampled", "mpeg4"): 10,
    ("sampled", "mjpeg"): 50,
    ("sampled", "x264"): 3,
    ("sampled", "x264-gop60"): 4,
    ("keyframes", "x264"): 30,
}


@dataclass(frozen=True)
class Seen:
    """A frame, as much of it as it takes to know it again."""

    digest: bytes
    grid: NDArray[np.int16]

    @classmethod
    def of(cls, pixels: Image) -> Seen:
        pixels = np.ascontiguousarray(pixels)
        return cls(hashlib.blake2b(pixels.data).digest(), pixels[::GRID, ::GRID].astype(np.int16))

    def distance(self, other: Seen) -> float:
        return float(np.abs(self.grid - other.grid).mean())


def truth_of(path: Path, wanted: Sequence[int]) -> dict[int, Seen]:
    """The wanted frames and their neighbours, by OpenCV from the beginning to the end."""
    needed = {index + step for index in wanted for step in (-1, 0, 1)}
    seen: dict[int, Seen] = {}
    video, index = cv2.VideoCapture(str(path)), 0
    while (got := video.read())[0]:
        if index in needed:
            seen[index] = Seen.of(got[1])
        index += 1
    video.release()
    return seen


def look(way: Way, job: Job) -> tuple[dict[int, Seen], float]:
    """The frames that a way gives, and the seconds for that, which include looking."""
    seen: dict[int, Seen] = {}
    lock = Lock()

    def take(index: int, pixels: Image) -> None:
        frame = Seen.of(pixels[:, :, ::-1] if way.rgb else pixels)
        with lock:
            if index in seen and seen[index].digest != frame.digest:
                raise AssertionError(f"frame {index} came twice, and differs")
            seen[index] = frame

    seconds = timed(lambda: way.run(job, take))
    return seen, seconds


def flaws(way: Way, seen: dict[int, Seen], wanted: Sequence[int], truth: dict[int, Seen]) -> str:
    """What is wrong with a way's frames; nothing if they are right."""
    missing = len(set(wanted) - set(seen))
    wrong = sum(not _right(way, index, seen[index], truth) for index in wanted if index in seen)
    unasked = len(set(seen) - set(wanted))
    counts = {"missing": missing, "wrong": wrong, "not asked for": unasked}
    return ", ".join(f"{count} of {len(wanted)} frames {what}" for what, count in counts.items() if count)


def _right(way: Way, index: int, frame: Seen, truth: dict[int, Seen]) -> bool:
    if way.exact:
        return frame.digest == truth[index].digest
    error = frame.distance(truth[index])
    beside = (truth[near] for near in (index - 1, index + 1) if near in truth)
    return error <= TOLERANCE and all(error <= frame.distance(other) for other in beside)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def drop(_: int, __: Image) -> None:
    """Takes a frame and does nothing with it."""


def take_turns(runs: Sequence[tuple[Row, Callable[[], object]]], turns: int) -> None:
    """All of them once, then again. The checking run stands for slow ones, and for all if there are no turns."""
    repeated = [(row, run) for row, run in runs if turns and row.turns[0] < SLOW_S]
    for row, _ in repeated:
        row.turns = []
    for _ in range(turns):
        for row, run in repeated:
            row.turns.append(timed(run))


def job_of(case: Case, path: Path, arena: Arena) -> Job:
    """The case on a recording. Which keyframes are wanted with `snap` is for this package to say."""
    wanted = tuple(range(case.every - 1, case.frames, case.every))
    job = Job(path, arena.width, arena.height, case.every, wanted, keyframes(path), case.snap)
    if not case.snap:
        return job
    seen, _ = look(WAYS[OURS], job)
    if stray := set(seen) - set(job.keyframes):
        raise AssertionError(f"{path.name}: frames {sorted(stray)} are no keyframes")
    return replace(job, wanted=tuple(sorted(seen)))


def ways_for(case: Case, job: Job) -> dict[str, Way]:
    """Those that make sense: with `snap`, against reading everything and FFmpeg's own decoding of keyframes."""
    names = (OURS, READ, "ffmpeg nokey") if case.snap else [name for name in WAYS if name != "ffmpeg nokey"]
    return {name: WAYS[name] for name in names} | limits(job)


def reason_to_skip(case: Case, name: str, way: Way) -> str:
    if case.every == 1 and name == "POS_FRAMES":
        return "decodes from a keyframe anew for each frame"
    return way.missing


def measure(case: Case, codec: str, path: Path, arena: Arena, turns: int) -> list[Row]:
    """All ways on one recording: checked, then in turns."""
    print(f"{case.name} {codec}", file=sys.stderr)
    job = job_of(case, path, arena)
    truth = truth_of(path, job.wanted)
    rows, runs = [], []
    for name, way in ways_for(case, job).items():
        row = Row(case.name, codec, name, reason_to_skip(case, name, way))
        rows.append(row)
        if row.skipped:
            continue
        seen, seconds = look(way, job)
        row.turns = [seconds]
        row.wrong = flaws(way, seen, job.wanted, truth)
        if row.wrong and way.exact:
            raise AssertionError(f"{case.name} {codec}, {name}: {row.wrong}")
        runs.append((row, partial(way.run, job, drop)))
    take_turns(runs, turns)
    return rows


def measure_whole(case: Case, codec: str, path: Path, arena: Arena, turns: int) -> list[Row]:
    """The whole estimate, recording to PNG. In colour the cassette fills nothing, so both write the plain median."""
    print(f"whole {codec}", file=sys.stderr)
    job = job_of(case, path, arena)
    settings = config(case.every, snap=False).model_copy(update={"device": "cpu"})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole: dict[str, Callable[[], object]] = {
            OURS: lambda: estimate(path, settings).save(folder / "ours"),
            CASSETTE: lambda: cassette.run(path, folder, case.every),
            **{name: partial(way.run, job, drop) for name, way in limits(job).items()},
        }
        runs = [(Row("whole", codec, name, turns=[timed(run)]), run) for name, run in whole.items()]
        mine, theirs = (cv2.imread(str(place / "background_est.png")) for place in (folder / "ours", folder))
        if mine is None or theirs is None or not np.array_equal(mine, theirs):
            raise AssertionError(f"whole {codec}: the backgrounds differ")
        take_turns(runs, turns)
    return [row for row, _ in runs]


def measure_length(case: Case, codec: str, path: Path, size: Size, folder: Path, turns: int) -> list[Row]:
    """As many samples of longer and longer recordings, whose frame i is frame i mod n of the original."""
    print(f"length {codec}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        jobs: dict[str, Job] = {}
        for times in size.lengths:
            longer = lengthened(path, times, Path(name))
            stretched = replace(case, frames=case.frames * times, every=case.every * times)
            jobs[f"{{}} {times}×"] = job_of(stretched, longer, size.arena)
            if can_snap():
                jobs[f"{{}}, keyframes {times}×"] = job_of(replace(stretched, snap=True), longer, size.arena)
        truth = truth_of(path, [index % case.frames for job in jobs.values() for index in job.wanted])
        runs = []
        for label, job in jobs.items():
            expected = {index: truth[index % case.frames] for index in job.wanted}
            for way_name, way in {OURS: WAYS[OURS], "limit": limits(job)["limit, decoders"]}.items():
                seen, seconds = look(way, job)
                if wrong := flaws(way, seen, job.wanted, expected):
                    raise AssertionError(f"length {codec}, {label.format(way_name)}: {wrong}")
                row = Row("length", codec, label.format(way_name), turns=[seconds])
                runs.append((row, partial(way.run, job, drop)))
        take_turns(runs, turns)
    return [row for row, _ in runs]


def machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pyav": av.__version__,
        "decord": _version("decord"),
        "torchcodec": _version("torchcodec"),
        "ffmpeg": _ffmpeg_version(),
        "load_before": os.getloadavg()[0],
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ffmpeg_version() -> str:
    try:
        return subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout.split()[2]
    except FileNotFoundError:
        return "not installed"


def run(size: Size, folder: Path, turns: int, only: str) -> tuple[list[Row], dict[str, int]]:
    """All rows, and the recordings that they are about with their bytes."""
    words = set(only.split())
    rows: list[Row] = []
    used: dict[str, int] = {}

    def chosen(table: str, frames: int) -> dict[str, Path]:
        if not any(words <= {table, codec} for codec in CODECS):
            return {}
        paths = recordings(folder, size.arena, frames)
        found = {codec: path for codec, path in paths.items() if words <= {table, codec}}
        used.update({path.name: path.stat().st_size for path in found.values()})
        return found

    for case in size.cases:
        if case.snap and not can_snap():
            print(f"{case.name}: not run, there is no such setting yet", file=sys.stderr)
            continue
        for codec, path in chosen(case.name, case.frames).items():
            rows += measure(case, codec, path, size.arena, turns)
    sampled = size.cases[0]
    for codec, path in chosen("whole", sampled.frames).items():
        rows += measure_whole(sampled, codec, path, size.arena, turns)
    for codec, path in chosen("length", sampled.frames).items():
        rows += measure_length(sampled, codec, path, size, folder, turns)
    return rows, used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="small recordings, everything once")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--turns", type=int, default=5, help="how many times each; the median counts")
    parser.add_argument("--only", default="", metavar="NAME", help='a table, a codec, or both: "sampled mjpeg"')
    folder = Path(tempfile.gettempdir()) / "bench_recordings"
    parser.add_argument("--recordings", type=Path, default=folder, metavar="DIR", help="keeps what was rendered")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    arguments = parser.parse_args()
    about, size = machine(), QUICK if arguments.quick else FULL
    turns = 0 if arguments.quick else arguments.turns
    rows, used = run(size, arguments.recordings, turns, arguments.only)
    if not rows:
        parser.error(f"--only {arguments.only!r} names no table and no codec")
    found = [] if arguments.quick else targets(rows, TO_READ)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print("\n".join(f"{name}: {bytes_ / 1e6:.2f} MB" for name, bytes_ in used.items()))
    print("\n".join(all_tables(rows, found)))
    if arguments.json:
        figures = {"machine": about, "recordings": used, "rows": [asdict(row) for row in rows]}
        figures["targets"] = [{**asdict(target), "met": target.met} for target in found]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.strict and not all(target.met for target in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
