"""Grey levels of thumbnails: their unit, and their middle over the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image

_MOST = 501  # samples whose median is taken; of more, evenly spread ones
_MOST_PATCHES = 2048  # of a thumbnail; of more, those of every second row and column, and so on


def unit(thumbnails: Image) -> float:
    """What counts as one grey level of 255: 1 for 8 bits.

    16 bits do not tell what white is (many cameras fill 12 of them): there the brightest hundredth of the middle
    thumbnail is 255.
    """
    if thumbnails.dtype == np.uint8:
        return 1.0
    values = np.sort(middle(thumbnails), axis=None)
    return max(1.0, float(values[(len(values) - 1) * 99 // 100]) / 255)


def middle(thumbnails: Image) -> Image:
    """The lower median of each patch over the samples: (T, …) -> (…)."""
    step = -(-len(thumbnails) // _MOST)
    return lower_median(thumbnails[::step], 0)


def thinned(thumbnails: Image) -> Image:
    """A view with fewer patches, where there are many: light changes in large parts of the picture."""
    step = 1
    while -(-thumbnails.shape[1] // step) * -(-thumbnails.shape[2] // step) > _MOST_PATCHES:
        step += 1
    return thumbnails[:, ::step, ::step]


def lower_median(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """The lower of the two middle values: a value that is there, whatever the type."""
    place = (values.shape[axis] - 1) // 2
    median: NDArray[Any] = np.take(np.partition(values, place, axis=axis), place, axis=axis)
    return median
