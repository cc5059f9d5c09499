"""Which of two states of a region is the empty place: the one whose outline shows no edge, if what left was alive.

    state a    ▒▒▓▓▒▒     an edge all around: something lies there
    state b    ▒▒▒▒▒▒     the floor goes on: this is the empty place

An object that was taken away is told from one that was left behind by the edges along its outline (Connell and others,
2004; Spagnolo and others, 2006, on abandoned and removed objects). An object that somebody has shifted is no animal,
though: it belongs to the place where it lay longer. When an animal has left, more moves elsewhere than while it lay
there. So the rarer state wins only if both speak for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image
from gpu_bgstat.states import Flags, States

_DIFFERENT = 8  # levels between the two states, where they are two
_CLEARER = 0.8  # of the edges along the outline are left in the rarer state, at most
_LEAST_EDGE = 0.5  # levels a pixel: by so much, too
_LIVELIER = 0.5  # of the region's size moves elsewhere, in addition, in the rarer state
_TOUCHED = 64  # of 255: so much of a patch belongs to the region


@dataclass(frozen=True)
class Verdict:
    """One region. `shown` is 1 for the commoner state, 2 for the rarer one, 0 for neither (H, W) bool: `mask`."""

    box: tuple[slice, slice]
    mask: Flags  # of the box
    shown: int
    second: bool  # whether what is shown is the second of `States`, not the first


def verdicts(
    base: Image, first: Image, second: Image, states: States, lively: Flags, patch: int, white: float
) -> list[Verdict]:
    """What each region shows.

    base, first, second  (H, W[, 3]): what is shown otherwise, and the medians of the two states
    lively               (T, PH, PW): where more moves than noise makes
    """
    pictures = [_eight_bits(image, white) for image in (base, first, second)]
    height, width = base.shape[:2]
    side = patch // 2 + 1
    square = np.ones((side, side), np.uint8)
    difference = cv2.absdiff(pictures[1], pictures[2])
    worst = cv2.medianBlur(difference if difference.ndim == 2 else difference.max(axis=2), 5)
    regions = cv2.morphologyEx((worst > _DIFFERENT).astype(np.uint8), cv2.MORPH_CLOSE, square)
    number, labels, boxes, _ = cv2.connectedComponentsWithStats(regions, connectivity=8)
    found = []
    for region in range(1, number):
        x, y, w, h, area = (int(value) for value in boxes[region])
        if area < patch * patch // 2:
            continue
        margin = 2 * patch
        box = (
            slice(max(0, y - margin) // patch * patch, min(height, y + h + margin)),
            slice(max(0, x - margin) // patch * patch, min(width, x + w + margin)),
        )
        inside = (labels[box] == region).astype(np.uint8)
        found.append(_verdict(box, inside, [picture[box] for picture in pictures], states, lively, patch))
    return found


def _eight_bits(image: Image, white: float) -> Image:
    if image.dtype == np.uint8:
        return image
    scaled: Image = np.rint(image * np.float32(255 / white)).clip(0, 255).astype(np.uint8)
    return scaled


def _verdict(
    box: tuple[slice, slice],
    inside: NDArray[np.uint8],
    pictures: list[Image],
    states: States,
    lively: Flags,
    patch: int,
) -> Verdict:
    side = patch // 2 + 1
    square = np.ones((side, side), np.uint8)
    outline = (cv2.dilate(inside, square) > 0) & (cv2.erode(inside, square) == 0)
    if not outline.any():  # all of a small frame
        return Verdict(box, outline, 0, second=False)
    base, first, second = (float(_edges(picture)[outline].mean()) for picture in pictures)
    touched = np.zeros(states.double.shape, np.uint8)
    rows, columns = (-(-(part.stop - part.start) // patch) for part in box)
    padded = cv2.copyMakeBorder(
        cv2.dilate(inside, square) * np.uint8(255),
        *(0, rows * patch - inside.shape[0], 0, columns * patch - inside.shape[1]),
        cv2.BORDER_CONSTANT,
    )
    top, left = (part.start // patch for part in box)
    touched[top : top + rows, left : left + columns] = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)
    place = touched > _TOUCHED
    in_first, in_second = _when(states, place & states.double)
    second_is_rarer = int(in_first.sum()) >= int(in_second.sum())
    common, rare = (first, second) if second_is_rarer else (second, first)
    livelier = _livelier(lively, place, *((in_first, in_second) if second_is_rarer else (in_second, in_first)))
    shown = 0
    if rare < _CLEARER * min(common, base) - _LEAST_EDGE and livelier > _LIVELIER:
        shown = 2
    elif common < base:
        shown = 1
    mask = cv2.dilate(inside, np.ones((patch + 1, patch + 1), np.uint8)) > 0
    return Verdict(box, mask, shown, second=(shown == 2) == second_is_rarer)


def _edges(picture: Image) -> NDArray[np.float32]:
    """(H, W): levels a pixel, in the channel with the strongest edge."""
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, scale=0.25) for dx in (1, 0))
    strength: NDArray[np.float32] = np.sqrt(across * across + down * down)
    return strength if strength.ndim == 2 else strength.max(axis=2)


def _when(states: States, place: Flags) -> tuple[Flags, Flags]:
    """(T,) each: the samples in which most patches of a place are in the first state, and in the second."""
    first, second = (state[:, place].sum(axis=1) for state in (states.first, states.second))
    return first > second, second > first


def _livelier(lively: Flags, place: Flags, common: Flags, rare: Flags) -> float:
    """How many more patches move elsewhere while the place is in its rarer state, as a share of the place's size."""
    if not common.any() or not rare.any():
        return 0.0
    near = cv2.dilate(place.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    elsewhere = lively[:, ~near].sum(axis=1)
    return float(elsewhere[rare].mean() - elsewhere[common].mean()) / max(1, int(place.sum()))
