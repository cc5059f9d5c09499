"""Video files, through FFmpeg (PyAV). Sequential decoding; only frames that are due are converted to pixels.

The pixels are those of OpenCV 5's `cv2.VideoCapture.read`, bit for bit (swscale, bicubic, rotated by the display
matrix), so that a tracker that reads with OpenCV can subtract the background. One exception: video of more than 8
bits is converted at 16 bits and then rounded, up to 3 levels nearer to the truth than swscale's direct way.

A frame's time is its presentation timestamp, counted from the first frame's. Where a container has no timestamp,
or one that does not increase, the time is that of the frame before plus 1 / frame rate.
"""

from __future__ import annotations

from array import array
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
            self._accompanied = len(container.streams) > 1
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
        times = array("d")
        last: Fraction | None = None  # exact, since a float that has added up is never equal to a timestamp
        with self._open() as container:
            container.streams.video[0].thread_type = "AUTO"
            for picture in self._pictures(container):
                index = self.seen
                last = self._time_s(picture, last)
                time_s = float(last)
                times.append(time_s)
                if plan.over(index, time_s):
                    return
                self.seen += 1
                if plan.due(index, time_s):
                    yield Frame(index, time_s, self._pixels(picture))
        self._correct(np.asarray(times))

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

    def _time_s(self, picture: VideoFrame, last: Fraction | None) -> Fraction:
        if last is None:
            self._origin = picture.pts
            return Fraction(0)
        if picture.pts is not None and self._origin is not None and picture.time_base is not None:
            time_s = (picture.pts - self._origin) * picture.time_base
            if time_s > last:
                return time_s
        return last + self._frame_s

    def _correct(self, times_s: NDArray[np.float64]) -> None:
        """After a complete read: the true timeline, and a word if the file promised another."""
        count = len(times_s)
        if not count:
            raise SourceError(f"{self._path}: not one frame could be decoded; is the file whole?")
        self.timeline = Timeline(count, times_s)
        if self._promised != count:
            self.warnings.append(f"the file promises {self._promised} frames, and {count} could be decoded")
        end_s = float(times_s[-1]) + float(self._frame_s)
        if missing := self._missing_after(end_s):
            self.warnings.append(
                f"the file promises {self.container['duration_s']:.1f} s, and its {count} frames end after "
                f"{end_s:.1f} s, as if {missing} more were missing: is it whole?"
            )
        if missing := _missing(np.diff(times_s)):
            self.warnings.append(f"the timestamps leave gaps, as if frames were missing: {missing}")
        if self.container["format"] == "mpegts" and all(self._path.stat().st_size % size for size in _TS_PACKETS):
            self.warnings.append(f"the file ends within a transport packet, after {count} frames: is it whole?")

    def _missing_after(self, end_s: float) -> int:
        """How many frames would fill the promised duration; 0 for a difference that whole files have, too.

        Sound may last longer than the pictures; without any, a few frames' time is all that headers are wrong by.
        """
        promised_s = self.container["duration_s"] or 0.0
        tolerated_s = max(1.0, promised_s / 10) if self._accompanied else max(0.2, 3 * float(self._frame_s))
        late_s = promised_s - end_s
        return round(late_s / float(self._frame_s)) if self._frame_s and late_s > tolerated_s else 0

    def _pixels(self, picture: VideoFrame) -> Image:
        """BGR, 8 or 16 bit, turned upright."""
        deep = picture.format.components[0].bits > 8
        wide = deep or self._depth == 16
        form = "bgr48le" if wide else "bgr24"
        try:
            pixels: Image = picture.to_ndarray(format=form, interpolation=Interpolation.BICUBIC)
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{self._path}: {picture.format.name} pixels cannot be read ({_reason(error)})"
            ) from error
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
