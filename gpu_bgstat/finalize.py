"""Statistics become a background: stable mask, fill, heat map. Small host arrays only, the same for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.config import Config
from gpu_bgstat.frames import Image


def finalize(
    background: Image, variance: NDArray[np.float32], config: Config
) -> tuple[Image, NDArray[np.bool_], NDArray[np.uint8]]:
    """Background (H, W[, 3]) with its unstable pixels filled, stable mask (H, W) and heat map (H, W)."""
    stable = stable_mask(variance, config.threshold)
    return FILLS[config.fill](background, stable), stable, heatmap(variance)


def stable_mask(variance: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """(H, W): whether the variance is at most `threshold` (rounded to float32) in every channel."""
    worst: NDArray[np.float32] = variance if variance.ndim == 2 else variance.max(axis=2)
    return worst <= np.float32(threshold)


def fill_median(median: Image, stable: NDArray[np.bool_]) -> Image:
    """Unstable pixels keep their own median."""
    return median


def fill_global(median: Image, stable: NDArray[np.bool_]) -> Image:
    """Unstable pixels show, per channel, the median of the stable pixels, truncated; of all if none is stable."""
    filled = median.copy()
    chosen = median[stable] if stable.any() else median[np.ones_like(stable)]
    filled[~stable] = np.median(chosen, axis=0).astype(median.dtype)
    return filled


FILLS: dict[str, Any] = {"median": fill_median, "global": fill_global}


def heatmap(variance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) uint8: the variance, mean over the channels, scaled so that its 99th percentile is 255.

    Computed in float64. The percentile interpolates linearly; it counts as 1.0 if it is 1e-8 or less.
    """
    v = variance.astype(np.float64) if variance.ndim == 2 else variance.mean(axis=2, dtype=np.float64)
    top = float(np.percentile(v, 99.0))
    return np.clip(v / (top if top > 1e-8 else 1.0) * 255.0, 0, 255).astype(np.uint8)
