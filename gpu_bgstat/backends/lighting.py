"""A strip of samples in their common light, in NumPy and OpenCV.

    strip (T, W) ──row t, channel c──► (gain[t, c] * x + offset[t, c]) >> 16

8-bit samples go through a table of 256 entries for each sample and channel, wider ones are computed.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Light
from gpu_bgstat.backends.moments import Samples

_TOGETHER = 64  # tables that are made at a time
_ROW_BYTES = 1 << 20  # of 64-bit intermediate results


class Lighting:
    """What a light does to the samples of slots 0 .. count-1."""

    def __init__(self, light: Light, count: int, dtype: np.dtype[np.uint8] | np.dtype[np.uint16]) -> None:
        self._gains, self._offsets = light.gains[:count], light.offsets[:count]
        self._dtype = dtype
        self._top = np.iinfo(dtype).max
        self.channels = light.gains.shape[1]
        self._tables: NDArray[np.uint8] | None = None  # (T, 256, C)
        if dtype == np.uint8:
            levels = np.arange(256)[:, None]
            self._tables = np.empty((count, 256, self.channels), np.uint8)
            for start in range(0, count, _TOGETHER):
                some = slice(start, start + _TOGETHER)
                values = (self._gains[some, None] * levels + self._offsets[some, None]) >> 16
                self._tables[some] = values.clip(0, 255)

    def __call__(self, strip: Samples, first: int) -> Samples:
        """A copy of strip (T, W) in the common light; `first` is the place of its first value in the frame."""
        channels = (first + np.arange(self.channels)) % self.channels
        out = np.empty_like(strip, order="C")
        if self._tables is not None:
            self._look_up(strip, channels, out)
        else:
            self._compute(strip, channels, out)
        return out

    def _look_up(self, strip: Samples, channels: NDArray[np.int64], out: Samples) -> None:
        assert self._tables is not None
        whole = strip.shape[1] // self.channels * self.channels
        for row, target, table in zip(strip, out, self._tables, strict=True):
            ordered = np.ascontiguousarray(table[:, channels])
            if whole:
                pixels = row[:whole].reshape(-1, 1, self.channels)
                target[:whole] = cv2.LUT(pixels, ordered.reshape(256, 1, self.channels)).reshape(-1)
            for place in range(whole, strip.shape[1]):
                target[place] = ordered[row[place], place - whole]

    def _compute(self, strip: Samples, channels: NDArray[np.int64], out: Samples) -> None:
        count, width = strip.shape
        each = channels[np.arange(width) % self.channels]
        rows = max(1, _ROW_BYTES // (8 * width))
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            values = self._gains[part][:, each] * strip[part]
            values += self._offsets[part][:, each]
            values >>= 16
            out[part] = values.clip(0, self._top, out=values)
