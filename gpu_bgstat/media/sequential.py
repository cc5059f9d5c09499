"""Every frame of a video from its beginning: where the packets do not tell beforehand which becomes the n-th frame."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any

import av.error
from av.video.frame import VideoFrame

from gpu_bgstat.media.decoder import Toll, decoded, prepare
from gpu_bgstat.media.video_file import VideoFile, film, packets_of, reason

_TOGETHER_S = 0.5  # damage that is no further apart is told as one stretch


class Sequential:
    """One reading. Packets that cannot be decoded are counted in `toll` and passed over."""

    def __init__(self, file: VideoFile, frame_s: Fraction, *, mending: bool) -> None:
        """`frame_s` is the time between two frames where they have no timestamps.

        mending  by one thread, which makes the same of damage each time; else by several, and what FFmpeg would mend
                 is an error
        """
        self._mending = mending
        self._file = file
        self._frame_s = frame_s
        self._origin: int | None = None
        self._time_base: Fraction | None = None  # for the frames that come last, which carry none
        self.times_s = array("d")  # of all frames so far
        self.toll = Toll()
        self._unit_s = Fraction(0)  # of timestamps
        self._harmed_s: list[Fraction] = []  # timestamps of packets and frames with damage
        self.stopped = ""  # why reading ended before the file did

    def pictures(self) -> Iterator[tuple[float, VideoFrame]]:
        """(time in s, picture) of each frame, in the order in which they are shown."""
        last: Fraction | None = None  # exact, since a float that has added up is never equal to a timestamp
        with closing(self._file.open()) as container:
            prepare(container, 1 if self._mending else 0, strict=not self._mending)
            self._time_base = film(container).time_base
            for packet in self._packets(container):
                try:
                    pictures = decoded(film(container).codec_context, packet)
                except av.error.FFmpegError:
                    self.toll.undecodable += 1
                    self._note(packet)
                    continue
                for picture in pictures:
                    if picture.is_corrupt:
                        self.toll.marked += 1
                        self._note(picture)
                    last = self._time_s(picture, last)
                    self.times_s.append(float(last))
                    yield self.times_s[-1], picture

    def _note(self, harmed: Any) -> None:
        """A decoder with several threads may complain a few packets late."""
        if harmed.pts is not None and harmed.time_base is not None:
            self._harmed_s.append(harmed.pts * harmed.time_base)
            self._unit_s = harmed.time_base

    def harmed_s(self) -> list[tuple[float, float]]:
        """First and last time of each stretch of damage, as far as it has timestamps."""
        spans: list[tuple[float, float]] = []
        for absolute_s in sorted(self._harmed_s):
            time_s = max(0.0, float(absolute_s - (self._origin or 0) * self._unit_s))
            if spans and time_s - spans[-1][1] <= _TOGETHER_S:
                spans[-1] = (spans[-1][0], time_s)
            else:
                spans.append((time_s, time_s))
        return spans

    def _packets(self, container: Any) -> Iterator[Any]:
        try:
            for packet in packets_of(container):
                if packet.is_corrupt:
                    self.toll.incomplete += 1
                    self._note(packet)
                yield packet
        except av.error.FFmpegError as error:
            self.stopped = reason(error)
            yield None  # some frames may be with the decoder still

    def _time_s(self, picture: VideoFrame, last: Fraction | None) -> Fraction:
        if last is None:
            self._origin = picture.pts
            return Fraction(0)
        time_base = picture.time_base or self._time_base
        if picture.pts is not None and self._origin is not None and time_base is not None:
            time_s = (picture.pts - self._origin) * time_base
            if time_s > last:
                return time_s
        return last + self._frame_s
