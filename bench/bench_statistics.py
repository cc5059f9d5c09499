"""Median and variance over a block of samples: this package's CPU path against the usual ways, in one run.

    python bench/bench_statistics.py [--quick] [--json FILE] [--rounds 3]

Every peer is checked first: medians, truncated to the sample type, must be equal, and variances near those in
float64. Then all take turns. Speeds are sample bytes per second, beside what all cores together read from memory
in the same run. Peak memory is measured in a process of its own for each, over the block itself.
--quick: tiny blocks, everything once; it shows that the benchmark works, its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.tiles import cores, reduce

try:
    import bottleneck
except ImportError:
    bottleneck = None

Samples = NDArray[Any]  # (T, V) uint8 or uint16
Result = tuple[NDArray[Any], NDArray[Any]]  # median truncated to the sample type (V,), variance (V,)

SLOW_S = 5.0  # what takes longer is not repeated
CHECKED = 50_000  # values whose variance is checked in float64


@dataclass(frozen=True)
class Case:
    """`shape` is (T, H, W[, C]); content `arena` or `uniform`."""

    shape: tuple[int, ...]
    dtype: str = "uint8"
    content: str = "arena"
    memory: bool = False  # measure the peak memory, too

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.dtype} {self.content}"

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


CASES = [
    Case((600, 480, 640, 3), memory=True),
    Case((600, 480, 640, 3), content="uniform"),
    Case((600, 480, 640), "uint16"),
    Case((2, 480, 640)),
    Case((101, 480, 640)),
    Case((600, 480, 640)),
    Case((2000, 480, 640)),
    Case((600, 1080, 1920), memory=True),
    Case((50, 2160, 3840, 3), memory=True),
]
QUICK = [
    Case((30, 48, 64, 3), memory=True),
    Case((40, 48, 65), content="uniform"),
    Case((21, 40, 41), "uint16"),
    Case((2, 30, 31)),
]


@dataclass
class Row:
    """One method on one case; `skipped` says why there are no figures."""

    case: str
    method: str
    skipped: str = ""
    seconds: float = math.nan
    rounds: list[float] = field(default_factory=list)
    times_faster: float = math.nan  # than the cassette's formula
    gb_per_s: float = math.nan
    share_of_reading: float = math.nan
    peak_over_block: float = math.nan
    variance_error: float = math.nan  # the largest, relative to float64


def block_of(case: Case) -> Samples:
    """A block that needs no more memory than itself while it is made."""
    rng = np.random.default_rng(7)
    if case.content == "uniform":
        return rng.integers(0, np.iinfo(case.dtype).max + 1, (case.shape[0], values_of(case)), case.dtype)
    return arena(case, rng)


def values_of(case: Case) -> int:
    return math.prod(case.shape[1:])


def arena(case: Case, rng: np.random.Generator) -> Samples:
    """A static texture, noise with a deviation of 2/256 of the range, and eight dark discs that wander."""
    count, height, width = case.shape[:3]
    values = values_of(case)
    texture = rng.integers(60 << 8, 200 << 8, values, np.uint16)
    noise = np.rint(rng.normal(0, 2 * 256, values + 9973)).astype(np.int16).view(np.uint16)
    places = rng.uniform(0, 1, (8, 2))
    block = np.empty((count, values), case.dtype)
    for row in block:
        start = int(rng.integers(9973))
        level = texture + noise[start : start + values]
        image = level.reshape(case.shape[1:])
        places = (places + rng.normal(0, 0.02, places.shape)) % 1
        for y, x in places:
            radius = max(2, height // 40)
            cv2.circle(image, (int(x * width), int(y * height)), radius, (20 << 8,) * 3, -1)
        row[:] = level >> 8 if block.dtype == np.uint8 else level
    return block


def ours(block: Samples) -> Result:
    variance, (low, high) = reduce(block, [(len(block) - 1) // 2, len(block) // 2])
    return (low & high) + ((low ^ high) >> 1), variance


def cassette(block: Samples) -> Result:
    """The original's formula: a list of frames, stacked, as float32."""
    stack = np.stack(list(block)).astype(np.float32)
    return np.median(stack, axis=0).astype(block.dtype), np.var(stack, axis=0)


def numpy_types(block: Samples) -> Result:
    """NumPy without the float copy of the stack: median of the samples as they are, variance in float32."""
    return np.median(block, axis=0).astype(block.dtype), np.var(block, axis=0, dtype=np.float32)


def with_bottleneck(block: Samples) -> Result:
    """Bottleneck is fast in floats only, so that it gets float32."""
    stack = block.astype(np.float32)
    return bottleneck.median(stack, axis=0).astype(block.dtype), bottleneck.nanvar(stack, axis=0)


@dataclass(frozen=True)
class Method:
    run: Callable[[Samples], Result]
    bytes_per_sample: int  # of memory besides the block, about
    tolerance: float  # of the variance, relative


METHODS = {
    "gpu_bgstat": Method(ours, 1, 6.1e-8),  # half a float32 unit: rounded once
    "cassette's formula": Method(cassette, 9, 1e-3),  # float32 sums over all samples
    "numpy, sample type": Method(numpy_types, 6, 1e-3),
    "bottleneck, float32": Method(with_bottleneck, 9, 1e-3),
}
PEER = "cassette's formula"


def reason_to_skip(method: str, case: Case) -> str:
    if method.startswith("bottleneck") and bottleneck is None:
        return "bottleneck is not installed"
    needed = METHODS[method].bytes_per_sample * math.prod(case.shape)
    if needed > 0.9 * available_bytes():
        return f"needs {needed / 1e9:.0f} GB, {available_bytes() / 1e9:.0f} GB are free"
    return ""


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable: run this benchmark on Linux")


def timed(run: Callable[[Samples], Any], block: Samples) -> float:
    start = time.perf_counter()
    run(block)
    return time.perf_counter() - start


def read_all(block: Samples) -> None:
    """Reads every byte once, on all cores: the fastest that anything here could be."""
    words = block.reshape(-1).view(np.uint8)
    words = words[: len(words) // 8 * 8].view(np.uint64)
    step = min(len(words) // cores() + 1, 1 << 17)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda start: words[start : start + step].max(), range(0, len(words), step)))


def check(case: Case, block: Samples, rows: list[Row]) -> None:
    """First results: equal medians, variances near float64. Slow methods are timed by this run alone."""
    medians: dict[str, NDArray[Any]] = {}
    expected = np.var(block[:, :CHECKED], axis=0, dtype=np.float64)
    for row in rows:
        row.skipped = reason_to_skip(row.method, case)
        if row.skipped:
            continue
        print(f"  checking {row.method}", file=sys.stderr)
        start = time.perf_counter()
        medians[row.method], variance = METHODS[row.method].run(block)
        row.rounds = [time.perf_counter() - start]
        error = np.abs(variance[:CHECKED] - expected) / np.maximum(expected, 1e-9)
        row.variance_error = float(error.max())
        if row.variance_error > METHODS[row.method].tolerance:
            raise AssertionError(f"{case.name}: the variance of {row.method} is {row.variance_error:.1e} off")
        if not np.array_equal(medians[row.method], next(iter(medians.values()))):
            raise AssertionError(f"{case.name}: the median of {row.method} differs")


def measure(case: Case, rounds: int, quick: bool) -> list[Row]:
    """All methods on one case, in turns."""
    print(case.name, file=sys.stderr)
    block = block_of(case)
    rows = [Row(case.name, method) for method in METHODS]
    reading = [timed(read_all, block)]
    check(case, block, rows)
    repeated = [row for row in rows if row.rounds and row.rounds[0] < SLOW_S and not quick]
    for row in repeated:
        row.rounds = []
    for _ in range(rounds if repeated else 0):
        reading.append(timed(read_all, block))
        for row in repeated:
            row.rounds.append(timed(METHODS[row.method].run, block))
    del block
    fill(case, rows, min(reading))
    return rows


def fill(case: Case, rows: list[Row], reading: float) -> None:
    """Figures from the rounds, and the peak memory from processes of their own."""
    peer = next(row for row in rows if row.method == PEER)
    for row in rows:
        if row.rounds:
            row.seconds = statistics.median(row.rounds)
            row.gb_per_s = case.bytes / row.seconds / 1e9
            row.share_of_reading = reading / row.seconds
            if case.memory:
                print(f"  peak memory of {row.method}", file=sys.stderr)
                row.peak_over_block = peak_memory(case, row.method)
    for row in rows:
        if row.rounds and peer.rounds:
            row.times_faster = statistics.median(peer.rounds) / row.seconds


def peak_memory(case: Case, method: str) -> float:
    """Bytes at the peak beyond the block, per block byte, in a fresh process."""
    command = [sys.executable, __file__, "--peak", json.dumps([asdict(case), method])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / case.bytes


def print_peak(request: str) -> None:
    case, method = json.loads(request)
    block = block_of(Case(**{**case, "shape": tuple(case["shape"])}))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: ru_maxrss would start at the parent's
    before = _status_bytes("VmRSS")
    METHODS[method].run(block)
    print(_status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: run this benchmark on Linux")


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| samples | method | s | times the formula | GB/s | of reading | peak over the block |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row.skipped:
            lines.append(f"| {row.case} | {row.method} | not run: {row.skipped} | | | | |")
            continue
        once = "" if len(row.rounds) > 1 else " (once)"
        ratio = "" if math.isnan(row.times_faster) else f"{row.times_faster:.1f}"
        peak = "" if math.isnan(row.peak_over_block) else f"{row.peak_over_block:.2f}"
        figures = f"{row.seconds:.3f}{once} | {ratio} | {row.gb_per_s:.2f} | {row.share_of_reading:.0%} | {peak}"
        lines.append(f"| {row.case} | {row.method} | {figures} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "bottleneck": bottleneck.__version__ if bottleneck else "not installed",
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny blocks, everything once")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3, help="how many times each; the median counts")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak)
        return
    about = machine()
    rows: list[Row] = []
    for case in QUICK if arguments.quick else CASES:
        rows += measure(case, arguments.rounds, arguments.quick)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(table(rows))
    if arguments.json:
        figures = [{key: value for key, value in asdict(row).items() if str(value) != "nan"} for row in rows]
        arguments.json.write_text(json.dumps({"machine": about, "rows": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
