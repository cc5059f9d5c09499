"""Variance and order statistics of a block of samples, exact, in plain NumPy and OpenCV, on all cores.

    block  (T, V)   T samples of V values
    ┌──────┬──────┬──────┐
    │strip │strip │strip │ ...   all samples of some thousand values; one thread reduces one strip at a time
    └──────┴──────┴──────┘

`moments` adds up, `order` finds the order statistics, `selection` those of chosen samples, `density` what lies near a
value; `lighting` brings samples to a common light before.

Threads run in parallel only inside calls of NumPy and OpenCV, and to hand over Python's lock costs as much as
some 100 kB of work. Hence strips and chunks larger than the first caches.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Choice
from gpu_bgstat.backends.density import densest, near
from gpu_bgstat.backends.lighting import Lighting
from gpu_bgstat.backends.moments import Samples, Singles, exact_variance, moments
from gpu_bgstat.backends.order import order_statistics
from gpu_bgstat.backends.selection import Stretch, middle_two, stretches
from gpu_bgstat.config import MAX_SAMPLES_LIMIT
from gpu_bgstat.frames import FrameSpec

Piece = TypeVar("Piece")

_STRIP_VALUES = 3 << 14  # 7 MB of working memory a thread
_STRIP_BYTES = 1 << 26  # about 0.1 s of work: how long an interrupt waits


def reduce(
    block: Samples,
    ranks: Sequence[int],
    threads: int | None = None,
    *,
    lighting: Lighting | None = None,
    slots: Sequence[int] | None = None,
    first: int = 0,
) -> tuple[Singles, Samples]:
    """Variance (V,) and order statistics (R, V) over the samples of block (T, V) uint8 or uint16, T <= 65535.

    lighting  applied to each sample before
    slots     only these samples; the ranks are among them
    first     the place of the block's first value in the frame

    The variance is (T * sum(x**2) - sum(x)**2) / T**2, rounded once to float32. Row r of the order statistics
    is row ranks[r] of the block sorted over T. Needs about 8 MB per thread besides the results. ValueError for
    a block of another kind, for rows that are not contiguous, and for a rank outside 0 .. T-1.
    """
    count = len(block) if slots is None else len(slots)
    _check(block, count, ranks)
    values = block.shape[1]
    variance = np.empty(values, np.float32)
    order = np.empty((len(ranks), values), block.dtype)

    def work(part: slice) -> None:
        strip = block[:, part]
        if lighting is not None:
            strip = lighting(strip, first + part.start)
        if slots is not None:
            strip = strip[slots]
        variance[part] = exact_variance(count, *moments(strip))
        order_statistics(strip, ranks, order[:, part])

    threads = threads or cores()
    _run(work, _parts(block, threads), threads)
    return variance, order


def select(
    block: Samples, choice: Choice, spec: FrameSpec, lighting: Lighting | None = None, first: int = 0
) -> Samples:
    """The two middle ranks (2, V) of the samples that count, of block (T, V), which begins at value `first`."""
    count, values = block.shape
    order = np.zeros((2, values), block.dtype)

    def work(stretch: Stretch) -> None:
        part = slice(stretch.start - first, stretch.stop - first)
        middle_two(block[:, part], stretch, spec, choice, lighting, order[:, part])

    _run(work, stretches(range(first, first + values), spec, choice.patch, count), cores())
    return order


def support(
    block: Samples, image: Samples, tolerance: int, lighting: Lighting | None = None, first: int = 0
) -> NDArray[np.uint16]:
    """How many samples of block (T, V) are within `tolerance` of the image (V,): (V,)."""
    counts = np.empty(len(image), np.uint16)

    def work(part: slice) -> None:
        strip = block[:, part] if lighting is None else lighting(block[:, part], first + part.start)
        counts[part] = near(strip, image[part], tolerance)

    _run(work, _parts(block, cores()), cores())
    return counts


def modes(block: Samples, width: int, lighting: Lighting | None = None, first: int = 0) -> Samples:
    """The lower middle sample of the densest interval of `width` levels, of block (T, V): (V,)."""
    out = np.empty(block.shape[1], block.dtype)

    def work(part: slice) -> None:
        strip = block[:, part] if lighting is None else lighting(block[:, part], first + part.start)
        out[part] = densest(strip, width)

    _run(work, _parts(block, cores()), cores())
    return out


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(block: Samples, count: int, ranks: Sequence[int]) -> None:
    if block.ndim != 2 or block.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"block is {block.dtype} {block.shape}: give (T, V) uint8 or uint16")
    values = block.shape[1]
    if not 1 <= count <= MAX_SAMPLES_LIMIT or values < 1:
        raise ValueError(f"block is {count} samples of {values} values: give 1 to {MAX_SAMPLES_LIMIT} of 1 or more")
    if (values > 1 and block.strides[1] != block.itemsize) or block.strides[0] < values * block.itemsize:
        raise ValueError(f"block has strides {block.strides}: give rows that are contiguous and in order")
    if any(not 0 <= rank < count for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} of {count} samples: give ranks in 0 .. {count - 1}")


def _parts(block: Samples, threads: int) -> list[slice]:
    """The columns of each strip: within the limits, and some strips for each thread to even out."""
    count, values = block.shape
    share = max(1024, math.ceil(values / (4 * threads)))
    width = min(share, _STRIP_VALUES, max(256, _STRIP_BYTES // (count * block.itemsize)))
    return [slice(start, min(start + width, values)) for start in range(0, values, width)]


def _run(work: Callable[[Piece], None], parts: Sequence[Piece], threads: int) -> None:
    """Every part once. An exception, Ctrl-C as well, waits only for the parts that have begun."""
    pool = ThreadPoolExecutor(min(threads, len(parts)), thread_name_prefix="bgstat")
    try:
        for future in [pool.submit(work, part) for part in parts]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
