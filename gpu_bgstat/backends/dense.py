"""The densest interval of each column of samples, in CuPy's array operations, for samples of any width."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_bgstat.backends.cuda import cupy
from gpu_bgstat.backends.device_tiles import tiles
from gpu_bgstat.backends.reading import Reading

_PARTS = 16  # a tile is so many times smaller than others: positions of 8 bytes are kept for each sample


def put_modes(samples: tuple[int, int], shape: tuple[int, int], span: int, out: Any, reading: Reading) -> None:
    """Fills `out` (V,), tile by tile; arguments as `Kernels.launch`."""
    for part, tile in tiles(samples, shape, out.dtype, reading, _PARTS):
        out[part] = modes(tile, span)


def modes(tile: Any, span: int) -> Any:
    """(V,) from samples (T, V), as `cpu.modes`. Of samples of one value, the first one's interval is the densest."""
    cp = cupy()
    count = len(tile)
    ordered = _sorted(tile)
    above = ordered.astype(np.int32) + span
    end = cp.zeros(tile.shape, np.int64)  # how many samples lie below the interval's end, found bit by bit
    for bit in reversed(range(count.bit_length())):
        probe = end + (1 << bit)
        last = cp.take_along_axis(ordered, cp.minimum(probe, count) - 1, axis=0)
        end = cp.where((probe <= count) & (last < above), probe, end)
    inside = end - cp.arange(count)[:, None]
    first = inside.argmax(axis=0)[None]  # of equal ones the lowest
    most = cp.take_along_axis(inside, first, axis=0)
    return cp.take_along_axis(ordered, first + (most - 1) // 2, axis=0)[0]


def _sorted(tile: Any) -> Any:
    """Each column sorted, by Batcher's merge exchange (Knuth, vol. 3, 5.2.2 M): a few operations on whole rows."""
    cp = cupy()
    count, width = tile.shape
    size = 1 << (count - 1).bit_length()
    out = cp.full((size, width), np.iinfo(tile.dtype).max, tile.dtype)
    out[:count] = tile
    p = size // 2
    while p:
        pairs = out.reshape(size // (2 * p), 2, p, width)
        _exchange(pairs[:, 0], pairs[:, 1])
        q = size // 2
        while q > p:
            _exchange(pairs[: len(pairs) - q // (2 * p), 1], pairs[q // (2 * p) :, 0])
            q //= 2
        p //= 2
    return out[:count]


def _exchange(low: Any, high: Any) -> None:
    cp = cupy()
    lower = cp.minimum(low, high)
    cp.maximum(low, high, out=high)
    low[...] = lower
