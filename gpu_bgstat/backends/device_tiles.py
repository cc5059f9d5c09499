"""Samples on a device as CuPy arrays, a tile of values at a time, so that nothing is widened or sorted whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpu_bgstat.backends.cuda import cupy
from gpu_bgstat.backends.reading import Reading, sum_type

_TILE_BYTES = 1 << 24  # of samples; eight times as much while they are squared


def in_own_pool(work: Callable[[], object]) -> None:
    """Does what takes its memory from a pool that ends with it, and waits for the current stream.

    A function, because arrays that outlive their pool would leave it their memory when nobody empties it any more.
    """
    pool = cupy().cuda.MemoryPool()
    try:
        with cupy().cuda.using_allocator(pool.malloc):
            work()
            cupy().cuda.get_current_stream().synchronize()
    finally:
        pool.free_all_blocks()


def at(address: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, int] | None = None) -> Any:
    """Memory that others own, as an array."""
    cp = cupy()
    size = shape[0] * strides[0] if strides else int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = cp.cuda.UnownedMemory(address, size, None)
    return cp.ndarray(shape, dtype, cp.cuda.MemoryPointer(memory, 0), strides)


def tiles(
    samples: tuple[int, int], shape: tuple[int, int], dtype: np.dtype[Any], reading: Reading, parts: int = 1
) -> Iterator[tuple[slice, Any]]:
    """(values, their samples (count, V)) in turn; arguments as `Kernels.launch`.

    parts  how many times smaller the tiles are than where eight times a tile is needed besides
    """
    (address, pitch), (count, values) = samples, shape
    # A plan leaves a sixteenth of the memory alone, so that ten times a tile is free.
    parts *= 4 if reading.light else 1
    tile_bytes = min(_TILE_BYTES, cupy().cuda.runtime.memGetInfo()[0] // 32) // parts
    width = max(1, tile_bytes // (count * dtype.itemsize))
    rows = at(reading.rows, (count,), np.uint32) if reading.rows else None
    height = count if rows is None else int(rows.max()) + 1
    for start in range(0, values, width):
        part = slice(start, min(start + width, values))
        where = address + start * dtype.itemsize
        tile = at(where, (height, part.stop - start), dtype, (pitch, dtype.itemsize))
        if rows is not None:
            tile = tile[rows]
        yield part, _lit(tile, reading, reading.first + start) if reading.light else tile


def _lit(tile: Any, reading: Reading, first: int) -> Any:
    """As `cpu.lit`; `first` is the number of the tile's first value in the frame."""
    cp, channels = cupy(), reading.channels
    table = at(reading.light, (len(tile), channels, 2), sum_type(tile.dtype))
    out = cp.empty_like(tile)
    for channel in range(channels):
        those = slice((channel - first) % channels, None, channels)
        sums = table[:, channel, 0, None] * tile[:, those] + table[:, channel, 1, None]
        out[:, those] = (sums >> 16).clip(0, np.iinfo(tile.dtype).max)
    return out
