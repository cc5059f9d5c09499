"""What unstable pixels show. Stable ones show the median, whatever the fill."""

from __future__ import annotations

import logging
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image

Modes = Callable[[], Image]  # (H, W[, 3]): the densest value of each pixel, sought when it is called

_RADIUS = 3  # pixels around a point that is painted; 5 takes twice as long
_LONG = 1 << 20  # pixels to paint from which on the user is told that it takes its time
_LOG = logging.getLogger("gpu_bgstat")


def fill_median(median: Image, stable: NDArray[np.bool_], modes: Modes) -> Image:
    """Unstable pixels keep their own median."""
    return median


def fill_global(median: Image, stable: NDArray[np.bool_], modes: Modes) -> Image:
    """Unstable pixels show, per channel, the median of the stable pixels, truncated; of all if none is stable."""
    filled = median.copy()
    chosen = median[stable] if stable.any() else median[np.ones_like(stable)]
    filled[~stable] = np.median(chosen, axis=0).astype(median.dtype)
    return filled


def fill_mode(median: Image, stable: NDArray[np.bool_], modes: Modes) -> Image:
    """Unstable pixels show the value that they have most often."""
    if stable.all():
        return median
    filled = median.copy()
    filled[~stable] = modes()[~stable]
    return filled


def fill_inpaint(median: Image, stable: NDArray[np.bool_], modes: Modes) -> Image:
    """Unstable pixels are painted from the stable ones around them (Telea, "An image inpainting technique based on the
    fast marching method", Journal of Graphics Tools 2004); if none is stable, they keep their median.

    Takes up to 2 s for a million of them. Colour of 16 bits is painted channel by channel: OpenCV knows no other way.
    """
    holes = np.count_nonzero(~stable)
    if holes in (0, stable.size):
        return median
    if holes >= _LONG:
        _LOG.info("painting %.1f million unstable pixels: up to %.0f s", holes / 1e6, 2 * holes / 1e6)
    mask = (~stable).astype(np.uint8)
    if median.ndim == 2 or median.dtype == np.uint8:
        return cv2.inpaint(median, mask, _RADIUS, cv2.INPAINT_TELEA)
    planes = [np.ascontiguousarray(median[:, :, channel]) for channel in range(median.shape[2])]
    return np.stack([cv2.inpaint(plane, mask, _RADIUS, cv2.INPAINT_TELEA) for plane in planes], axis=2)


FILLS: dict[str, Callable[[Image, NDArray[np.bool_], Modes], Image]] = {
    "median": fill_median,
    "global": fill_global,
    "mode": fill_mode,
    "inpaint": fill_inpaint,
}
