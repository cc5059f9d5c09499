"""Video files, through FFmpeg (PyAV). Sequential decoding; only frames that are due are converted to pixels.

The pixels are those of OpenCV 5's `cv2.VideoCapture.read`, bit for bit (swscale, bicubic, rotated by the display
matrix), so that a tracker that reads with OpenCV can subtract the background. One exception: video of more than 8
bits is converted at 16 bits and then rounded, up to 3 levels nearer to the truth than swscale's direct way.

A frame's time is its presentation timestamp, counted from the first frame's. Where a container has no timestamp,
or one that does not increase, the time is that of the frame before plus 1 / frame rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
from gpu_bgstat.sources.source import Source

_FEW_GAPS = 0.05  # a recording with a larger share of long intervals has a variable frame rate
_TS_PACKETS = (188, 192, 204)  # bytes a packet of an MPEG transport stream: plain, with time codes, with parity
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
            self._frame_s = 1 / Fraction(rate) if rate else Fraction(0)
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
            self._hidden = 0  # packets that an edit list leaves out; the header's count includes them
            self.timeline = self._foretell(container)
            in_header = stream.frames - self._hidden
            self._promised = in_header if in_header > 0 else self.timeline.frames

    def _open(self) -> Any:
        """The opened container; raises SourceError with FFmpeg's reason."""
        try:
            container = av.open(f"file:{self._path}")  # else a colon in a relative name would be a protocol's
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
        """The frames that the packets promise; only the first is decoded, for its size. A complete read corrects it."""
        stamps: list[int | None] = []
        stream = container.streams.video[0]
        with suppress(av.error.FFmpegError):  # the read meets the same damage, and reports it
            for packet in container.demux(stream):
                if self.spec is None:
                    self.spec = self._look(packet)
                if packet.size and packet.is_discard:
                    self._hidden += 1
                elif packet.size:
                    stamps.append(packet.pts)
        known = sorted(stamp for stamp in stamps if stamp is not None)
        if len(known) < len(stamps):
            return Timeline(len(stamps), np.arange(len(stamps), dtype=np.float64) * float(self._frame_s))
        ticks = np.asarray(known, np.int64)
        return Timeline(len(stamps), (ticks - ticks[:1]).astype(np.float64) * float(stream.time_base))

    def _look(self, packet: Any) -> FrameSpec | None:
        """The spec of the packet's picture, turned upright; None if it gives none yet."""
        try:
            picture = next(iter(packet.decode()), None)
        except av.error.FFmpegError:
            return None
        if picture is None:
            return None
        size = (picture.height, picture.width) if picture.rotation % 180 == 90 else (picture.width, picture.height)
        return FrameSpec(*size, 3, np.dtype(f"uint{self._depth}"))

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        times: list[Fraction] = []  # exact, since a float that has added up is never equal to a timestamp
        with self._open() as container:
            container.streams.video[0].thread_type = "AUTO"
            for picture in self._pictures(container):
                index = self.seen
                times.append(self._time_s(picture, times))
                time_s = float(times[-1])
                if plan.over(index, time_s):
                    return
                self.seen += 1
                if plan.due(index, time_s):
                    yield Frame(index, time_s, self._pixels(picture))
        self._correct(times)

    def _pictures(self, container: Any) -> Iterator[VideoFrame]:
        """All frames in order. Packets that cannot be decoded are counted and passed over."""
        packets = container.demux(container.streams.video[0])
        undecodable = incomplete = 0
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.warnings.append(f"reading stopped after {self.seen} frames ({_reason(error)})")
                break
            if packet is None:
                break
            incomplete += packet.is_corrupt
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
        marked, self.damaged = self.damaged - undecodable, max(self.damaged, incomplete)
        if self.damaged:
            self.warnings.append(
                f"damage: {incomplete} packets are incomplete, {undecodable} could not be decoded, "
                f"{marked} frames were decoded with errors"
            )

    def _time_s(self, picture: VideoFrame, times: list[Fraction]) -> Fraction:
        if not times:
            self._origin = picture.pts
            return Fraction(0)
        if picture.pts is not None and self._origin is not None and picture.time_base is not None:
            time_s = (picture.pts - self._origin) * picture.time_base
            if time_s > times[-1]:
                return time_s
        return times[-1] + self._frame_s

    def _correct(self, times: list[Fraction]) -> None:
        """After a complete read: the true timeline, and a word if the file promised another."""
        if not times:
            raise SourceError(f"{self._path}: not one frame could be decoded; is the file whole?")
        if self._promised != len(times):
            self.warnings.append(f"the file promises {self._promised} frames, and {len(times)} could be decoded")
        elif self._ends_early(float(times[-1] + self._frame_s)):
            self.warnings.append(
                f"the file promises {self.container['duration_s']:.1f} s, and the {len(times)} frames in it end "
                f"after {float(times[-1]):.1f} s: is it whole?"
            )
        self.timeline = Timeline(len(times), np.asarray(times, np.float64))
        if missing := _missing(np.diff(np.asarray(times, np.float64))):
            self.warnings.append(f"the timestamps leave gaps, as if {missing} frames were missing")
        if self.container["format"] == "mpegts" and all(self._path.stat().st_size % size for size in _TS_PACKETS):
            self.warnings.append(f"the file ends within a transport packet, after {len(times)} frames: is it whole?")

    def _ends_early(self, end_s: float) -> bool:
        """Whether a tenth of the promised duration, or more, has no pictures; sound may last a little longer."""
        promised_s = self.container["duration_s"]
        return promised_s is not None and promised_s - end_s > max(1.0, promised_s / 10)

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


def _missing(intervals_s: NDArray[np.float64]) -> int:
    """How many frames would fill the gaps between otherwise even times; 0 where times are uneven anyway."""
    if not intervals_s.size:
        return 0
    steps = np.rint(intervals_s / np.median(intervals_s))
    gaps = steps > 1
    return int((steps[gaps] - 1).sum()) if gaps.mean() < _FEW_GAPS else 0


def _reason(error: Exception) -> str:
    """FFmpeg's own words, without the number and the file name."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0]
