"""The two middle ranks of the samples that count in each patch of the frame, in NumPy.

    row of patches   keys (T, PW) ──the least──► slots (K, PW)
    samples (T, R, PW, p·C) ──gathered──► (K, R, PW, p·C) ──`order`──► two ranks

Patches in which fewer samples count than in others of their row are filled up with zeros and with the highest value, as
many as keep the middle in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Choice
from gpu_bgstat.backends.lighting import Lighting
from gpu_bgstat.backends.moments import Samples
from gpu_bgstat.backends.order import order_statistics
from gpu_bgstat.frames import FrameSpec

_GATHERED_BYTES = 1 << 23


@dataclass(frozen=True)
class Stretch:
    """Values [start, stop) of a frame, within one row of patches; whole rows of pixels or a part of one."""

    start: int
    stop: int
    patch_row: int


def stretches(values: range, spec: FrameSpec, patch: int, count: int) -> list[Stretch]:
    """The values cut at each row of patches, and so that whole rows of pixels stay together where memory allows."""
    across = spec.width * spec.channels
    most = max(1, _GATHERED_BYTES // (count * across * spec.dtype.itemsize))  # rows of pixels
    cut = []
    start = values.start
    while start < values.stop:
        row, beside = divmod(start, across)
        last = row + 1 if beside else min((row // patch + 1) * patch, row + most, values.stop // across)
        stop = min(max(last, row + 1) * across, values.stop)
        cut.append(Stretch(start, stop, row // patch))
        start = stop
    return cut


def middle_two(
    block: Samples, stretch: Stretch, spec: FrameSpec, choice: Choice, lighting: Lighting | None, out: Samples
) -> None:
    """The ranks of one stretch, whose samples are block (T, stop - start), into out (2, stop - start), cleared."""
    counts = choice.counts[stretch.patch_row]
    if not counts.any():
        return
    if lighting is not None:
        block = lighting(block, stretch.start)
    if 2 * np.count_nonzero(counts == len(block)) > len(counts):  # nothing need be gathered for most
        order_statistics(block, ((len(block) - 1) // 2, len(block) // 2), out)
        out[:, _places(stretch, spec, choice.patch, counts == 0)] = 0
        counts = np.where(counts == len(block), 0, counts)
        if not counts.any():
            return
    top = np.iinfo(block.dtype).max
    for where, columns in _columns(stretch, spec, choice.patch, counts > 0):
        slots, low, high = _slots(choice.keys[: len(block), stretch.patch_row, columns], counts[columns])
        gathered = _gather(block, where, slots)
        if low is not None and high is not None:
            np.copyto(gathered, 0, where=low[:, None, :, None])
            np.copyto(gathered, top, where=high[:, None, :, None])
        count = len(gathered)
        two = np.empty((2, gathered[0].size), block.dtype)
        order_statistics(gathered.reshape(count, -1), ((count - 1) // 2, count // 2), two)
        result = two.reshape(2, *gathered.shape[1:])
        if low is not None:
            odd = counts[columns] % 2 == 1
            result[1][:, odd] = result[0][:, odd]
        out[:, where] = result


Where = NDArray[np.intp]  # (R, P, V): places in the stretch of V values in each of P patches, on R rows of pixels


def _places(stretch: Stretch, spec: FrameSpec, patch: int, wanted: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Of the values of these patches (PW,), in the stretch."""
    found = [where.reshape(-1) for where, _ in _columns(stretch, spec, patch, wanted)]
    return np.concatenate(found) if found else np.empty(0, np.intp)


def _columns(
    stretch: Stretch, spec: FrameSpec, patch: int, wanted: NDArray[np.bool_]
) -> Iterator[tuple[Where, NDArray[np.intp]]]:
    """Patches of one width at a time: where their values lie in the stretch, and the numbers of the patches."""
    across = spec.width * spec.channels
    begin = stretch.start % across
    rows = max(1, (stretch.stop - stretch.start) // across)
    end = begin + (stretch.stop - stretch.start) // rows
    wide = patch * spec.channels
    first = np.maximum(np.arange(len(wanted)) * wide, begin)
    last = np.minimum(np.minimum((np.arange(len(wanted)) + 1) * wide, across), end)
    for width in np.unique((last - first)[(last > first) & wanted]):
        columns = np.flatnonzero((last - first == width) & wanted)
        places = first[columns][:, None] - begin + np.arange(width)
        yield places + np.arange(rows)[:, None, None] * across, columns


def _slots(
    keys: NDArray[np.uint32], counts: NDArray[np.uint32]
) -> tuple[NDArray[np.intp], NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """The slots of the least keys (K, P); where counts (P,) differ, K is even, and what is filled up low and high."""
    packed = keys.T.astype(np.uint64) << np.uint64(16) | np.arange(len(keys), dtype=np.uint64)  # (P, T)
    most = int(counts.max())
    if (counts == most).all():
        packed.partition(most - 1, axis=1)
        return (packed[:, :most] & np.uint64(0xFFFF)).astype(np.intp).T, None, None
    packed.sort(axis=1)
    even = most + most % 2
    slots = np.zeros((even, len(counts)), np.intp)
    slots[:most] = (packed[:, :most] & np.uint64(0xFFFF)).astype(np.intp).T
    place = np.arange(even)[:, None]
    zeros = (even - counts.astype(np.int64)) // 2
    low = (place >= counts) & (place < counts + zeros)
    return slots, low, place >= counts + zeros


def _gather(block: Samples, where: Where, slots: NDArray[np.intp]) -> Samples:
    """(K, R, P, V): of each patch the samples in its slots."""
    rows, _, width = where.shape
    start = int(where[0, 0, 0])
    patches, beside = np.divmod(where[0, :, 0] - start, width)
    if beside.any():  # the only cut patch on the left, and others: few values
        return block[slots[:, None, :, None], where]
    across = int(where[1, 0, 0]) - start if rows > 1 else 0
    whole = np.lib.stride_tricks.as_strided(
        block[:, start:],
        (len(block), rows, int(patches[-1]) + 1, width),
        (block.strides[0], across * block.itemsize, width * block.itemsize, block.itemsize),
        writeable=False,
    )
    gathered: Samples = whole[slots[:, None, :], np.arange(rows)[:, None], patches]
    return gathered
