"""A frame becomes a sample: its type, its colour, its size and its region are made those of the ring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from gpu_bgstat.config import Config
from gpu_bgstat.errors import ConfigError, FrameError
from gpu_bgstat.frames import FrameSpec, Image


class Conformer:
    """Turns frames into samples of one spec; counts what it had to change.

    frame (H, W[, C]) any type  ──►  sample (h, w[, 3]) uint8 or uint16, C-contiguous

    Other types are clipped to the sample type's range and truncated, other sizes are resized (linear),
    BGR turns grey by COLOR_BGR2GRAY, and the region of interest is cut out last.
    """

    def __init__(self, frames: FrameSpec, config: Config) -> None:
        self._frames = frames
        self._roi = config.roi or (0, 0, frames.width, frames.height)
        x, y, width, height = self._roi
        if x + width > frames.width or y + height > frames.height:
            raise ConfigError(
                f"roi={x},{y},{width},{height} reaches outside the frame of {frames.width}x{frames.height}: "
                f"X+W may be {frames.width} and Y+H {frames.height} at most"
            )
        dtype = frames.dtype if config.depth is None else np.dtype(f"uint{config.depth}")
        channels = 1 if config.gray else frames.channels
        self.spec = replace(frames, width=width, height=height, channels=channels, dtype=dtype)
        self.resized = 0
        self.clipped: set[str] = set()  # names of the types that were clipped

    def __call__(self, frame: Image) -> Image:
        """The sample of this frame; raises FrameError if the array is no frame."""
        given = FrameSpec.of(frame)
        if frame.ndim == 3 and frame.shape[2] == 1:
            frame = frame[:, :, 0]
        frame = self._with_type(frame)
        if (given.width, given.height) == (self._frames.width, self._frames.height):
            return np.ascontiguousarray(self._with_channels(self._cut(frame)))
        self.resized += 1
        frame = self._with_channels(frame)
        size = (self._frames.width, self._frames.height)
        return np.ascontiguousarray(self._cut(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)))

    def _cut(self, frame: Image) -> Image:
        x, y, width, height = self._roi
        return frame[y : y + height, x : x + width]

    def _with_type(self, frame: Image) -> Image:
        dtype = self.spec.dtype
        if frame.dtype == dtype:
            return frame
        if frame.dtype.kind == "f" and not np.isfinite(frame).all():
            raise FrameError(f"a {frame.dtype} frame holds values that are no numbers: replace them first")
        if not np.can_cast(frame.dtype, dtype):
            self.clipped.add(str(frame.dtype))
        limits: Any = np.iinfo(dtype)
        return np.clip(frame, limits.min, limits.max).astype(dtype)

    def _with_channels(self, frame: Image) -> Image:
        channels = 1 if frame.ndim == 2 else frame.shape[2]
        if channels == 4:
            frame = frame[:, :, :3]
        if channels == 1 and self.spec.channels == 3:
            return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_GRAY2BGR)
        if channels != 1 and self.spec.channels == 1:
            return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGR2GRAY)
        return frame
