"""Camera shake: every sample is moved, by whole pixels, to where the first one was.

    first  ┌──────────┐      later  ┌──────────┐      phase correlation (Kuglin and Hines, Proc. IEEE Int. Conf. on
           │   ▲      │             │     ▲    │      Cybernetics and Society, 1975) tells that the scene lies 2 right:
           └──────────┘             └──────────┘      it is moved 2 left, and the right edge is repeated

Translation alone. It is measured in the middle of the picture, in full resolution: of a reduced picture, aliasing puts
the shift a pixel off in half of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import FrameSpec, Image, Sample

_WIDE, _HIGH = 1024, 768  # pixels in the middle, at most, that are compared
_SMALLEST = 32  # pixels: no side may be shorter
_FURTHEST = 8  # one part in so many of the compared side, at most, is a shift
_NOISE = 25.0  # over the root of the number of pixels: the response to noise alone is two thirds of that at most
_COARSE = 15  # pixels: structure that is larger does not count
_BLANK = 0.25  # levels: the mean strength of structure in a picture that has none
_NAMED = 5  # samples that are listed one by one


class Stand:
    """Knows where the first sample stood that is not blank, and moves all frames there."""

    def __init__(self, spec: FrameSpec) -> None:
        width, height = min(spec.width, _WIDE), min(spec.height, _HIGH)
        left, top = (spec.width - width) // 2, (spec.height - height) // 2
        self._middle = np.s_[top : top + height, left : left + width]
        self._possible = min(width, height) >= _SMALLEST
        self._furthest = width / _FURTHEST, height / _FURTHEST
        self._least = _NOISE / math.sqrt(width * height)
        self._window: Any = cv2.createHanningWindow((width, height), cv2.CV_32F) if self._possible else None
        self._strength = 0.0
        self._first: NDArray[np.float32] | None = None
        self.early: list[tuple[int, Image]] = []  # frames that wait for the first sample: their index and pixels

    @property
    def begun(self) -> bool:
        return self._first is not None or not self._possible

    def begin(self, pixels: Image) -> None:
        """This is the first sample: the others are moved to where it is. Unless it is blank: then the next one is."""
        seen = self._seen(pixels)
        if self._strength >= _BLANK:
            self._first = seen

    def _seen(self, pixels: Image) -> NDArray[np.float32]:
        """The middle, grey, without what is coarse, and fading out towards its sides.

        Edges are cut off at the mean strength of the first sample's structure: else an animal's strong ones outweigh
        the floor's, and its way is taken for the camera's. OpenCV could do the fading, but overwrites its input.
        """
        middle = np.ascontiguousarray(pixels[self._middle])
        grey: Any = middle if middle.ndim == 2 else cv2.cvtColor(middle, cv2.COLOR_BGR2GRAY)
        found: NDArray[np.float32] = grey.astype(np.float32)
        found -= cv2.blur(found, (_COARSE, _COARSE))
        if self._first is None:
            self._strength = float(np.abs(found).mean(dtype=np.float64))
        np.clip(found, -self._strength, self._strength, out=found)
        found *= self._window
        return found

    def __call__(self, pixels: Image) -> tuple[Image, tuple[int, int] | None]:
        """The frame moved to the first sample, and how far right and down it lay; unmoved, and None, if unknown."""
        shift = self._shift(pixels)
        return (pixels if shift is None else moved(pixels, *shift)), shift

    def _shift(self, pixels: Image) -> tuple[int, int] | None:
        if not self._possible or self._first is None:
            return None
        seen = self._seen(pixels)
        (right, down), response = cv2.phaseCorrelate(self._first, seen)
        if not response >= self._least or abs(right) > self._furthest[0] or abs(down) > self._furthest[1]:
            return None
        return round(right), round(down)


def moved(pixels: Image, right: int, down: int) -> Image:
    """The frame moved back, `right` to the left and `down` up; what comes in repeats the edge."""
    if not right and not down:
        return pixels
    height, width = pixels.shape[:2]
    inside = pixels[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    borders = max(0, -down), max(0, down), max(0, -right), max(0, right)
    back: Image = cv2.copyMakeBorder(np.ascontiguousarray(inside), *borders, cv2.BORDER_REPLICATE)
    return back


def told(samples: Sequence[Sample]) -> list[str]:
    """A warning of the samples that could not be registered."""
    lost = [sample.index for sample in samples if sample.shift is None]
    if not lost:
        return []
    named = ", ".join(map(str, lost[:_NAMED])) + (f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else "")
    return [
        f"{len(lost)} of {len(samples)} samples could not be registered to the first one (shake), and stay where they "
        f"are: frame {named}; they show too little that is the same, or lie more than an eighth of the picture away"
    ]


def account(samples: Sequence[Sample]) -> dict[str, float | int]:
    """How far the camera shook: `largest_px`, and how many samples could not be registered."""
    shifts = [sample.shift for sample in samples if sample.shift is not None]
    return {
        "largest_px": round(max((math.hypot(*shift) for shift in shifts), default=0.0), 2),
        "unregistered": len(samples) - len(shifts),
    }
