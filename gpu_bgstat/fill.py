"""What pixels show of which the method made no good background. All others show what it made, whatever the fill.

Nearly every pixel that was ever visited is unstable, and the background of most of them is right all the same. So only
the cassette's fill takes them all; the others take those whose background hardly any sample shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image

Modes = Callable[[], Image]  # (H, W[, 3]): the densest value of each pixel, sought when it is called

_RADIUS = 3  # pixels around a point that is painted; 5 takes twice as long
_LONG = 1 << 20  # pixels to paint from which on the user is told that it takes its time
_LOG = logging.getLogger("gpu_bgstat")


def fill_global(median: Image, holes: NDArray[np.bool_], modes: Modes) -> Image:
    """They show, per channel, the median of the others, truncated; of all pixels if there are no others."""
    filled = median.copy()
    chosen = median[~holes] if not holes.all() else median[holes]
    filled[holes] = np.median(chosen, axis=0).astype(median.dtype)
    return filled


def fill_mode(median: Image, holes: NDArray[np.bool_], modes: Modes) -> Image:
    """They show the value that they have most often."""
    filled = median.copy()
    filled[holes] = modes()[holes]
    return filled


def fill_inpaint(median: Image, holes: NDArray[np.bool_], modes: Modes) -> Image:
    """They are painted from the pixels around them (Bertalmio, Bertozzi and Sapiro, "Navier-Stokes, fluid dynamics, and
    image and video inpainting", CVPR 2001); if there are none, they keep their median.

    OpenCV's other way (Telea, 2004) drifts: a hole of 1100 pixels in an even grey of 90 is 171 in its middle. This one
    takes up to 2 s for a million pixels. Colour of 16 bits is painted channel by channel: OpenCV knows no other way.
    """
    count = np.count_nonzero(holes)
    if count == holes.size:
        return median
    if count >= _LONG:
        _LOG.info("painting %.1f million pixels: up to %.0f s", count / 1e6, 2 * count / 1e6)
    mask = holes.astype(np.uint8)
    if median.ndim == 2 or median.dtype == np.uint8:
        return cv2.inpaint(median, mask, _RADIUS, cv2.INPAINT_NS)
    planes = [np.ascontiguousarray(median[:, :, channel]) for channel in range(median.shape[2])]
    return np.stack([cv2.inpaint(plane, mask, _RADIUS, cv2.INPAINT_NS) for plane in planes], axis=2)


@dataclass(frozen=True)
class Fill:
    """How pixels are filled, and which: those that are unstable, or of these only the unsure ones."""

    paint: Callable[[Image, NDArray[np.bool_], Modes], Image]
    unsure_only: bool


FILLS: dict[str, Fill | None] = {
    "median": None,
    "global": Fill(fill_global, unsure_only=False),
    "mode": Fill(fill_mode, unsure_only=True),
    "inpaint": Fill(fill_inpaint, unsure_only=True),
}
