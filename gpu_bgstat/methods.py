"""How the background is made of the samples: one function for each `Config.method`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Choice
from gpu_bgstat.coarse import Coarse
from gpu_bgstat.evidence import verdicts
from gpu_bgstat.frames import Image
from gpu_bgstat.ring import Part
from gpu_bgstat.states import two_states
from gpu_bgstat.still import Levels, still_choice

MODE_WIDTH = 9  # of 256 levels: the interval that is densest


@dataclass(frozen=True)
class Found:
    """A background (H, W[, 3]), the variance, and which of its choices each pixel shows: (H, W) uint8."""

    background: Image
    variance: NDArray[np.float32]
    choice: NDArray[np.uint8]


def middle_ranks(count: int) -> tuple[int, int]:
    """The ranks whose mean is the median of `count` values; twice the same for an odd count."""
    return (count - 1) // 2, count // 2


def floor_mean(two: Image) -> Image:
    """The mean of two unsigned arrays, truncated, without widening them."""
    low, high = two
    mean: Image = (low & high) + ((low ^ high) >> 1)
    return mean


def median(samples: Part, coarse: Coarse | None) -> Found:
    """The median of the samples."""
    reduced = samples.reduce(middle_ranks(len(samples)))
    return _plain(floor_mean(reduced.ranks), reduced.variance)


def still(samples: Part, coarse: Coarse | None) -> Found:
    """The median of the samples in which least moves there."""
    assert coarse is not None
    choice = still_choice(coarse, Levels.of(coarse))
    return _plain(floor_mean(samples.select(choice)), samples.reduce(()).variance)


def mode(samples: Part, coarse: Coarse | None) -> Found:
    """Each value's densest interval, and the median of what lies in it."""
    top: Any = np.iinfo(samples.spec.dtype).max
    return _plain(samples.modes(MODE_WIDTH * (top + 1) // 256), samples.reduce(()).variance)


def auto(samples: Part, coarse: Coarse | None) -> Found:
    """As `still`; where a region has two states, what the evidence says is the empty one."""
    assert coarse is not None
    levels = Levels.of(coarse)
    base = floor_mean(samples.select(still_choice(coarse, levels)))
    variance = samples.reduce(()).variance
    shown = np.zeros(base.shape[:2], np.uint8)
    states = two_states(levels)
    if states is not None:
        places = states.double | states.beside
        pixels = _spread(places, coarse.patch, base)
        first, second = (
            np.where(pixels, floor_mean(samples.select(_members(state, places, coarse))), base)
            for state in (states.first, states.second)
        )
        lively = levels.motions > levels.quiet_limit
        background = base.copy()
        for verdict in verdicts(base, first, second, states, lively, coarse.patch, levels.white):
            if verdict.shown:
                state = second if verdict.second else first
                background[verdict.box][verdict.mask] = state[verdict.box][verdict.mask]
                shown[verdict.box][verdict.mask] = verdict.shown
        base = background
    return Found(base, variance, shown)


def _plain(background: Image, variance: NDArray[np.float32]) -> Found:
    return Found(background, variance, np.zeros(background.shape[:2], np.uint8))


def _members(state: NDArray[np.bool_], places: NDArray[np.bool_], coarse: Coarse) -> Choice:
    return Choice(coarse.patch, (~state).astype(np.uint32), state.sum(axis=0, dtype=np.uint32) * places)


def _spread(places: NDArray[np.bool_], patch: int, image: Image) -> NDArray[np.bool_]:
    """Patches (PH, PW) as pixels, in the shape of an image."""
    pixels = places.repeat(patch, axis=0).repeat(patch, axis=1)[: image.shape[0], : image.shape[1]]
    return pixels if image.ndim == 2 else pixels[..., None]


METHODS: dict[str, Callable[[Part, Coarse | None], Found]] = {
    "median": median,
    "still": still,
    "mode": mode,
    "auto": auto,
}
