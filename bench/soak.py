"""A bounded endurance test: memory stays flat, however many frames come, and however often a camera drops out.

    writer ──pipe──► gpu-bgstat estimate -       20,000 frames, and snapshots while they come
    camera ──http──► gpu-bgstat estimate URL     every connection is cut after some frames

Writer, camera and command are processes of their own, or a server. The memory of the command is measured from outside:
what is anonymous or dirty and resident, by /proc/PID/smaps_rollup. It is measured once the ring is full and some
snapshots are written. From then on the least of a quarter of the measurements may rise by DRIFT_MB from the first to
the last, less than five frames of the pipe; PEAK_MB more is for what a snapshot needs while it is made.
Threads and open files may not become more.

Exit code 1 if anything grew, was lost, or is wrong in the result. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cameras import filming, jpeg_part

from gpu_bgstat.frames import Image

WIDTH, HEIGHT = 640, 480
EVERY, SAMPLES = 2, 100
PICTURES = 9  # different ones, in turns; an odd number, so that sampling every second frame takes all of them
MEASURED_EVERY = 100  # frames
DRIFT_MB = 4.0
PEAK_MB = 24.0
CUT_AFTER = 20  # frames of a live stream
FRAMES_PER_S = 100  # of the camera
COMMAND = [sys.executable, "-m", "gpu_bgstat", "estimate"]


class SoakError(Exception):
    """Something grew, or was lost."""


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20_000, help="from the pipe")
    parser.add_argument("--live", type=float, default=30.0, metavar="SECONDS", help="of the camera that drops out")
    parser.add_argument("--quick", action="store_true", help="4,000 frames and 12 seconds, for the gate")
    parser.add_argument("--write", type=int, metavar="FRAMES", help="be the writer, on standard output")
    given = parser.parse_args()
    if given.write is not None:
        write(given.write)
        return 0
    frames, live_s = (4_000, 12.0) if given.quick else (given.frames, given.live)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        soaks = {
            f"pipe, {frames} frames": partial(soak_pipe, frames, Path(folder) / "pipe"),
            f"camera, {live_s:g} s": partial(soak_camera, live_s, Path(folder) / "live"),
        }
        for name, soak in soaks.items():
            started = time.monotonic()
            try:
                print(f"{name}: {soak()}; {time.monotonic() - started:.1f} s", flush=True)
            except SoakError as error:
                failed = True
                print(f"{name}: FAILED, {error}", flush=True)
    return int(failed)


# --- measuring -----------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Measurements of a process, one after the other."""

    memory_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def look(self, pid: int) -> None:
        process = Path(f"/proc/{pid}")
        rows = [row.split() for row in (process / "smaps_rollup").read_text().splitlines()[1:]]
        kb = {row[0].rstrip(":"): int(row[1]) for row in rows}
        # what is anonymous is nearly all dirty, too: the larger of both, not their sum
        self.memory_mb.append(max(kb["Anonymous"], kb["Private_Dirty"] + kb["Shared_Dirty"]) / 1024)
        self.threads.append(len(list((process / "task").iterdir())))
        self.files.append(len(list((process / "fd").iterdir())))

    def judged(self) -> str:
        """The figures; raises SoakError if anything grew."""
        quarter = len(self.memory_mb) // 4
        if quarter < 2:
            raise SoakError(f"only {len(self.memory_mb)} measurements")
        first, last = slice(quarter), slice(-quarter, None)
        floor, later = (min(self.memory_mb[part]) for part in (first, last))  # between two snapshots
        drift, peak = later - floor, max(self.memory_mb) - floor
        told = (
            f"{floor:.1f} MB in the first quarter of {len(self.memory_mb)} measurements, "
            f"drift to the last {drift:+.2f} MB (bound {DRIFT_MB:g}), peak {peak:+.2f} MB (bound {PEAK_MB:g}), "
            f"{max(self.threads)} threads and {max(self.files)} open files at most"
        )
        more_threads = min(self.threads[last]) > min(self.threads[first])
        more_files = min(self.files[last]) > min(self.files[first])
        if drift > DRIFT_MB or peak > PEAK_MB or more_threads or more_files:
            course = self.memory_mb[:: 1 + len(self.memory_mb) // 40]
            raise SoakError(f"{told}; memory {', '.join(f'{mb:.1f}' for mb in course)} MB")
        return told


def finished(command: subprocess.Popen[Any], folder: Path) -> dict[str, Any]:
    """The report of the command that has ended."""
    if command.wait(60):
        raise SoakError(f"gpu-bgstat ended with {command.returncode}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def expect(name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise SoakError(f"{name} is {found}, not {wanted}")


# --- the pipe ------------------------------------------------------------------------------------------------------


def pictures() -> list[Image]:
    """Noise, so that a frame in the wrong place changes the median."""
    return list(np.random.default_rng(1).integers(0, 256, (PICTURES, HEIGHT, WIDTH, 3), dtype=np.uint8))


def write(frames: int) -> None:
    """Raw frames on standard output; their number on stderr, now and then."""
    data = [picture.tobytes() for picture in pictures()]
    for number in range(frames):
        view = memoryview(data[number % PICTURES])
        while view:
            view = view[os.write(1, view) :]
        if (number + 1) % MEASURED_EVERY == 0:
            os.write(2, f"{number + 1}\n".encode())


def soak_pipe(frames: int, folder: Path) -> str:
    watch, snapshots = Watch(), set[int]()  # the snapshots by their times
    options = ["--size", f"{WIDTH}x{HEIGHT}", "--pix", "bgr24", "--every", str(EVERY), "--max-samples", str(SAMPLES)]
    options += ["--method", "median", "--keep", "recent", "--snapshot-every", str(frames / 40_000), "--quiet"]
    options += ["-o", str(folder)]
    writing = [sys.executable, __file__, "--write", str(frames)]
    with subprocess.Popen(writing, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        with subprocess.Popen([*COMMAND, "-", *options], stdin=writer.stdout) as command:
            writer.stdout.close()  # so that the writer hears of it if the command dies
            for line in writer.stderr:  # a pipe holds less than a frame: that many have been read
                if not line.strip().isdigit():
                    raise SoakError(f"the writer says {line.decode()}")
                snapshots |= {path.stat().st_mtime_ns for path in folder.glob("report.html")}
                if EVERY * SAMPLES < int(line) < frames and len(snapshots) > 2:
                    watch.look(command.pid)
            report = finished(command, folder)
    due = list(range(EVERY - 1, frames, EVERY))[-SAMPLES:]
    expect("frames", report["frames"], {"seen": frames, "sampled": len(due), "damaged": 0, "dropped": 0})
    expect("the last sample", report["samples"][-1]["index"], due[-1])
    expect("snapshot", report["snapshot"], False)
    shown = pictures()
    wanted = np.median([shown[index % PICTURES] for index in due], axis=0).astype(np.uint8)
    found = cv2.imread(str(folder / "background_est.png"))
    if found is None or not np.array_equal(found, wanted):
        raise SoakError("the background is not the median of the samples")
    return f"{watch.judged()}; snapshots took {report['run']['timings_s']['snapshots']:.1f} s; the median is right"


# --- the camera ----------------------------------------------------------------------------------------------------


def soak_camera(seconds: float, folder: Path) -> str:
    watch = Watch()
    command: subprocess.Popen[Any] | None = None

    def film(number: int) -> Iterator[bytes]:
        """Some frames in their time. The first connections fill the ring, and are not looked at."""
        for turn in range(CUT_AFTER):
            if turn % 10 == 5 and number >= 5 and command is not None:
                watch.look(command.pid)
            yield jpeg_part(20 + number % 200, WIDTH, HEIGHT)
            camera.released.wait(1 / FRAMES_PER_S)

    with filming(film) as camera:
        options = ["--duration", str(seconds), "--reconnect", "10", "--every", "1", "--max-samples", str(CUT_AFTER)]
        options += ["--keep", "recent", "--snapshot-every", "0.5", "--quiet", "-o", str(folder)]
        with subprocess.Popen([*COMMAND, camera.url, *options]) as command:
            report = finished(command, folder)
        connections = len(camera.asked)
    gaps = report["run"]["decoding"]["gaps"]
    if not connections - 1 <= gaps + 1 <= connections + 1 or gaps < 3:
        raise SoakError(f"{gaps} gaps in {connections} connections")
    expect("damaged", report["frames"]["damaged"], 0)
    expect("samples", report["frames"]["sampled"], CUT_AFTER)
    dropped = f"{report['frames']['dropped']} of {report['frames']['seen']} frames dropped"
    return f"{gaps} gaps, {dropped}; {watch.judged()}"


if __name__ == "__main__":
    sys.exit(main())
