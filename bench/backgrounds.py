"""Ways to a background, for bench_quality.py: this package's settings, and what others do, re-stated in NumPy.

To add one of ours: a setting in Config with listed choices is enough (`method`, `fill`), else a line in `ours`. To add
a peer: a function from a Film to a picture, and a line in PEERS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat import Config, estimate

Frames = NDArray[np.uint8]  # (N, H, W, 3) BGR
Picture = NDArray[np.uint8]  # (H, W, 3) BGR

_BAND = 1 << 15  # pixels that are worked on at a time, so that memory stays small


@dataclass(frozen=True)
class Film:
    """A recording: its frames, which of them are samples, the truth, and the file for those who read it themselves."""

    name: str
    frames: Frames
    every: int
    truth: Picture
    source: Path
    seed: int | None = None  # of a synthetic scene
    also_true: Picture | None = None  # in another light that holds as long

    @property
    def samples(self) -> Frames:
        return self.frames[self.every - 1 :: self.every]


Way = Callable[[Film], Picture]


def ours() -> dict[str, dict[str, Any]]:
    """name -> settings of Config: the default, and each choice of `method` and of `fill` by itself."""
    found: dict[str, dict[str, Any]] = {"default": {}}
    for setting in ("method", "fill"):
        field = Config.model_fields.get(setting)
        choices = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
        found |= {f"{setting}={choice}": {setting: choice} for choice in choices}
    return found


def by_us(film: Film, settings: dict[str, Any]) -> Picture:
    """As a user would have it: from the file, by the public API."""
    return estimate(film.source, Config(every=film.every, device="cpu", **settings)).background


def median(film: Film) -> Picture:
    return _median(film.samples)


def mean(film: Film) -> Picture:
    return _mean(film.samples)


def mode(film: Film) -> Picture:
    return _mode(film.samples)


def mog2(film: Film) -> Picture:
    """OpenCV's mixture of Gaussians (Zivkovic 2004), fed all frames, with a history as long as the recording."""
    return _subtractor(cv2.createBackgroundSubtractorMOG2(len(film.frames), detectShadows=False), film)


def knn(film: Film) -> Picture:
    """OpenCV's nearest neighbours (Zivkovic and van der Heijden 2006), as `mog2`."""
    return _subtractor(cv2.createBackgroundSubtractorKNN(len(film.frames), detectShadows=False), film)


def labgen_p(film: Film) -> Picture:
    """LaBGen-P with its defaults, S = 19 and N = 3 (Laugraud, Piérard, Van Droogenbroeck, SBMC 2016), all frames.

    Motion is the difference of grey to the frame before, summed over a window a third of the shorter side wide. At each
    pixel the median of the 19 frames with the least; of equal ones the later.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in film.frames]
    count, (height, width) = len(grey) - 1, grey[0].shape
    side = min(height, width) // 3 | 1
    rank = np.empty((count, height * width), np.int64)
    for number in range(count):
        motion = cv2.absdiff(grey[number + 1], grey[number])
        summed = cv2.boxFilter(motion, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        rank[number] = np.rint(summed).astype(np.int64).ravel() * count + (count - 1 - number)
    pixels = film.frames[1:].reshape(count, -1, 3)
    background = np.empty((height * width, 3), np.uint8)
    for start in range(0, height * width, _BAND):
        band = slice(start, start + _BAND)
        chosen = np.argpartition(rank[:, band], min(19, count) - 1, axis=0)[:19]
        background[band] = _median(np.take_along_axis(pixels[:, band], chosen[:, :, None], axis=0))
    return background.reshape(film.truth.shape)


def idtracker(film: Film) -> Picture:
    """idtracker.ai 6: the median of 50 frames, evenly spaced from the first to the last (np.linspace, whole numbers).

    It works in grey; here each channel is taken by itself.
    """
    return _median(film.frames[np.linspace(0, len(film.frames) - 1, 50, dtype=int)])


def trex(statistic: Callable[[Frames], Picture]) -> Way:
    """TRex: 25 samples (`average_samples`) in whole steps from the first frame; `averaging_method` is mean by default.

    It works in grey; here each channel is taken by itself.
    """
    return lambda film: statistic(film.frames[:: max(1, len(film.frames) // 25)][:25])


def _median(frames: Frames) -> Picture:
    return np.asarray(np.median(frames, axis=0)).astype(np.uint8)


def _mean(frames: Frames) -> Picture:
    return np.asarray(np.rint(frames.mean(axis=0))).astype(np.uint8)


def _mode(frames: Frames) -> Picture:
    """Of each value what occurs most often, and the smallest of these."""
    values = frames.reshape(len(frames), -1)
    found = np.empty(values.shape[1], np.uint8)
    for start in range(0, values.shape[1], _BAND):
        part = values[:, start : start + _BAND]
        counts = np.zeros((256, part.shape[1]), np.uint16)
        for row in part:
            counts[row, np.arange(part.shape[1])] += 1
        found[start : start + _BAND] = counts.argmax(axis=0)
    return found.reshape(frames.shape[1:])


def _largest(frames: Frames) -> Picture:
    return np.asarray(frames.max(axis=0))


def _smallest(frames: Frames) -> Picture:
    return np.asarray(frames.min(axis=0))


def _subtractor(model: Any, film: Film) -> Picture:
    for frame in film.frames:
        model.apply(frame)
    return np.asarray(model.getBackgroundImage())


PLAIN = "plain median"
PEERS: dict[str, Way] = {
    PLAIN: median,
    "mean": mean,
    "mode": mode,
    "MOG2": mog2,
    "KNN": knn,
    "LaBGen-P": labgen_p,
    "idtracker.ai": idtracker,
    "TRex": trex(_mean),
    "TRex mode": trex(_mode),
    "TRex max": trex(_largest),
    "TRex min": trex(_smallest),
}
