"""Video files, through FFmpeg (PyAV). Sequential decoding; only frames that are due are converted to pixels.

The pixels are those of `cv2.VideoCapture.read`, bit for bit (swscale, bicubic, rotated by the display matrix), so
that a tracker that reads with OpenCV can subtract the background. One exception: video of more than 8 bits is
converted at 16 bits and then rounded, which is up to 3 levels nearer to the truth than swscale's direct way.

A frame's time is its presentation timestamp, counted from the first frame's. Where a container has no timestamp,
or one that does not increase, the time is that of the frame before plus 1 / frame rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
from gpu_bgstat.sources.source import Source

_TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg plays text files as films of a terminal


class VideoSource(Source):
    """One video file."""

    def __init__(self, path: Path, depth: int | None = None) -> None:
        super().__init__(str(path))
        self._path = path
        self._depth = depth or 8
        with self._open() as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            rate = stream.average_rate or stream.guessed_rate
            self._frame_s = float(1 / rate) if rate else 0.0
            self.container = {
                "format": container.format.name,
                "codec": codec.name,
                "pixel_format": codec.pix_fmt,
                "width": codec.width,
                "height": codec.height,
                "frames_per_s": float(rate) if rate else None,
                "duration_s": container.duration / 1e6 if container.duration else None,
                "frames_in_header": stream.frames or None,
            }
            if codec.width and codec.height:
                self.spec = FrameSpec(codec.width, codec.height, 3, np.dtype(f"uint{self._depth}"))
            self.timeline = self._foretell(container)

    def _open(self) -> Any:
        """The opened container; raises SourceError with FFmpeg's reason."""
        try:
            container = av.open(str(self._path))
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{self._path} is no video that FFmpeg can read ({_reason(error)})") from error
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self._path} has no video stream: give the file with the pictures")
        if container.streams.video[0].codec_context.name in _TEXT_CODECS:
            container.close()
            raise SourceError(f"{self._path} is a text file, no video")
        return container

    def _foretell(self, container: Any) -> Timeline:
        """The frames that the packets promise, without decoding. A complete read corrects it."""
        stamps: list[int | None] = []
        stream = container.streams.video[0]
        with suppress(av.error.FFmpegError):  # the read meets the same damage, and reports it
            stamps.extend(packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard)
        known = sorted(stamp for stamp in stamps if stamp is not None)
        if len(known) < len(stamps):
            return Timeline(len(stamps), np.arange(len(stamps), dtype=np.float64) * self._frame_s)
        ticks = np.asarray(known, np.int64)
        return Timeline(len(stamps), (ticks - ticks[:1]).astype(np.float64) * float(stream.time_base))

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        times: list[float] = []
        with self._open() as container:
            container.streams.video[0].thread_type = "AUTO"
            for picture in self._pictures(container):
                index = self.seen
                times.append(self._time_s(picture, times))
                if plan.over(index, times[-1]):
                    return
                self.seen += 1
                if plan.due(index, times[-1]):
                    yield Frame(index, times[-1], self._pixels(picture))
        self._correct(times)

    def _pictures(self, container: Any) -> Iterator[VideoFrame]:
        """All frames in order. Packets that cannot be decoded are counted and passed over."""
        packets = container.demux(container.streams.video[0])
        undecodable = corrupt = 0
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.warnings.append(f"reading stopped after {self.seen} frames ({_reason(error)})")
                break
            if packet is None:
                break
            corrupt += packet.is_corrupt
            try:
                pictures = packet.decode()
            except av.error.FFmpegError:
                undecodable += 1
                self.damaged += 1
                continue
            for picture in pictures:
                if picture.is_corrupt:
                    self.damaged += 1
                yield picture
        if self.damaged:
            marked = self.damaged - undecodable
            self.warnings.append(
                f"damage: {undecodable} packets could not be decoded, {marked} frames were decoded with errors"
            )

    def _time_s(self, picture: VideoFrame, times: list[float]) -> float:
        if not times:
            self._origin = picture.pts
            return 0.0
        if picture.pts is not None and self._origin is not None and picture.time_base is not None:
            time_s = (picture.pts - self._origin) * float(picture.time_base)
            if time_s > times[-1]:
                return time_s
        return times[-1] + self._frame_s

    def _correct(self, times: list[float]) -> None:
        """After a complete read: the true timeline, and a word if the file promised another."""
        foretold = self.container["frames_in_header"] or (self.timeline.frames if self.timeline else 0)
        if not times:
            raise SourceError(f"{self._path}: not one frame could be decoded; is the file whole?")
        if foretold != len(times):
            self.warnings.append(f"the file promises {foretold} frames, and {len(times)} could be decoded")
        self.timeline = Timeline(len(times), np.asarray(times))

    def _pixels(self, picture: VideoFrame) -> Image:
        """BGR, 8 or 16 bit, turned upright."""
        deep = picture.format.components[0].bits > 8
        wide = deep or self._depth == 16
        pixels: Image = picture.to_ndarray(format="bgr48le" if wide else "bgr24", interpolation=Interpolation.BICUBIC)
        if wide and self._depth == 8:
            pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
        quarters, rest = divmod(picture.rotation, 90)
        if quarters and not rest:
            pixels = np.rot90(pixels, quarters)
        return np.ascontiguousarray(pixels)


def _reason(error: Exception) -> str:
    """FFmpeg's own words, without the number and the file name."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0]
