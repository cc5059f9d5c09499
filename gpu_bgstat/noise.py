"""The sensor's own noise, from the variance over time of every pixel, many of which have animals in them.

    pixels per cube root
      ▂▅█▇▄▂▁▁▁ ▁▁▁▂▂▂▁▁▁▁▁▂▁▁▁        The cube root of the variance of T samples is nearly normal (Wilson and Hilferty,
       noise       visited             PNAS 1931): noise is a narrow peak, and all that moves lies to its right.

Noise goes with the light (Foi et al., "Practical Poissonian-Gaussian noise modeling", IEEE TIP 2008), so each channel
is cut into bins of equally many pixels by brightness. In each, the shortest interval that holds a quarter of the pixels
is the peak, and its left flank tells how wide it is: never less than T samples make it, and more where compression
treats blocks unequally. Bins with more than light explains, measured by the quietest quarter of them, are visited
almost everywhere, and left out. The noisiest of the others counts.

Neither clipped pixels (their noise is cut off) nor those that never vary (copied by the codec, or rendered) are asked.
Where half or more never vary, there is no noise but that of rounding.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image, Noise

ROUNDING = 0.25  # squared grey levels: what a value between two levels varies by, at most
_SIGMAS = 3.09  # of the cube root: one pixel in 1,000 of noise alone lies above
_FEW = 8  # samples; of fewer, the variance takes few values, so that of 25 neighbours is averaged to find the peak
_BESIDE = 5  # pixels, the side of that neighbourhood
_BINS = 16
_MOST = 1 << 19  # pixels of a channel that are asked, evenly spaced; more tell nothing new
_LEAST = 64  # pixels that make a bin
_SLACK = 3.0  # times what light explains: a bin with more is visited almost everywhere
_WIDEST = 0.35  # of the centre: the most that the peak's standard deviation can be, if T samples do not make it wider
_QUARTILE = 0.6745  # standard deviations: half of a normal peak's flank lies within


def estimate_noise(variance: NDArray[np.float32], median: Image, count: int) -> Noise:
    """The noise of `count` samples, 2 or more, that have this variance and this median, both (H, W[, 3])."""
    step = max(1, math.isqrt(variance.shape[0] * variance.shape[1] // _MOST))
    white = int(np.iinfo(median.dtype).max)
    found = []
    for channel in range(1 if variance.ndim == 2 else variance.shape[2]):
        plane = np.ascontiguousarray(variance if variance.ndim == 2 else variance[:, :, channel])
        level = (median if median.ndim == 2 else median[:, :, channel])[::step, ::step]
        asked = (level > 0) & (level < white)
        if not asked.any():
            asked = np.ones_like(asked)
        found.append(_of_rounding(plane[::step, ::step][asked], count) or _channel(plane, step, asked, level, count))
    variances, thresholds = zip(*found, strict=True)
    return Noise(variances, thresholds)


def _of_rounding(variance: NDArray[np.float32], count: int) -> tuple[float, float] | None:
    """Variance of the noise, and threshold, of pixels (N,) of which half or more never vary; None for others."""
    if 2 * np.count_nonzero(variance) > len(variance):
        return None
    noise = float(variance[variance <= ROUNDING].mean(dtype=np.float64)) * count / (count - 1)
    return noise, max(ROUNDING, _threshold(noise, count, 0.0))


def _channel(
    plane: NDArray[np.float32], step: int, asked: NDArray[np.bool_], level: NDArray[Any], count: int
) -> tuple[float, float]:
    """Variance of the noise, and threshold, of a channel (H, W), by those of every step-th pixel that are asked."""
    pooled = 1
    pixels: Any = plane
    if count < _FEW:
        pooled = _BESIDE**2
        pixels = cv2.blur(plane, (_BESIDE, _BESIDE))
    variance, level = pixels[::step, ::step][asked], level[asked]
    varies = variance > 0
    order = np.argsort(level[varies], kind="stable")
    roots = np.cbrt(variance[varies][order].astype(np.float64))
    levels = level[varies][order].astype(np.float64)
    bins = max(1, min(_BINS, len(roots) // _LEAST))
    parts = [slice(*edges) for edges in pairwise(len(roots) * k // bins for k in range(bins + 1))]
    centres, flanks = np.array([_peak(roots[part]) for part in parts]).T
    quiet = _quiet(centres**3, np.array([levels[part].mean() for part in parts]))
    shift, spread = _normal(pooled * (count - 1))
    noise = float((centres[quiet].max() / shift) ** 3) * count / (count - 1)
    width = float(np.median(flanks[quiet] / centres[quiet]))
    excess = math.sqrt(max(0.0, min(width, _WIDEST) ** 2 - (spread / shift) ** 2))
    return noise, max(ROUNDING, _threshold(noise, count, excess))


def _peak(roots: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of the noise's peak in one bin, and the standard deviation of its left flank."""
    ordered = np.sort(roots)
    quarter = max(1, len(ordered) // 4)
    first = int(np.argmin(ordered[quarter - 1 :] - ordered[: len(ordered) - quarter + 1]))
    centre = float(ordered[first + quarter // 2])
    left = centre - ordered[ordered < centre]
    return centre, float(np.median(left)) / _QUARTILE if len(left) else 0.0


def _quiet(noise: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which bins (N,) have no more noise than the quietest quarter, and photon noise that grows with light, explain."""
    low = np.argsort(noise, kind="stable")[(len(noise) - 1) // 4]
    return np.asarray(noise <= _SLACK * noise[low] * np.maximum(1.0, level / max(1.0, level[low])))


def _normal(freedom: int) -> tuple[float, float]:
    """Mean and standard deviation of the cube root of chi-square over its degrees of freedom (Wilson and Hilferty)."""
    part = 2 / (9 * freedom)
    return 1 - part, math.sqrt(part)


def _threshold(noise: float, count: int, excess: float) -> float:
    """What the variance of `count` samples of this noise exceeds once in 1,000.

    excess  the peak's relative standard deviation in the cube root, beside what few samples make of it
    """
    shift, spread = _normal(count - 1)
    return noise * (count - 1) / count * (shift + _SIGMAS * math.hypot(spread, shift * excess)) ** 3
