"""A common light: each sample is matched to a reference by a gain and an offset for each channel.

A patch that shows r in the reference shows a·r + b in a sample under other light. The line is fitted by least trimmed
squares: through those five eighths of the patches that fit best, then through all that fit as well as these, so that
animals and moved things have no say (P.J. Rousseeuw, K. Van Driessen, *Computing LTS regression for large data sets*,
Data Mining and Knowledge Discovery 2006). A value x of the sample becomes (x − b) / a.

    x │      . ·◦         .  patches that tell
      │   .·'             ◦  an animal
      │.·' ◦ ◦
      └─────────── r
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Light
from gpu_bgstat.frames import Image
from gpu_bgstat.light.levels import lower_median, middle, thinned, unit
from gpu_bgstat.light.regimes import regimes

_BINS = 16  # of grey levels, from which equally many patches are taken: a dark surround must not outvote an arena
_PATCHES = 512  # that are fitted, at most
_WINDOW = 8  # grey levels: samples no further apart have the same light
_FULLER = 3  # times as many samples must lie in another window than in that around the middle sample
_CLIPPED = 4  # grey levels from black and from white: a patch so near may hold clipped pixels
_CONTRAST = 4.0  # grey levels, the standard deviation of a reference that tells a gain from an offset
_LEAST_PATCHES = 8
_LEAST_SHARE = 0.25  # of the patches must not be clipped
_MOST_GAIN = 8.0  # beyond, noise is amplified rather than the scene
_MISFIT = 0.5  # of the sample's contrast: a median residual above it is no match
_POOR = 1.5  # grey levels, and
_POORER = 3  # times the misfit of a good quarter of the samples: one that is matched no better is left out,
_GOOD_SHARE = 0.25  # if so many of the samples are left
_NEAR = 2.5  # scales: patches within fit (W.A. Stahel's and P.J. Rousseeuw's usual cut)
_LEAST_SCALE = 0.5  # grey levels: thumbnails are whole numbers
_SAME = 0.5  # grey levels: light that moves no value by more stays as it is
_TOGETHER = 256  # samples that are fitted at once
_ONE = 1 << 16


@dataclass(frozen=True)
class Match:
    """How samples come to the reference's light.

    light    a row a sample; nothing changes in one that could not be matched
    matched  (T,) bool
    """

    light: Light
    matched: NDArray[np.bool_]


def reference(thumbnails: Image) -> Image:
    """(PH, PW, C): the scene in the light that holds for most samples, without what moves; samples in order of time.

    It is the median of the middle half of the largest regime's samples, by their brightness, compared patch by patch.
    If a window of 8 levels holds 3 times as many samples as that around the middle one, it is theirs.
    """
    small = thinned(thumbnails)
    members = np.flatnonzero(regimes(thumbnails) == 1)
    scene = middle(small[members]).astype(np.int64)
    brightness = np.empty(len(small), np.int64)
    for part in _parts(len(small)):
        brightness[part] = lower_median((small[part] - scene).reshape(len(small[part]), -1), 1)
    width = max(1, round(_WINDOW * unit(thumbnails)))
    ordered = np.sort(brightness)
    inside = np.searchsorted(ordered, ordered + width) - np.arange(len(ordered))
    level = int(lower_median(brightness[members], 0))
    if inside.max() >= _FULLER * np.count_nonzero(np.abs(brightness - level) <= width // 2):
        fullest = np.flatnonzero(inside == inside.max())
        low = ordered[fullest[(len(fullest) - 1) // 2]]
        return middle(thumbnails[(brightness >= low) & (brightness < low + width)])
    ranks = members[np.argsort(brightness[members], kind="stable")]
    return middle(thumbnails[np.sort(ranks[len(ranks) // 4 : len(ranks) - len(ranks) // 4])])


def match(thumbnails: Image, reference: Image) -> Match:
    """The light of each sample against the reference (PH, PW, C)."""
    count, channels = len(thumbnails), thumbnails.shape[-1]
    a, b = np.ones((count, channels)), np.zeros((count, channels))
    matched, misfit = np.ones(count, bool), np.zeros(count)
    level = unit(thumbnails)
    white = float(np.iinfo(thumbnails.dtype).max)
    for channel in range(channels):
        known = reference[..., channel].reshape(-1).astype(np.int64)
        chosen = _balanced(known, level, white)
        r = known[chosen]
        for part in _parts(count):
            x = thumbnails[part, ..., channel].reshape(len(range(count)[part]), -1)[:, chosen].astype(np.int64)
            clear = (np.minimum(x, r) > _CLIPPED * level) & (np.maximum(x, r) < white - _CLIPPED * white / 255)
            a[part, channel], b[part, channel], well, misfits = _Fit(r, x, clear, level).best()
            matched[part] &= well
            misfit[part] = np.maximum(misfit[part], misfits)
    matched &= _well(misfit, matched, level)
    a[~matched], b[~matched] = 1.0, 0.0
    gains = np.rint(_ONE / a).astype(np.int64)
    offsets = np.rint(-b / a * _ONE).astype(np.int64) + _ONE // 2  # the half rounds
    return Match(Light(gains, offsets), matched)


def _well(misfit: NDArray[np.float64], matched: NDArray[np.bool_], level: float) -> NDArray[np.bool_]:
    """Which samples are matched about as well as the best ones; all, if these are few.

    One gain for the whole picture is not what another lamp in another place does to it.
    """
    good = np.sort(misfit[matched])
    if not len(good):
        return matched
    near = misfit <= max(_POOR * level, _POORER * float(good[(len(good) - 1) // 4]))
    return near if np.count_nonzero(near & matched) >= _GOOD_SHARE * len(misfit) else np.ones_like(matched)


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, min(first + _TOGETHER, count)) for first in range(0, count, _TOGETHER))


def _balanced(known: NDArray[np.int64], level: float, white: float) -> NDArray[np.int64]:
    """Which patches are fitted: as many of each grey level as there are, up to a limit."""
    clear = np.flatnonzero((known > _CLIPPED * level) & (known < white - _CLIPPED * white / 255))
    if not len(clear):
        return np.zeros(0, np.int64)
    low, high = int(known[clear].min()), int(known[clear].max())
    bins = (known[clear] - low) * _BINS // (high - low + 1)
    full = np.unique(bins)
    most = _PATCHES // len(full)
    taken = []
    for number in full:
        members = clear[bins == number]
        places = np.arange(min(most, len(members))) * len(members) // min(most, len(members))
        taken.append(members[places])
    return np.sort(np.concatenate(taken))


class _Fit:
    """Lines x = a·r + b for some samples at once: r (P,), x (S, P); `clear` says which patches of x tell."""

    def __init__(self, r: NDArray[np.int64], x: NDArray[np.int64], clear: NDArray[np.bool_], level: float) -> None:
        self._r, self._x, self._clear, self._level = r, x, clear, level
        self._count = clear.sum(axis=1)  # (S,)
        self._trusted = (5 * self._count + 7) // 8  # of the patches
        self._enough = self._count >= max(_LEAST_PATCHES, _LEAST_SHARE * len(r))

    def best(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        """(S,) each: a and b, whether they hold, and how many levels off they leave what they change."""
        samples = len(self._x)
        if not self._enough.any():
            return np.ones(samples), np.zeros(samples), np.zeros(samples, bool), np.zeros(samples)
        a, b = self._shift()
        spread = self._spread(self._clear)
        sloped = self._enough & (spread >= _CONTRAST * self._level)
        best = self._residual(a, b)
        line = (a, b)
        for start in (self._pairs(), self._ratio(), (a, b)):
            tried = self._concentrated(*start, 3)
            better = sloped & (self._residual(*tried) < best)
            line = np.where(better, tried[0], line[0]), np.where(better, tried[1], line[1])
            best = np.where(better, self._residual(*tried), best)
        line = self._all_near(*self._concentrated(*line, 3))
        a, b = np.where(sloped, line[0], a), np.where(sloped, line[1], b)
        misfit = self._residual(a, b)
        sane = (a >= 1 / _MOST_GAIN) & (a <= _MOST_GAIN) & (misfit <= np.maximum(self._level, _MISFIT * a * spread))
        matched = self._enough & (sane | ~sloped)
        same = self._moved(a, b) <= _SAME * self._level
        left = np.where(matched & ~same, misfit / np.where(matched, a, 1.0), 0.0)
        return np.where(same | ~matched, 1.0, a), np.where(same | ~matched, 0.0, b), matched, left

    def _shift(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.ones(len(self._x)), self._median(self._x - self._r, self._clear)

    def _ratio(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As if all light came from one lamp."""
        return self._median(self._x / np.maximum(self._r, 1), self._clear), np.zeros(len(self._x))

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The median slope between patches of the darker and of the brighter half (H. Theil, 1950; P.K. Sen, 1968)."""
        order = np.argsort(self._r, kind="stable")
        half = len(order) // 2
        dark, bright = order[:half], order[len(order) - half :]
        run = self._r[bright] - self._r[dark]
        both = self._clear[:, dark] & self._clear[:, bright] & (run > 0)
        slope = self._median((self._x[:, bright] - self._x[:, dark]) / np.maximum(run, 1), both)
        return slope, self._median(self._x - slope[:, None] * self._r, self._clear)

    def _median(
        self, values: NDArray[np.float64] | NDArray[np.int64], counting: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The lower median of the values that count, a row each; 0 where none does."""
        return self._nth(values.astype(np.float64), counting, (counting.sum(axis=1) + 1) // 2)

    @staticmethod
    def _nth(
        values: NDArray[np.float64], counting: NDArray[np.bool_], number: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The value that is the `number`-th of a row, from 1."""
        ordered = np.sort(np.where(counting, values, np.inf), axis=1)
        found = np.take_along_axis(ordered, np.maximum(number - 1, 0)[:, None], axis=1)[:, 0]
        return np.where(number > 0, found, 0.0)

    def _errors(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        errors: NDArray[np.float64] = np.abs(self._x - (a[:, None] * self._r + b[:, None]))
        return errors

    def _residual(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest residual of the patches that fit best: what makes one line better than another."""
        return self._nth(self._errors(a, b), self._clear, self._trusted)

    def _concentrated(
        self, a: NDArray[np.float64], b: NDArray[np.float64], steps: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The line through the patches that fit best, again and again: each time they fit better."""
        for _ in range(steps):
            near = self._errors(a, b) <= self._residual(a, b)[:, None]
            a, b = self._least_squares(near & self._clear, a, b)
        return a, b

    def _all_near(
        self, a: NDArray[np.float64], b: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The line through all patches within 2.5 scales of this one; 1.4826 medians are a normal error's scale."""
        for _ in range(2):
            errors = self._errors(a, b)
            scale = np.maximum(1.4826 * self._median(errors, self._clear), _LEAST_SCALE * self._level)
            a, b = self._least_squares(self._clear & (errors <= _NEAR * scale[:, None]), a, b)
        return a, b

    def _sums(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """n, Σr and n·Σr² − (Σr)² of the chosen patches. 512 patches of 16 bits: below 2**51."""
        n, total = chosen.sum(axis=1), (chosen * self._r).sum(axis=1)
        return n, total, n * (chosen * self._r**2).sum(axis=1) - total**2

    def _spread(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The standard deviation of the reference over the chosen patches."""
        n, _, squares = self._sums(chosen)
        deviation: NDArray[np.float64] = np.sqrt(squares.astype(np.float64)) / np.maximum(n, 1)
        return deviation

    def _least_squares(
        self, chosen: NDArray[np.bool_], a: NDArray[np.float64], b: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The line through the chosen patches; a and b as they were where these have no contrast."""
        n, total_r, squares = self._sums(chosen)
        total_x = (chosen * self._x).sum(axis=1)
        mixed = n * (chosen * self._x * self._r).sum(axis=1) - total_r * total_x
        slope = mixed / np.maximum(squares, 1)
        offset = (total_x - slope * total_r) / np.maximum(n, 1)
        return np.where(squares > 0, slope, a), np.where(squares > 0, offset, b)

    def _moved(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        """By how much the line differs from the sample as it is, at most, over the reference's levels."""
        ends = np.array([self._r.min(), self._r.max()], np.float64)
        moved: NDArray[np.float64] = np.abs((a[:, None] - 1) * ends + b[:, None]).max(axis=1)
        return moved
