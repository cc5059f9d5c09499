"""Which samples share a light: day, night, a lamp that is on. How many regimes there are is found from the samples.

Each sample is described by how its brightness differs from the middle sample's: the median over the patches of each
ninth of the picture, so that an animal has no say. Two regimes are two hills of such a value's histogram with a valley
between them; drift, which has no valley, makes none.

    samples │  ▄▆▃               ▂█▅       Hills and valley are counted in windows of the same width. A valley with n
            │ ▃███▂  ▁    ▁     ▄███▃      samples counts if both hills have the least number and 4·n more (10·n where
            └──────────────────────────    the light goes over by and by): it is not there by chance.
                    brightness
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image
from gpu_bgstat.light.levels import lower_median, middle, thinned, unit

MOST = 8  # regimes
LEAST_SAMPLES = 8  # of a regime's hill, and
LEAST_SHARE = 0.02  # of all samples
_CELLS = 3  # rows and columns of the picture's parts
_WINDOWS = (8, 16, 32)  # grey levels
_CONTRASTS = (4, 10)  # a hill's height in valleys: where the light jumps, and where it goes over by and by
_CHANGED = 6  # grey levels: a patch that differs by more between two regimes
_SHARE = 0.25  # of the patches that are not dark must differ, and they
_APART = 12  # grey levels in the middle
_FLICKER = 2  # times as far apart, and as high a hill, where samples alternate as if by chance
_GRADUAL = 2  # times as high a hill where the light goes over by and by
_BACKGROUND = 2  # samples that a background needs
_LIT = 24  # grey levels: what is darker shows no change of light
_MOSTLY = 80  # of a hundred samples of a regime, by their distance from its centre:
_OUTSIDE = 2  # times as far as these is outside, and so a sample of none, unless
_INSIDE = 8  # grey levels, it is nearer than these
_TOGETHER = 256  # samples that are described at once


def regimes(thumbnails: Image) -> NDArray[np.int64]:
    """(T,): which regime each sample belongs to; thumbnails (T, PH, PW, C) in order of time.

    1 is the largest, at most 8 there are. 0 is a sample of none: dawn, a flash, a black frame.
    """
    small, level = thinned(thumbnails), unit(thumbnails)
    values = _described(small, level)
    groups = _settled(values, _divided(small, values, level))
    found = np.zeros(len(small), np.int64)
    kept = [_near(values, group) for group in groups]
    for number, members in enumerate(sorted(kept, key=lambda members: (-len(members), members[0])), 1):
        found[members] = number
    return found


def _described(thumbnails: Image, level: float) -> NDArray[np.int64]:
    """(T, cells · C): in grey levels of 255, the median difference to the middle sample in each part of the picture."""
    scene = middle(thumbnails).astype(np.int64)
    parts = [
        np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        for rows in np.array_split(np.arange(scene.shape[0]), min(_CELLS, scene.shape[0]))
        for columns in np.array_split(np.arange(scene.shape[1]), min(_CELLS, scene.shape[1]))
    ]
    count, channels = len(thumbnails), scene.shape[2]
    values = np.empty((count, len(parts), channels), np.int64)
    for first in range(0, count, _TOGETHER):
        differences = thumbnails[first : first + _TOGETHER] - scene
        for number, part in enumerate(parts):
            cell = differences[part]
            values[first : first + _TOGETHER, number] = lower_median(cell.reshape(len(cell), -1, channels), 1)
    scaled: NDArray[np.int64] = np.rint(values.reshape(count, -1) / level).astype(np.int64)
    return scaled


def _divided(thumbnails: Image, values: NDArray[np.int64], level: float) -> list[NDArray[np.int64]]:
    """The samples in groups, none of which can be divided further; the largest is tried first."""
    least = max(LEAST_SAMPLES, int(np.ceil(LEAST_SHARE * len(values))))
    whole: list[NDArray[np.int64]] = []
    left = [np.arange(len(values))]
    while left and len(whole) + len(left) < MOST:
        left.sort(key=lambda group: (-len(group), group[0]))
        group = left.pop(0)
        halves = next(_halves(thumbnails, values, group, least, level), None)
        if halves is None:
            whole.append(group)
        else:
            left.extend(halves)
    return whole + left


@dataclass(frozen=True, order=True)
class _Valley:
    """Between two hills of one value's histogram."""

    contrast: int  # how many samples the lower hill has beyond what a valley like this calls for
    place: int  # grey levels: its middle


def _halves(
    thumbnails: Image, values: NDArray[np.int64], group: NDArray[np.int64], least: int, level: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ways to divide a group whose halves differ as regimes do; the clearest first."""
    for contrast in _CONTRASTS:
        valleys = [(_valley(values[group, column], contrast), column) for column in range(values.shape[1])]
        for valley, column in sorted(valleys, key=lambda found: (-found[0].contrast, found[1])):
            if valley.contrast < least:
                break
            below = values[group, column] < valley.place
            sudden = contrast < max(_CONTRASTS)
            if sudden and not _sudden(values[group, column], below):
                continue
            apart = _apart(thumbnails[group[below]], thumbnails[group[~below]], level)
            strict = 1 if _lasting(below) else _FLICKER
            clear = valley.contrast >= least * (strict if sudden else _GRADUAL)
            if clear and apart >= strict * _APART * level:
                yield group[below], group[~below]


def _sudden(values: NDArray[np.int64], below: NDArray[np.bool_]) -> bool:
    """Whether the light goes most of the way from one sample to the next where it goes from one half to the other."""
    turns = np.flatnonzero(below[1:] != below[:-1])
    jump = lower_median(np.abs(values[turns + 1] - values[turns]), 0)
    return bool(2 * jump >= lower_median(values[~below], 0) - lower_median(values[below], 0))


def _valley(values: NDArray[np.int64], contrast: int) -> _Valley:
    """The deepest one, if a hill must be so many times as high."""
    low, high = int(values.min()), int(values.max())
    best = _Valley(0, low)
    for width in _WINDOWS:
        if high - low < 2 * width:
            break
        counts = np.cumsum(np.bincount(values - low + width, minlength=high - low + 2 * width + 1))
        inside = counts[width:] - counts[:-width]  # [k]: samples in [low - width + k + 1, … + width)
        before = np.maximum.accumulate(inside)[: -2 * width]
        behind = np.maximum.accumulate(inside[::-1])[::-1][2 * width :]
        beyond = np.minimum(before, behind) - contrast * inside[width:-width]
        deepest = np.flatnonzero(beyond == beyond.max())
        place = int(deepest[(len(deepest) - 1) // 2])
        found = _Valley(int(beyond[place]), low + place + 1 + width // 2)
        best = found if found.contrast > best.contrast else best
    return best


def _apart(one: Image, other: Image, level: float) -> float:
    """By how many levels the patches differ that do; 0 if these are few of those that can."""
    if not len(one) or not len(other):
        return 0.0
    a, b = middle(one).astype(np.int64), middle(other).astype(np.int64)
    difference = np.abs(a - b).max(axis=2)
    able = np.maximum(a, b).max(axis=2) >= _LIT * level
    changed = difference[able & (difference >= _CHANGED * level)]
    if not changed.size or changed.size < _SHARE * np.count_nonzero(able):
        return 0.0
    return float(lower_median(changed, 0))


def _lasting(below: NDArray[np.bool_]) -> bool:
    """Whether samples follow their like more often than by chance: half as many changes as a shuffle would have.

    (A. Wald, J. Wolfowitz, *On a test whether two samples are from the same population*, 1940, count such runs.)
    """
    changes = int(np.count_nonzero(below[1:] != below[:-1]))
    one, other = int(np.count_nonzero(below)), int(np.count_nonzero(~below))
    return changes * len(below) <= one * other  # a shuffle has 2 · one · other / T in the mean


def _settled(values: NDArray[np.int64], groups: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Each sample goes to the group whose centre is nearest: an animal in one part of the picture had set it apart."""
    distances = np.empty((len(groups), len(values)), np.int64)
    for number, group in enumerate(groups):
        centre = lower_median(values[group], 0)
        distances[number] = np.minimum(np.abs(values - centre), _LIT).sum(axis=1)
    nearest = distances.argmin(axis=0)
    least = min(len(values), _BACKGROUND)
    return [members for number in range(len(groups)) if len(members := np.flatnonzero(nearest == number)) >= least]


def _near(values: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """The members of a group without those that are far from its centre."""
    centre = lower_median(values[group], 0)
    distance = lower_median(np.abs(values[group] - centre), 1)
    place = max(min(len(distance), _BACKGROUND) - 1, (len(distance) - 1) * _MOSTLY // 100)
    mostly = int(np.sort(distance)[place])
    limit = max(_INSIDE, _OUTSIDE * mostly)
    return group[distance <= limit]


@dataclass(frozen=True)
class Stretch:
    """A stretch of the recording with one regime: positions in the list of samples, the last included."""

    regime: int
    first: int
    last: int


def stretches(found: Sequence[int] | NDArray[np.int64]) -> list[Stretch]:
    """Stretches of consecutive samples of the same regime; samples in order of time."""
    labels = np.asarray(found)
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    return [Stretch(int(labels[a]), a, b - 1) for a, b in pairwise(edges) if a < b]
