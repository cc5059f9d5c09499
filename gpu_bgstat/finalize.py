"""Statistics become a background: stable mask, fill, heat map, confidence. Host arrays, the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.config import Config
from gpu_bgstat.fill import FILLS
from gpu_bgstat.frames import Image, Noise
from gpu_bgstat.noise import estimate_noise

UNSURE = 64  # of 255: a confidence below is that of a background that less than a quarter of the samples show


@dataclass(frozen=True)
class Final:
    """What becomes of the statistics; the fields are those of `Background`."""

    background: Image
    variance: NDArray[np.float32]
    stable: NDArray[np.bool_]
    heatmap: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    noise: Noise
    thresholds: tuple[float, ...]


class Samples(Protocol):
    """What is asked of the samples beside their variance and ranks."""

    def __len__(self) -> int: ...

    def modes(self, width: int) -> Image: ...

    def support(self, image: Image, tolerance: int) -> NDArray[np.uint16]: ...


def finalize(
    background: Image,
    variance: NDArray[np.float32],
    config: Config,
    samples: Samples,
    choice: NDArray[np.uint8] | None = None,
) -> Final:
    """What a method made of the samples, (H, W[, 3]), with its holes filled, and all that is told of it.

    choice  (H, W): not 0 where evidence speaks for the background, so that it is not unsure, however few show it
    """
    noise = estimate_noise(variance, background, len(samples))
    thresholds = noise.thresholds
    if config.threshold != "auto":
        thresholds = (config.threshold,) * len(noise.thresholds)
    stable = stable_mask(variance, thresholds)
    trust = confidence(samples.support(background, noise.tolerance), len(samples))
    holes, fill = ~stable, FILLS[config.fill]
    if fill and fill.unsure_only:
        holes &= trust < UNSURE
        if choice is not None:
            holes &= choice == 0
    if fill and holes.any():
        background = fill.paint(background, holes, lambda: samples.modes(noise.width))
        trust = confidence(samples.support(background, noise.tolerance), len(samples))
    return Final(background, variance, stable, heatmap(variance), trust, noise, thresholds)


def stable_mask(variance: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """(H, W): whether the variance is at most its channel's threshold (rounded to float32) in every channel."""
    if variance.ndim == 2:
        return variance <= np.float32(thresholds[0])
    stable = np.ones(variance.shape[:2], bool)
    for channel, threshold in enumerate(thresholds):
        stable &= variance[:, :, channel] <= np.float32(threshold)
    return stable


def confidence(agreeing: NDArray[np.uint16], count: int) -> NDArray[np.uint8]:
    """(H, W): 255 times the share of `count` samples that agree with the background, rounded; of the worst channel."""
    worst = agreeing if agreeing.ndim == 2 else agreeing.min(axis=2)
    return ((510 * worst.astype(np.uint32) + count) // (2 * count)).astype(np.uint8)


def heatmap(variance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) uint8: the variance, mean over the channels, scaled so that its 99th percentile is 255.

    Computed in float64. The percentile interpolates linearly; it counts as 1.0 if it is 1e-8 or less.
    """
    v = variance.astype(np.float64) if variance.ndim == 2 else variance.mean(axis=2, dtype=np.float64)
    top = float(np.percentile(v, 99.0))
    return np.clip(v / (top if top > 1e-8 else 1.0) * 255.0, 0, 255).astype(np.uint8)
