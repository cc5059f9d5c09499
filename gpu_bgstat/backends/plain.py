"""The reductions in CuPy's array operations alone: the reference on the device, and what runs without our kernels.

Each order statistic is bisected: count the samples that are >= a probe, move the probe, once for each bit. A tile of
values is reduced at a time. Reads each sample 8 or 16 times for each rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_bgstat.backends import dense
from gpu_bgstat.backends.cuda import cuda_errors, cupy
from gpu_bgstat.backends.device_tiles import at, in_own_pool, tiles
from gpu_bgstat.backends.kernels import compiling
from gpu_bgstat.backends.moments import beside_middle, near_middle
from gpu_bgstat.backends.reading import AS_THEY_ARE, Patches, Reading
from gpu_bgstat.config import MAX_SAMPLES_LIMIT

_KEYS_AT_ONCE = 1 << 20  # of 8 bytes, and some arrays like that
_SLOT_BITS = 16
_KEY_BITS = 32 + _SLOT_BITS  # a key and, below it, its slot, so that no two are equal


class Plain:
    """Reduces samples of one type on one device with CuPy alone. Same calls as `Kernels`.

    Each call waits for its result, and needs some tiles of memory meanwhile.
    """

    most_ranks = MAX_SAMPLES_LIMIT

    def __init__(self, device: int, dtype: np.dtype[Any]) -> None:
        """Raises KernelError where CuPy cannot compile its own operations either."""
        self._device, self._dtype = device, dtype
        cp = cupy()
        where = f"gpu:{device}, CuPy's operations"
        with cuda_errors(where), cp.cuda.Device(device), compiling(where):
            in_own_pool(lambda: _reached(cp.zeros((2, 1), dtype), 2))

    def _reduce(self, work: Callable[[], object]) -> None:
        with cuda_errors(f"gpu:{self._device}, reducing"):
            in_own_pool(work)

    def launch(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        ranks: tuple[int, Sequence[int]],
        results: tuple[int, int],
        reading: Reading = AS_THEY_ARE,
    ) -> None:
        count, values = shape
        variance = at(results[0], (values,), np.float32)
        order = at(results[1], (len(ranks[1]), values), self._dtype)

        def work() -> None:
            for part, tile in tiles(samples, shape, self._dtype, reading):
                variance[part] = _variance(tile)
                for row, rank in enumerate(ranks[1]):
                    order[row, part] = _reached(tile, count - rank)

        self._reduce(work)

    def middles(
        self, samples: tuple[int, int], shape: tuple[int, int], patches: Patches, result: int, reading: Reading
    ) -> None:
        cp = cupy()
        order = at(result, (2, shape[1]), self._dtype)

        def work() -> None:
            numbers = at(patches.counts, (patches.total,), np.uint32).astype(np.int64)
            counting = _counted(at(patches.keys, (shape[0], patches.total), np.uint32), numbers)
            for part, tile in tiles(samples, shape, self._dtype, reading, parts=2):
                pixel = (cp.arange(part.start, part.stop) + reading.first) // reading.channels
                line, column = pixel // patches.width, pixel % patches.width
                patch = (line // patches.side - patches.top) * patches.columns + column // patches.side
                number, mask = numbers[patch], counting[:, patch]
                for row, rank in enumerate(((number - 1) // 2, number // 2)):
                    order[row, part] = cp.where(number > 0, _reached(tile, number - rank, mask), 0)

        self._reduce(work)

    def support(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        image: tuple[int, int],
        result: int,
        reading: Reading,
    ) -> None:
        cp = cupy()
        out = at(result, (shape[1],), np.uint16)

        def work() -> None:
            center = at(image[0], (shape[1],), self._dtype).astype(np.int32)
            for part, tile in tiles(samples, shape, self._dtype, reading):
                out[part] = (cp.abs(tile.astype(np.int32) - center[part]) <= image[1]).sum(axis=0, dtype=np.uint16)

        self._reduce(work)

    def modes(self, samples: tuple[int, int], shape: tuple[int, int], span: int, result: int, reading: Reading) -> None:
        out = at(result, (shape[1],), self._dtype)
        self._reduce(lambda: dense.put_modes(samples, shape, span, out, reading))


def _variance(tile: Any) -> Any:
    """As `exact_variance`, from sums in uint64; CuPy's own `var` would truncate the mean of integers."""
    cp = cupy()
    count = len(tile)
    total = tile.sum(axis=0, dtype=np.uint64)
    numerator = cp.square(tile, dtype=np.uint64).sum(axis=0) * np.uint64(count) - total * total
    quotient = numerator / np.float64(count * count)
    beside = beside_middle(numerator, count * count, quotient, cp)
    return cp.where(near_middle(quotient), beside, quotient).astype(np.float32)


def _reached(tile: Any, need: Any, counting: Any = None, bits: int | None = None) -> Any:
    """The largest v that at least `need` of the samples (T, V) reach, found bit by bit; `counting` says of which."""
    cp = cupy()
    found = cp.zeros(tile.shape[1], tile.dtype)
    for bit in reversed(range(8 * tile.itemsize if bits is None else bits)):
        probe = found | tile.dtype.type(1 << bit)
        hits = tile >= probe
        reached = (hits if counting is None else hits & counting).sum(axis=0, dtype=np.uint32) >= need
        found = cp.where(reached, probe, found)
    return found


def _counted(keys: Any, numbers: Any) -> Any:
    """Which samples count (T, P), from keys (T, P) and how many: as `cpu.counted`. Some patches at a time."""
    cp = cupy()
    count, total = keys.shape
    out = cp.empty(keys.shape, np.bool_)
    slots = cp.arange(count, dtype=np.uint64)[:, None]
    width = max(1, _KEYS_AT_ONCE // count)
    for start in range(0, total, width):
        part = slice(start, start + width)
        whole = keys[:, part].astype(np.uint64) << np.uint64(_SLOT_BITS) | slots
        last = _reached(whole, count + 1 - numbers[part], bits=_KEY_BITS)
        out[:, part] = (whole <= last) & (numbers[part] > 0)
    return out
