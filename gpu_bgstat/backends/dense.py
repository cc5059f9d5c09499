"""The densest interval of each column of samples, in CuPy's array operations, for samples of any width."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_bgstat.backends.cuda import cupy
from gpu_bgstat.backends.device_tiles import tiles
from gpu_bgstat.backends.order import sort_rows
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
    ordered = sort_rows(tile, cp)[:count]
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
