"""Order statistics of a strip of samples, in NumPy.

The order statistic of rank k is the largest v that at least T - k samples reach (are >= v), so it is found
by counting: compare the strip with one probe per value, add up the hits, move each probe. The first probe
comes from a sorted subset (after Floyd and Rivest, 1975), the next ones from the counts, and what remains is
halved. Noise takes two or three counts, uniform 8-bit values five, whatever is hardest 14 (16 bit: 22).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gpu_bgstat.backends.moments import Samples, Singles

_CHUNK_BYTES = 1 << 20  # samples compared at a time
_SORTED = 64  # up to so many samples are sorted, more are counted
_SORT_BYTES = 1 << 19  # samples sorted at a time
_SUBSET = 16  # samples that are sorted to guess from; a power of two
_SECOND = 128  # about so many samples are counted to correct the guess, where there are many more
_GUESSES = 5  # probes that go by the counts before the rest is halved, which ends for certain
_FEW = 12  # when fewer than one value in so many is unfinished, these are copied out and finished alone
_MASK_RUN = 255  # over so many rows a column of a mask adds up in eight bits
_BEYOND = 1 << 16  # more than any value, and than any count


def order_statistics(strip: Samples, ranks: Sequence[int], out: Samples) -> None:
    """Each rank of strip (T, W) into a row of out (R, W)."""
    count, width = strip.shape
    if count <= _SORTED:
        step = _SORT_BYTES // (count * strip.itemsize)
        for start in range(0, width if ranks else 0, step):
            out[:, start : start + step] = sort_rows(strip[:, start : start + step])[list(ranks)]
        return
    subset = sort_rows(strip[(2 * np.arange(_SUBSET) + 1) * count // (2 * _SUBSET)])
    found: dict[int, Samples] = {}
    for rank in sorted(set(ranks)):
        if rank not in found:
            search = _start(strip, rank, subset)
            _narrow(strip, search)
            found[rank] = search.low.astype(strip.dtype)
            if rank + 1 in ranks:
                found[rank + 1] = _next_rank(strip, search)
    for row, rank in enumerate(ranks):
        out[row] = found[rank]


def sort_rows(rows: Any, xp: Any = np) -> Any:
    """Each column sorted, by Batcher's merge exchange (Knuth, vol. 3, 5.2.2 M) on groups of whole rows.

    Filled up with the highest value to a power of two of rows. `xp` is the module of the array, NumPy or CuPy.
    """
    count, width = rows.shape
    size = 1 << (count - 1).bit_length()
    out = xp.full((size, width), np.iinfo(rows.dtype).max, rows.dtype)
    out[:count] = rows
    p = size // 2
    while p:
        pairs = out.reshape(size // (2 * p), 2, p, width)
        _exchange(pairs[:, 0], pairs[:, 1], xp)
        q = size // 2
        while q > p:
            _exchange(pairs[: len(pairs) - q // (2 * p), 1], pairs[q // (2 * p) :, 0], xp)
            q //= 2
        p //= 2
    return out


def _exchange(low: Any, high: Any, xp: Any) -> None:
    lower = xp.minimum(low, high)
    xp.maximum(low, high, out=high)
    low[...] = lower


@dataclass
class _Search:
    """One rank in every column of a strip. In float32, because NumPy selects slowly and multiplies fast.

    need     how many samples reach the rank's value, at least: T - rank
    low      the value is low or more: at least `need` samples reach it
    high     the value is high or less
    at_low   how many samples reach low
    above    how many samples are > high; fewer than `need`
    probe    what to count with next: above low, or equal to low and high
    density  samples per step of the value near the rank, roughly
    """

    need: int
    low: Singles
    high: Singles
    at_low: Singles
    above: Singles
    probe: Singles
    density: Singles


def _start(strip: Samples, rank: int, subset: Samples) -> _Search:
    """Aims at the rank's place in the sorted subset (16, W), corrected by a count of some more samples."""
    count, width = strip.shape
    peak = np.iinfo(strip.dtype).max
    place = (rank + 0.5) / count * _SUBSET - 0.5
    left, right = max(math.floor(place), 0), min(math.ceil(place), _SUBSET - 1)
    margin = min(2, left, _SUBSET - 1 - right)
    first = min(max(left - 3, 0), _SUBSET - 8)
    band = np.maximum(subset[first + 7].astype(np.float32) - subset[first], np.float32(0.5))
    guess = subset[left - margin : right + margin + 1].mean(axis=0, dtype=np.float32)
    density = np.float32(count * 7 / _SUBSET) / band
    probe = np.clip(np.rint(guess), 1, peak)
    if count >= 4 * _SECOND:
        some = strip[:: count // _SECOND]
        excess = _count(some, probe) * np.float32(count / len(some)) - np.float32(count - rank)
        probe = np.clip(np.rint(probe + np.clip(excess / density, -band, band)), 1, peak)
    low, above = np.zeros((2, width), np.float32)
    high = np.full(width, peak, np.float32)
    return _Search(count - rank, low, high, np.full(width, count, np.float32), above, probe, density)


def _narrow(strip: Samples, search: _Search) -> None:
    """Probes until low == high in every column."""
    for turn in itertools.count():
        counts = _count(strip, search.probe)
        reached = _bound(search, counts)
        unfinished = search.low < search.high
        number = np.count_nonzero(unfinished)
        if not number:
            return
        _aim(search, counts, reached, turn, np.iinfo(strip.dtype).max)
        if number * _FEW < strip.shape[1]:
            _narrow_few(strip, search, np.flatnonzero(unfinished))
            return


def _bound(search: _Search, counts: Singles) -> Singles:
    """Moves low and high by the counts at the probes; 1 where enough samples reach the probe, else 0."""
    reached = (counts >= search.need).astype(np.float32)
    np.maximum(search.low, search.probe * reached, out=search.low)
    np.minimum(search.high, search.probe - 1 + reached * _BEYOND, out=search.high)
    # Counts fall as probes rise, so that the counts at low and beyond high are the closest ones to `need`.
    np.minimum(search.at_low, counts + (1 - reached) * _BEYOND, out=search.at_low)
    np.maximum(search.above, counts * (1 - reached), out=search.above)
    return reached


def _aim(search: _Search, counts: Singles, reached: Singles, turn: int, peak: int) -> None:
    """The next probes: a leap by the density, or in between by the counts at low and high; late, the middle."""
    width = search.high - search.low
    if turn >= _GUESSES:
        search.probe = search.high - np.floor(width / 2)
        return
    goal = np.float32(search.need - 0.5)
    far = np.abs(counts - goal) / search.density * (2 if turn else 1)
    leap = search.probe + (2 * reached - 1) * (1 + np.floor(np.maximum(far - 0.5, 0)))
    share = (search.at_low - goal) / (search.at_low - search.above)
    between = np.rint(search.low + share * (width + 1))
    closed = ((search.low > 0) & (search.high < peak)).astype(np.float32)
    # The upper limit comes last: where low == high it is the one that holds.
    search.probe = np.minimum(np.maximum(leap + (between - leap) * closed, search.low + 1), search.high)


def _narrow_few(strip: Samples, search: _Search, few: NDArray[np.intp]) -> None:
    """Finishes these columns in a small copy of their own."""
    low, high, at_low, above = (x[few] for x in (search.low, search.high, search.at_low, search.above))
    part = _Search(search.need, low, high, at_low, above, search.probe[few], search.density[few])
    _narrow(_gather(strip, few), part)
    search.low[few], search.high[few], search.above[few] = part.low, part.high, part.above


def _gather(strip: Samples, columns: NDArray[np.intp]) -> Samples:
    """strip[:, columns], contiguous."""
    out = np.empty((len(strip), len(columns)), strip.dtype)
    # `take` copies what is not contiguous. All rows but the last are, together with what lies between them.
    pitch = strip.strides[0] // strip.itemsize
    whole = as_strided(strip, (len(strip) - 1, pitch), strip.strides, writeable=False)
    np.take(whole, columns, axis=1, out=out[:-1], mode="clip")
    np.take(strip[-1], columns, out=out[-1], mode="clip")
    return out


def _chunks(strip: Samples) -> list[slice]:
    count, width = strip.shape
    rows = min(_MASK_RUN, max(1, _CHUNK_BYTES // (width * strip.itemsize)))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _count(strip: Samples, probe: Singles) -> Singles:
    """(W,): how many samples of each column reach probe (W,)."""
    chunks = _chunks(strip)
    least = probe.astype(strip.dtype)
    mask = np.empty((chunks[0].stop, strip.shape[1]), np.bool_)
    counts = np.zeros(strip.shape[1], np.uint16)
    for rows in chunks:
        hits = mask[: rows.stop - rows.start]
        np.greater_equal(strip[rows], least, out=hits)
        counts += np.add.reduce(hits.view(np.uint8), axis=0, dtype=np.uint8)
    return counts.astype(np.float32)


def _next_rank(strip: Samples, search: _Search) -> Samples:
    """The rank after a finished search: the same value again, or the smallest one above it."""
    found = search.low.astype(strip.dtype)
    further = np.flatnonzero(search.above == search.need - 1)
    if further.size * 4 > strip.shape[1]:
        found[further] = _smallest_above(strip, found)[further]
    elif further.size:
        found[further] = _smallest_above(_gather(strip, further), found[further])
    return found


def _smallest_above(strip: Samples, value: Samples) -> Samples:
    """The smallest sample > value of each column: minus value + 1, all others wrap around to the top."""
    base = value + strip.dtype.type(1)
    least = np.full_like(value, np.iinfo(strip.dtype).max)
    for rows in _chunks(strip):
        np.minimum(least, (strip[rows] - base).min(axis=0), out=least)
    least += base
    return least
