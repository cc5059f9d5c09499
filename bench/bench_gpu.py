"""The GPU path: how fast samples go up, and how fast they are reduced, beside CuPy, PyTorch and our CPU path.

   python bench/bench_gpu.py [--quick] [--json FILE] [--device N]

Results are compared with the CPU's before anything is timed. Times on the device are those of its own events. Speeds
are sample bytes per second, beside what a copy of pinned memory reaches (uploads) and what a copy on the device reads
and writes (reductions). On the CUDA stand-in, or with --quick, blocks are tiny: that checks results and tells no times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends import checkup, cuda, tiles
from gpu_bgstat.backends.gpu import GpuBackend
from gpu_bgstat.frames import FrameSpec

try:
    import torch
except ImportError:
    torch = None

STANDIN = "CUDA_STANDIN_HOME" in os.environ
CASES = [
    (count, (*size, 3), dtype)
    for dtype in ("uint8", "uint16")
    for count, size in ((600, (480, 640)), (600, (1080, 1920)), (300, (2160, 3840)))
]
QUICK = [(20, (9, 17, 3), "uint8"), (21, (8, 16, 3), "uint16")]
MB = 1 << 20


@dataclass
class Row:
    """One method on one case; NaN where it was not run, and `note` says why."""

    case: str
    method: str
    seconds: float = math.nan
    gb_per_s: float = math.nan
    share: float = math.nan  # of the copy beside it
    note: str = ""


def samples(count: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """(T, H, W, 3): a texture and noise, in parts, so that no more memory than the block itself is needed."""
    rng = np.random.default_rng(3)
    top = np.iinfo(dtype).max
    texture = rng.integers(top // 4, top * 3 // 4, shape, dtype)
    noise = rng.normal(0, max(2, top / 500), (math.prod(shape) + 4099,)).astype(np.int32)
    block = np.empty((count, *shape), dtype)
    for frame in block:
        start = int(rng.integers(4099))
        frame[...] = np.clip(texture + noise[start : start + texture.size].reshape(shape), 0, top)
    return block


def check(name: str, want: tuple[NDArray[Any], ...], got: tuple[NDArray[Any], ...]) -> None:
    for what, ours, theirs in zip(("variance", "ranks"), want, got, strict=True):
        if not np.array_equal(ours, theirs):
            raise AssertionError(f"{name}: the {what} differ from the CPU's in {(ours != theirs).sum()} values")


def through_the_store(gpu: cuda.Gpu, frames: NDArray[Any], want: tuple[NDArray[Any], ...], name: str) -> list[Row]:
    """What a user meets: every frame put, and reduced with its results on the host, by the wall clock."""
    spec, count = FrameSpec.of(frames[0]), len(frames)
    ranks = [(count - 1) // 2, count // 2]
    runtime = cuda.cupy().cuda.runtime
    with closing(GpuBackend([gpu], "bench").store(count, spec)) as store, cuda.cupy().cuda.Device(gpu.index):
        pushes, reductions = [], []
        for _ in range(4):
            started = time.perf_counter()
            for slot, frame in enumerate(frames):
                store.put(slot, frame)
            runtime.deviceSynchronize()
            pushed = time.perf_counter()
            reduced = store.reduce(count, ranks)
            reductions.append(time.perf_counter() - pushed)
            pushes.append(pushed - started)
        check(f"{name} {store.name}", want, (reduced.variance.reshape(-1), reduced.ranks.reshape(2, -1)))
        rows = [Row(name, "push", statistics.median(pushes[1:]), note=store.name)]
    return [*rows, Row(name, "reduce, results on the host", statistics.median(reductions[1:]))]


def by_events(gpu: cuda.Gpu, frames: NDArray[Any], want: tuple[NDArray[Any], ...], name: str) -> list[Row]:
    """Our kernels, CuPy alone, `cupy.var` + `cupy.median`, torch: on the device, without copies to the host."""
    block = frames.reshape(len(frames), -1)
    ranks = [(len(block) - 1) // 2, len(block) // 2]
    rows = []
    try:
        with checkup.bench(gpu.index, block) as here:
            for method, make in checkup.ENGINES.items():
                engine = make(gpu.index, block.dtype)
                check(f"{name} {method}", want, here.reduce(engine, ranks))
                rows.append(Row(name, method, checkup.milliseconds(here.queue(engine, ranks), 3) / 1e3))
    except cuda.OutOfDeviceMemoryError as error:
        rows.append(Row(name, "by events", note=f"does not fit the device: {error}"))
    for method, prepare in PEERS.items():
        try:
            with cuda.cuda_errors(method), cuda.cupy().cuda.Device(gpu.index):
                rows.append(Row(name, method, checkup.milliseconds(prepare(block, gpu.index), 3, 1) / 1e3))
        except (cuda.OutOfDeviceMemoryError, MemoryError):
            rows.append(Row(name, method, note="needs more memory than the device has"))
        except (NotImplementedError, RuntimeError, TypeError) as error:
            rows.append(Row(name, method, note=str(error).splitlines()[0]))
        cuda.cupy().get_default_memory_pool().free_all_blocks()
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def with_cupy(block: NDArray[Any], device: int) -> Callable[[], Any]:
    """Uploads the block, and returns what is timed."""
    cp = cuda.cupy()
    there = cp.asarray(block)

    def run() -> Any:
        return there.astype(np.float32).var(axis=0), cp.median(there, axis=0)

    return run


def with_torch(block: NDArray[Any], device: int) -> Callable[[], Any]:
    if torch is None:
        raise NotImplementedError("torch is not installed")
    there = torch.from_numpy(block).to(f"cuda:{device}").float()

    def run() -> Any:
        with torch.cuda.stream(torch.cuda.ExternalStream(cuda.cupy().cuda.get_current_stream().ptr)):
            return torch.var(there, 0, correction=0), torch.median(there, 0)

    return run


PEERS = {"cupy.var + cupy.median": with_cupy, "torch.var + torch.median": with_torch}


def measure(gpu: cuda.Gpu, count: int, shape: tuple[int, ...], dtype: str) -> list[Row]:
    name = f"{count}x{'x'.join(map(str, shape))} {dtype}"
    print(name, file=sys.stderr)
    frames = samples(count, shape, dtype)
    block = frames.reshape(count, -1)
    started = time.perf_counter()
    want = tiles.reduce(block, [(count - 1) // 2, count // 2])
    on_cpu = time.perf_counter() - started
    rows = through_the_store(gpu, frames, want, name) + by_events(gpu, frames, want, name)
    rows.append(Row(name, f"our CPU path, {tiles.cores()} cores", on_cpu))
    rates = checkup.rates(gpu.index, min(block.nbytes, 256 * MB))
    for row in rows:
        row.gb_per_s = block.nbytes / row.seconds / 1e9
        row.share = row.gb_per_s / (rates.upload if row.method == "push" else rates.copy)
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| samples | method | s | GB/s | of the copy | |", "|---|---|--:|--:|--:|---|"]
    for row in rows:
        figures = " | | " if math.isnan(row.seconds) else f"{row.seconds:.5f} | {row.gb_per_s:.2f} | {row.share:.0%}"
        lines.append(f"| {row.case} | {row.method} | {figures} | {row.note} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny blocks")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--device", type=int, help="its number; by default the one with the most free memory")
    arguments = parser.parse_args()
    there = cuda.visible()
    gpu = next(gpu for gpu in there if arguments.device in (None, gpu.index))
    tiny = arguments.quick or STANDIN
    kind = "a check of results, not of speed" if tiny else "measured on a device"
    print(f"{gpu}, compute capability {gpu.compute_capability}, CuPy {cuda.cupy().__version__}: {kind}")
    rows: list[Row] = []
    for case in QUICK if tiny else CASES:
        found = measure(gpu, *case)
        rows += [Row(row.case, row.method, note=row.note or "equal to the CPU's") for row in found] if tiny else found
        if arguments.json:  # after each case: hours of measuring are not lost to the last one
            figures = [{key: value for key, value in asdict(row).items() if str(value) != "nan"} for row in rows]
            about = {"device": gpu.name, "compute_capability": gpu.compute_capability, "kind": kind}
            arguments.json.write_text(json.dumps({**about, "rows": figures}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
