"""Video files, through FFmpeg (PyAV). Only what the samples need is decoded, wherever that is exact.

    planned      from an index of the packets: stretches from a keyframe to the last sample that needs it, on all cores
    sequential   every frame from the beginning, where the index cannot be trusted

Both give the same frames, numbers and times. A frame's time is its presentation timestamp, counted from the first
frame's. Where a container has no timestamp, or one that does not increase, the time is that of the frame before plus
1 / frame rate. Frames that damage has destroyed are not counted, as in a sequential decode.
"""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from gpu_bgstat.config import Config
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Plan, Timeline
from gpu_bgstat.sources import packets
from gpu_bgstat.sources.completeness import Promise, complaints
from gpu_bgstat.sources.crew import Crew
from gpu_bgstat.sources.decode_plan import Stretch, stretches
from gpu_bgstat.sources.decoder import Decoder, FalseIndexError, Toll
from gpu_bgstat.sources.packets import PacketIndex
from gpu_bgstat.sources.pixels import PixelReader
from gpu_bgstat.sources.source import ReadAgainError, Source
from gpu_bgstat.sources.video_file import VideoFile, reason

_DECODER_BYTES = 1 << 30  # what all decoders together may hold in decoded pictures, unless told how many to use
_MOST_LOSSES = 4  # readings that may find lost frames; after that a plan costs more than it saves
_NAMED = 5  # damaged places that are listed one by one
_LOG = logging.getLogger("gpu_bgstat")
_PICTURES_HELD = 20  # by a decoder, at most: 16 references and those under way


class VideoSource(Source):
    """One video file. Making one reads its index, and decodes its first frame."""

    def __init__(self, file: VideoFile, config: Config | None = None) -> None:
        super().__init__(file.name)
        self._file = file
        self._config = config or Config()
        self._depth = self._config.depth or 8
        self._size = (0, 0)  # of a decoded picture: width, height
        self._index: PacketIndex | None = None  # None: it cannot be trusted
        self._why = ""  # the reason for that
        self._stopped = ""  # why reading the packets ended early
        self._lost: set[int] = set()  # packets whose frame cannot be decoded
        self._losses = 0  # readings that found some
        self._hidden = 0  # packets that an edit list leaves out
        with file.open() as container:
            self._describe(container)
            tables = packets.from_tables(file, container)
            first = self._look(container)
            if tables is not None and first is not None:
                self._trust(packets.aligned(tables, first), container.streams.video[0].codec_context)
        if self._index is None:
            self._scan()
        assert self.timeline is not None
        in_header = (self.container["frames_in_header"] or 0) - self._hidden
        self._promise = Promise(
            frames=in_header if in_header > 0 else self.timeline.frames,
            duration_s=self.container["duration_s"],
            frame_s=float(self._frame_s),
            with_sound=self._accompanied,
            transport_stream=self.container["format"] == "mpegts",
            size=file.size,
        )

    def _describe(self, container: Any) -> None:
        """What the header says."""
        stream = container.streams.video[0]
        codec = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        self._frame_s = 1 / Fraction(rate) if rate else Fraction(0)
        self._time_base = Fraction(stream.time_base)
        self._accompanied = len(container.streams) > 1
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

    def _look(self, container: Any) -> Any:
        """Learns the size of the first picture that can be decoded; returns the first packet, or None."""
        first = None
        with suppress(av.error.FFmpegError):
            for packet in container.demux(container.streams.video[0]):
                first = packet if first is None and packet.size else first
                with suppress(av.error.FFmpegError):
                    for picture in packet.decode():
                        self._size = (picture.width, picture.height)
                        size = self._size[::-1] if picture.rotation % 180 == 90 else self._size
                        self.spec = FrameSpec(*size, 3, np.dtype(f"uint{self._depth}"))
                        return first
        return first

    def _trust(self, index: PacketIndex, codec: Any, timed: bool = True) -> None:
        """Plans by this index from now on, unless there is reason to doubt it."""
        self._hidden = int((~index.shown).sum())  # the header's count includes what an edit list leaves out
        self._why = packets.doubt(index, timed, codec)
        self._index = None if self._why else index
        if timed:
            times = index.times_s(self._time_base.numerator, self._time_base.denominator)
        else:
            times = np.arange(len(index.rows), dtype=np.float64) * float(self._frame_s)
        self.timeline = Timeline(len(index.rows), times, index.keyframes if self._index else np.empty(0, np.int64))

    def _scan(self) -> None:
        """Makes the index anew from all packets; what follows a packet that cannot be read is not there."""
        _LOG.info("%s: its tables do not tell all, so all packets are read once", self.name)
        with self._file.open() as container:
            index, timed, self._stopped = packets.from_packets(container)
            self._trust(index, container.streams.video[0].codec_context, timed)

    def _distrust(self, why: str) -> None:
        """After the file was found to be otherwise than its index says."""
        tables = self._index is not None and self._index.origin == packets.TABLES
        if tables:
            self._scan()
        if not tables or self._index is None:
            self._index, self._why = None, why
            assert self.timeline is not None
            self.timeline = replace(self.timeline, keyframes=np.empty(0, np.int64))

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        index, indices = self._index, plan.indices
        if index is None or indices is None:
            why = self._why if index is None else "the samples are chosen while reading"
            self.decoding = {"way": "sequential", "why": why}
            yield from self._sequential(plan)
        else:
            try:
                yield from self._planned(plan, index, indices)
            except FalseIndexError as lie:
                self._distrust(str(lie))
                raise ReadAgainError(f"{self.name} is not as its index says: {lie}") from lie
        self.warnings.extend(self._file.changes())

    def _planned(self, plan: Plan, index: PacketIndex, indices: Sequence[int]) -> Iterator[Frame]:
        """The samples by the shortest way; frames that turn out to be lost leave the timeline."""
        assert self.timeline is not None and self.timeline.times_s is not None
        times = self.timeline.times_s
        if not len(times):
            raise self._nothing()
        stop = bisect_left(range(len(times)), True, key=lambda number: plan.over(number, float(times[number])))
        due = indices[: bisect_left(indices, stop)]
        parts = stretches(index, due)
        crew, toll = self._crew(index, parts), Toll()
        self.decoding = {
            "way": "planned",
            "why": f"the packets are known from {index.origin}",
            "stretches": len(parts),
            "packets_needed": sum(part.stop - part.first for part in parts),
            "packets": len(index.pts),
            "decoders": crew.decoders,
        }
        self._file.expect([_bytes(index, part) for part in parts])
        for taken, frame in enumerate(crew.frames(parts, toll, ordered=not plan.any_order), 1):
            self.seen = stop * taken // len(due)
            yield frame
        self.seen = stop
        if toll.lost:
            times = self._lose(toll.lost, index, due)
        self._account(toll, index)
        if stop >= len(times):
            if self._stopped:
                self.warnings.append(f"reading stopped after {len(times)} frames ({self._stopped})")
            self.warnings += complaints(self._promise, times, "are there")

    def _lose(self, lost: set[int], index: PacketIndex, due: Sequence[int]) -> NDArray[np.float64]:
        """Takes these packets' frames out of the timeline, and returns its times.

        Raises ReadAgainError if the number of a sample moves by that.
        """
        assert self.timeline is not None
        self._lost |= lost
        moved = bool(due) and min(index.pts[list(lost)]) <= index.pts[index.rows[due[-1]]]
        index = self._index = index.without(lost)
        times = index.times_s(self._time_base.numerator, self._time_base.denominator)
        self.timeline = Timeline(len(times), times, index.keyframes)
        if not moved:
            return times
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            self._index, self._why = None, "it is too damaged for a plan"
        raise ReadAgainError(f"{self.name}: {len(lost)} frames are lost, so those behind them have other numbers")

    def _crew(self, index: PacketIndex, parts: Sequence[Stretch]) -> Crew:
        cores = available_cores()
        wide, high = self._size
        fitting = _DECODER_BYTES // (_PICTURES_HELD * max(1, wide * high * 3 // 2 * (1 + self._deep)))
        decoders = self._config.decoders or min(cores, max(1, fitting))
        decoders = max(1, min(decoders, len(parts)))
        threads = -(-cores // decoders)

        def make(tolerant: bool) -> Decoder:
            return Decoder(self._file, index, self._size, 0 if tolerant else threads)

        assert self.timeline is not None and self.timeline.times_s is not None
        return Crew(decoders, make, self._reader, self.timeline.times_s)

    @property
    def _deep(self) -> bool:
        """Whether decoded pictures have two bytes a value."""
        return any(mark in str(self.container["pixel_format"]) for mark in ("10", "12", "14", "16"))

    def _reader(self) -> PixelReader:
        return PixelReader(self.name, self._depth, self._config.gray)

    def _account(self, toll: Toll, index: PacketIndex) -> None:
        """Tells what damage cost, and where."""
        self.damaged = max(toll.undecodable + toll.marked, toll.incomplete, len(self._lost))
        if not self.damaged:
            return
        places = sorted(toll.spans) or [(min(self._lost), max(self._lost) + 1)]  # lost frames are not visited again
        stamps = [index.pts[first:stop] - index.pts[index.rows[0]] for first, stop in places]
        spans = [
            f"{float(ticks.min() * self._time_base):.1f} s to {float(ticks.max() * self._time_base):.1f} s"
            for ticks in stamps
        ]
        more = f" and {len(spans) - _NAMED} more" if len(spans) > _NAMED else ""
        self.warnings.append(
            f"{_damage(toll.incomplete, toll.undecodable, toll.marked)}, {len(self._lost)} frames are lost; "
            f"within {', '.join(spans[:_NAMED])}{more}"
        )

    def _sequential(self, plan: Plan) -> Iterator[Frame]:
        times = array("d")
        last: Fraction | None = None  # exact, since a float that has added up is never equal to a timestamp
        pixels = self._reader()
        with self._file.open() as container:
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
                    yield Frame(index, time_s, pixels(picture))
        if not times:
            raise self._nothing()
        self.timeline = Timeline(len(times), np.asarray(times), np.empty(0, np.int64))
        self.warnings += complaints(self._promise, np.asarray(times), "could be decoded")

    def _pictures(self, container: Any) -> Iterator[VideoFrame]:
        """All frames in order. Packets that cannot be decoded are counted and passed over."""
        packets = container.demux(container.streams.video[0])
        undecodable = incomplete = 0
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.warnings.append(f"reading stopped after {self.seen} frames ({reason(error)})")
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
            self.warnings.append(_damage(incomplete, undecodable, marked))

    def _time_s(self, picture: VideoFrame, last: Fraction | None) -> Fraction:
        if last is None:
            self._origin = picture.pts
            return Fraction(0)
        if picture.pts is not None and self._origin is not None and picture.time_base is not None:
            time_s = (picture.pts - self._origin) * picture.time_base
            if time_s > last:
                return time_s
        return last + self._frame_s

    def _nothing(self) -> SourceError:
        return SourceError(f"{self.name}: not one frame could be decoded; is the file whole?")

    def close(self) -> None:
        self._file.close()


def _damage(incomplete: int, undecodable: int, marked: int) -> str:
    return (
        f"damage: {incomplete} packets are incomplete, {undecodable} could not be decoded, "
        f"{marked} frames were decoded with errors"
    )


def _bytes(index: PacketIndex, part: Stretch) -> tuple[int, int]:
    """Where the packets of a stretch lie in the file."""
    begin = index.begin[part.first : part.stop]
    return int(begin.min()), int((begin + index.size[part.first : part.stop]).max())


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
