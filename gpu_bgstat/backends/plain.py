"""The reductions in CuPy's array operations alone: the reference on the device, and what runs without our kernels.

Each order statistic is bisected: count the samples that are >= a probe, move the probe, once for each bit. A tile of
values is reduced at a time, so that nothing is widened or sorted whole. Reads each sample 8 or 16 times for each rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_bgstat.backends.cuda import cuda_errors, cupy
from gpu_bgstat.backends.kernels import compiling
from gpu_bgstat.backends.moments import beside_middle, near_middle
from gpu_bgstat.config import MAX_SAMPLES_LIMIT

_TILE_BYTES = 1 << 24  # of samples; eight times as much while they are squared


class Plain:
    """Reduces samples of one type on one device with CuPy alone. Same calls as `Kernels`."""

    most_ranks = MAX_SAMPLES_LIMIT

    def __init__(self, device: int, dtype: np.dtype[Any]) -> None:
        """Raises KernelError where CuPy cannot compile its own operations either."""
        self._device, self._dtype = device, dtype
        cp = cupy()
        where = f"gpu:{device}, CuPy's operations"
        with cuda_errors(where), cp.cuda.Device(device), compiling(where), _own_pool():
            _order_statistic(cp.zeros((2, 1), dtype), 0)

    def launch(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        ranks: tuple[int, Sequence[int]],
        results: tuple[int, int],
    ) -> None:
        """As `Kernels.launch`, but waits for the result, and needs some tiles of memory meanwhile."""
        cp = cupy()
        (address, pitch), (count, values) = samples, shape
        variance = _at(results[0], (values,), np.float32)
        order = _at(results[1], (len(ranks[1]), values), self._dtype)
        # Its arrays take ten times a tile; a plan leaves a sixteenth of the memory alone, so that this much is free.
        tile_bytes = min(_TILE_BYTES, cp.cuda.runtime.memGetInfo()[0] // 32)
        width = max(1, tile_bytes // (count * self._dtype.itemsize))
        with cuda_errors(f"gpu:{self._device}, reducing"), _own_pool():
            for start in range(0, values, width):
                part = slice(start, min(start + width, values))
                at = address + start * self._dtype.itemsize
                tile = _at(at, (count, part.stop - start), self._dtype, (pitch, self._dtype.itemsize))
                variance[part] = _variance(tile)
                for row, rank in enumerate(ranks[1]):
                    order[row, part] = _order_statistic(tile, rank)
            cp.cuda.get_current_stream().synchronize()


@contextmanager
def _own_pool() -> Iterator[None]:
    """Arrays made inside take their memory from a pool that ends with the block."""
    pool = cupy().cuda.MemoryPool()
    try:
        with cupy().cuda.using_allocator(pool.malloc):
            yield
    finally:
        pool.free_all_blocks()


def _at(address: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, int] | None = None) -> Any:
    """Memory that others own, as an array."""
    cp = cupy()
    size = shape[0] * strides[0] if strides else int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = cp.cuda.UnownedMemory(address, size, None)
    return cp.ndarray(shape, dtype, cp.cuda.MemoryPointer(memory, 0), strides)


def _variance(tile: Any) -> Any:
    """As `exact_variance`, from sums in uint64; CuPy's own `var` would truncate the mean of integers."""
    cp = cupy()
    count = len(tile)
    total = tile.sum(axis=0, dtype=np.uint64)
    numerator = cp.square(tile, dtype=np.uint64).sum(axis=0) * np.uint64(count) - total * total
    quotient = numerator / np.float64(count * count)
    beside = beside_middle(numerator, count * count, quotient, cp)
    return cp.where(near_middle(quotient), beside, quotient).astype(np.float32)


def _order_statistic(tile: Any, rank: int) -> Any:
    """The largest v that at least T - rank samples reach, found bit by bit."""
    cp = cupy()
    need = len(tile) - rank
    found = cp.zeros(tile.shape[1], tile.dtype)
    for bit in reversed(range(8 * tile.itemsize)):
        probe = found | tile.dtype.type(1 << bit)
        reached = (tile >= probe).sum(axis=0, dtype=np.uint32) >= need
        found = cp.where(reached, probe, found)
    return found
