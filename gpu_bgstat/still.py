"""In which samples each patch is still: nothing moves there, and the light is that of most samples.

After LaBGen (Laugraud, Pierard, Van Droogenbroeck, 2015 and 2017), which takes the median of the samples of each patch
in which least moves. Here it is not a fixed number: where nothing moves at all, every sample helps against noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Choice
from gpu_bgstat.coarse import EIGHTHS, Coarse

MOST = 60  # samples of a patch that is not always still, unless a quarter is more: more would take longer
_ALL = 15, 16  # of the samples: where a patch is still in so many, the others do no harm, and all count
SHARE = 4  # one sample in so many counts at least, however much moves
_GOLDEN = np.uint32(40503)  # of 2**16: multiples of the golden ratio lie evenly, however many (Knuth, vol. 3, 6.4)
_MOVING = 1 << 15  # keys of what moves are above all others
_QUIET = 10  # one sample in so many has no more motion than noise makes
_SMOOTHED = 3  # patches: what moves is seen in those around it, too
_SLACK = EIGHTHS // 4  # of motion beyond noise; and a quarter more
_SAME_LIGHT = 2.0  # levels
_REFERENCES = 64  # samples, at most, whose middle is the common light
_LIGHT_PATCHES = 1024  # patches, at most, that tell a sample's light
_WHITE = 99.9  # percentile of what 16-bit samples reach: 255 levels


@dataclass(frozen=True)
class Levels:
    """What is coarse about the samples, in grey levels of 0 to 255 whatever their type.

    thumbnails  (T, PH, PW, C) uint8
    motions     (T, PH, PW) uint8, smoothed, in eighths of a level
    light       (T, C) float64: how much brighter than the middle sample each one is, in levels
    near        (T,) bool: samples in the light of most
    white       the samples' own level that counts as 255
    """

    thumbnails: NDArray[np.uint8]
    motions: NDArray[np.uint8]
    light: NDArray[np.float64]
    near: NDArray[np.bool_]
    white: float

    @classmethod
    def of(cls, coarse: Coarse) -> Levels:
        white = _white_of(coarse)
        thumbnails, motions = coarse.thumbnails, coarse.motions
        if thumbnails.dtype != np.uint8:
            scale = white / 255
            thumbnails = np.rint(thumbnails / scale).clip(0, 255).astype(np.uint8)
            motions = np.rint(motions / scale).clip(0, 255).astype(np.uint8)
        if not coarse.known.any():
            motions = _changes(thumbnails)
        smoothed: NDArray[np.uint8] = np.stack([cv2.blur(motion, (_SMOOTHED, _SMOOTHED)) for motion in motions])
        light = light_of(thumbnails)
        return cls(thumbnails, smoothed.reshape(motions.shape), light, _near(light), white)

    @cached_property
    def quiet_limit(self) -> NDArray[np.float64]:
        """(PH, PW): how much motion noise alone makes in each patch, at most, in eighths of a level."""
        motions = self.motions[self.near]
        place = len(motions) // _QUIET
        limit: NDArray[np.float64] = np.partition(motions, place, axis=0)[place] * 1.25 + _SLACK
        return limit


def _white_of(coarse: Coarse) -> float:
    """The level that counts as white: 255, or what 16-bit samples reach."""
    if coarse.thumbnails.dtype == np.uint8:
        return 255.0
    return max(255.0, float(np.percentile(coarse.thumbnails[:: 1 + len(coarse.thumbnails) // _REFERENCES], _WHITE)))


def _changes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Instead of motion, where no neighbours were read: what differs from the sample before, patch by patch."""
    before = np.concatenate([thumbnails[1:2], thumbnails[:-1]]) if len(thumbnails) > 1 else thumbnails
    change: NDArray[np.int16] = np.abs(thumbnails.astype(np.int16) - before).max(axis=3)
    return np.minimum(change * EIGHTHS, 255).astype(np.uint8)


def light_of(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T, C): by how many levels the middle patch of each sample is brighter than in the middle sample."""
    count, rows, columns, channels = thumbnails.shape
    patches = thumbnails.reshape(count, rows * columns, channels)[:, :: 1 + rows * columns // _LIGHT_PATCHES]
    reference = np.median(patches[:: 1 + count // _REFERENCES], axis=0)
    return np.stack([np.median(sample - reference, axis=0) for sample in patches])


def _near(light: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Half of the samples, those whose light is nearest to the middle one; more if more have about the same light."""
    away = np.abs(light - np.median(light, axis=0)).max(axis=1)
    near: NDArray[np.bool_] = away <= max(_SAME_LIGHT, float(np.sort(away)[(len(away) - 1) // 2]))
    return near


def still_choice(coarse: Coarse, levels: Levels) -> Choice:
    """The samples in which a patch is still: those with no more motion than noise makes, a quarter of them at least.

    All of those are equally still, and which of them count is spread over time: what is dark has less noise and so less
    motion, and would win against what is there longer.
    """
    motions = levels.motions[levels.near]
    place = -(-len(motions) // SHARE) - 1
    quarter = np.partition(motions, place, axis=0)[place]
    most = np.minimum(np.maximum(quarter, levels.quiet_limit), 255)
    count = len(levels.motions)
    keys = levels.motions.astype(np.uint32) + _MOVING
    keys[~levels.near] += 1 << 8
    quiet = keys <= most + _MOVING
    spread = np.arange(count, dtype=np.uint32) * _GOLDEN % (1 << 16) // 2
    keys = np.where(quiet, spread[:, None, None], keys)
    still = quiet.sum(axis=0)
    counts = np.where(_ALL[1] * still >= _ALL[0] * count, count, np.minimum(still, max(MOST, -(-count // SHARE))))
    return Choice(coarse.patch, keys, counts.astype(np.uint32))
