"""Every frame of a video from its beginning: where the packets do not tell beforehand which becomes the n-th frame."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any

import av.error
from av.video.frame import VideoFrame

from gpu_bgstat.media.decoder import Toll, prepare
from gpu_bgstat.media.video_file import VideoFile, film, reason


class Sequential:
    """One reading. Packets that cannot be decoded are counted in `toll` and passed over."""

    def __init__(self, file: VideoFile, frame_s: Fraction, *, alone: bool = True) -> None:
        """`frame_s` is the time between two frames where they have no timestamps.

        alone  one thread decodes, which makes the same of damage each time; several only find out that there is some
        """
        self._file = file
        self._frame_s = frame_s
        self._alone = alone
        self._origin: int | None = None
        self.times_s = array("d")  # of all frames so far
        self.toll = Toll()
        self.stopped = ""  # why reading ended before the file did

    def pictures(self) -> Iterator[tuple[float, VideoFrame]]:
        """(time in s, picture) of each frame, in the order in which they are shown."""
        last: Fraction | None = None  # exact, since a float that has added up is never equal to a timestamp
        with closing(self._file.open()) as container:
            prepare(container, 1 if self._alone else 0, strict=not self._alone)
            for packet in self._packets(container):
                try:
                    pictures = packet.decode()
                except av.error.FFmpegError:
                    self.toll.undecodable += 1
                    continue
                for picture in pictures:
                    self.toll.marked += picture.is_corrupt
                    last = self._time_s(picture, last)
                    self.times_s.append(float(last))
                    yield self.times_s[-1], picture

    def _packets(self, container: Any) -> Iterator[Any]:
        try:
            for packet in container.demux(film(container)):
                self.toll.incomplete += packet.is_corrupt
                yield packet
        except av.error.FFmpegError as error:
            self.stopped = reason(error)

    def _time_s(self, picture: VideoFrame, last: Fraction | None) -> Fraction:
        if last is None:
            self._origin = picture.pts
            return Fraction(0)
        if picture.pts is not None and self._origin is not None and picture.time_base is not None:
            time_s = (picture.pts - self._origin) * picture.time_base
            if time_s > last:
                return time_s
        return last + self._frame_s
