"""A decoded picture becomes pixels: BGR or grey, 8 or 16 bit, turned upright.

The bits are those of OpenCV 5's `cv2.VideoCapture.read` (swscale, bicubic, turned by the display matrix), so that a
tracker that reads with OpenCV can subtract the background. One exception: video of more than 8 bits is converted at
16 bits and then rounded, up to 3 levels nearer to the truth than swscale's direct way.
"""

from __future__ import annotations

import av.error
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from gpu_bgstat.backends import nvdec
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Image
from gpu_bgstat.media.video_file import reason


class PixelReader:
    """Turns pictures into arrays without copying them. One for each thread: it keeps swscale's tables."""

    def __init__(self, name: str, depth: int, gray: bool) -> None:
        self._name = name
        self._depth = depth
        self._gray = gray
        self._reformatter = VideoReformatter()

    def __call__(self, picture: VideoFrame) -> Image:
        """(H, W, 3) BGR, or (H, W) where grey is asked for and the picture's luma equals COLOR_BGR2GRAY of it.

        A view of memory that is the receiver's to keep; rows may be padded. Raises SourceError for pixel formats that
        FFmpeg cannot convert.
        """
        if picture.format.name == "cuda":
            return self._turned(nvdec.to_bgr(picture), picture)
        deep = picture.format.components[0].bits > 8
        wide = deep or self._depth == 16
        if self._gray and not wide and picture.format.name == "gray":
            pixels = _plane(picture, 1, np.dtype("u1"))  # of other formats, luma is not what BGR gives
        else:
            form = "bgr48le" if wide else "bgr24"
            try:
                converted = self._reformatter.reformat(
                    picture, format=form, interpolation=Interpolation.BICUBIC, threads=1
                )
            except (av.error.FFmpegError, ValueError) as error:
                raise SourceError(
                    f"{self._name}: {picture.format.name} pixels cannot be read ({reason(error)})"
                ) from error
            pixels = _plane(converted, 3, np.dtype("<u2" if wide else "u1"))
        if wide and self._depth == 8:
            pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
        return self._turned(pixels, picture)

    def _turned(self, pixels: Image, picture: VideoFrame) -> Image:
        quarters, rest = divmod(picture.rotation, 90)
        return np.rot90(pixels, quarters) if quarters and not rest else pixels


def _plane(picture: VideoFrame, channels: int, dtype: np.dtype[np.generic]) -> Image:
    """The first plane as an array that shares its memory."""
    plane = picture.planes[0]
    rows = np.frombuffer(plane, dtype).reshape(picture.height, -1)  # type: ignore[call-overload]
    pixels: Image = rows[:, : picture.width * channels]
    return pixels if channels == 1 else pixels.reshape(picture.height, picture.width, channels)
