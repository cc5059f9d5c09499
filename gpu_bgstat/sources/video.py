"""Video files, through FFmpeg (PyAV). Only what the samples need is decoded, wherever that is exact.

    planned      from an index of the packets: stretches from a keyframe to the last sample that needs it, on all cores
    sequential   every frame from the beginning, where the index cannot be trusted

Both give the same frames, numbers and times. A frame's time is its presentation timestamp, counted from the first
frame's. Where a container has no timestamp, or one that does not increase, the time is that of the frame before plus
1 / frame rate. Frames that damage has destroyed are not counted, as in a sequential decode.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends import nvdec, trial
from gpu_bgstat.backends.room import DECODERS_SHARE, default_limit
from gpu_bgstat.config import Config
from gpu_bgstat.errors import ConfigError, DeviceError, FrameError, SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Plan, Timeline, check_size
from gpu_bgstat.media import packets
from gpu_bgstat.media.completeness import Promise, complaints, places
from gpu_bgstat.media.crew import MOST_BYTES, Crew, division
from gpu_bgstat.media.decode_plan import Stretch, stretches
from gpu_bgstat.media.decoder import Decoder, Toll, prepare
from gpu_bgstat.media.packets import PacketIndex
from gpu_bgstat.media.pixels import PixelReader
from gpu_bgstat.media.remote import hearing_interrupts
from gpu_bgstat.media.sequential import Sequential
from gpu_bgstat.media.sift import FalseIndexError
from gpu_bgstat.media.video_file import LocalFile, VideoFile, film, packets_of
from gpu_bgstat.sources.source import ReadAgainError, Source

_MOST_LOSSES = 4  # readings that may find lost frames; after that a plan costs more than it saves
_NVDEC = 2  # decoders on one GPU: an idle one while the other's pictures are converted
_BARE = {"h264", "hevc", "m4v", "mpegvideo", "vvc", "av1", "obu"}  # formats without a container
_LOG = logging.getLogger("gpu_bgstat")


class VideoSource(Source):
    """One video file. Making one reads its index, and decodes its first frame."""

    def __init__(self, file: VideoFile, config: Config | None = None) -> None:
        super().__init__(file.name)
        self._file = file
        self._config = config or Config()
        self._depth = self._config.depth or 8
        limit = default_limit(self._config.memory_limit)
        self._most_bytes = MOST_BYTES if limit is None else min(MOST_BYTES, limit // DECODERS_SHARE)
        self._size = (0, 0)  # of a decoded picture: width, height
        self._deep = False  # whether its values have two bytes
        self._index: PacketIndex | None = None  # None: it cannot be trusted
        self._gpu: int | None = None  # that decodes; None: the CPU
        self._why = ""  # the reason for that
        self._stopped = ""  # why reading the packets ended early
        self._lost: set[int] = set()  # packets whose frame cannot be decoded
        self._mending = False  # a sequential reading has met damage
        self._losses = 0  # readings that found some
        self._tolls: dict[int, Toll] = {}  # of this reading, by the first packet of the stretch
        self._recalled: dict[int, Toll] = {}  # of one that was interrupted
        self._paid: list[tuple[int, int]] = []  # packets whose damage that one has counted
        self._open: set[int] = set()  # frames that are due in stretches that are not through
        self._hidden = 0  # packets that an edit list leaves out
        self._opened: list[Any] = []  # for the first decoder: opening takes as long as decoding a few frames
        try:
            with hearing_interrupts():
                self._opened.append(file.open())
                self._learn(self._opened[0])
        except BaseException:
            self.close()
            raise
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

    def _learn(self, container: Any) -> None:
        """The header, the first picture, and the index: from the container's tables, else from all packets."""
        self._describe(container)
        tables = packets.from_tables(self._file, container)
        self._opened_strict = self._strict(tables) if tables is not None else self.container["codec"] != "h264"
        prepare(container, division(1, (0, 0), False, 1)[1], strict=self._opened_strict)
        first = self._look(container)
        if tables is not None and first is not None:
            self._trust(packets.aligned(tables, first), film(container).codec_context)
        if self._index is None:
            self._scan()

    def _describe(self, container: Any) -> None:
        """What the header says."""
        stream = film(container)
        codec = stream.codec_context
        if codec.width or codec.height:  # some containers leave it to the first picture
            self._check_size(codec.width, codec.height)
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

    def _check_size(self, width: int, height: int) -> None:
        try:
            check_size(width, height)
        except FrameError as error:
            raise SourceError(f"{self.name}: {error}") from error

    def _look(self, container: Any) -> Any:
        """Learns the size of the first picture that can be decoded; returns the first packet, or None."""
        first = None
        with suppress(av.error.FFmpegError):
            for packet in packets_of(container):
                first = packet if first is None and packet.size else first
                with suppress(av.error.FFmpegError):
                    for picture in packet.decode():
                        self._size = (picture.width, picture.height)
                        self._deep = picture.format.components[0].bits > 8
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
            self._trust(index, film(container).codec_context, timed)

    def _distrust(self, why: str) -> None:
        """After the file was found to be otherwise than its index says."""
        tables = self._index is not None and self._index.origin == packets.TABLES
        if tables:
            self._scan()
        if not tables or self._index is None:
            self._index, self._why = None, why
            assert self.timeline is not None
            self.timeline = replace(self.timeline, keyframes=np.empty(0, np.int64))

    def check(self, config: Config) -> None:
        if config.decode == "nvdec" and self._depth == 16:
            raise ConfigError("decode=nvdec gives 8 bits a sample: use decode=cpu, or depth=8")

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        index, indices = self._index, plan.indices
        if self._config.decode == "nvdec" and self._gpu is None:
            self._gpu = self._hardware()
        if index is None or indices is None:
            why = self._why if index is None else "the samples are chosen while reading"
            self.decoding = {"way": "sequential", "why": why}
            if self._gpu is not None:
                self.notes.append("decoded on the CPU although decode=nvdec, since all is read from the beginning")
            with hearing_interrupts():
                yield from self._sequential(plan)
        else:
            try:
                yield from self._planned(plan, index, indices)
            except FalseIndexError as lie:
                with hearing_interrupts():
                    self._distrust(str(lie))
                raise ReadAgainError(f"{self.name} is not as its index says: {lie}") from lie
        self.warnings.extend(self._file.changes())

    def _hardware(self) -> int:
        """The GPU that decodes; raises DeviceError if none may. No CUDA call is made before."""
        if not isinstance(self._file, LocalFile):
            raise DeviceError(f"decode=nvdec takes files on this machine, and {self.name} is remote: use --decode cpu")
        return trial.choose(Path(self.name), self._config.device)

    def _planned(self, plan: Plan, index: PacketIndex, indices: Sequence[int]) -> Iterator[Frame]:
        """The samples by the shortest way; frames that turn out to be lost leave the timeline."""
        assert self.timeline is not None and self.timeline.times_s is not None
        times = self.timeline.times_s
        if not len(times):
            raise self._nothing()
        stop, due, parts = self._stretches(plan, index, indices)
        crew = self._crew(index, parts)
        self._tolls, self._recalled = self._recalled, {}
        self._paid = [span for toll in self._tolls.values() for span in toll.spans]
        self._open = set(due)
        self.decoding = {
            "way": "planned",
            "why": f"the packets are known from {index.origin}",
            "stretches": len(parts),
            "packets_needed": sum(part.stop - part.first for part in parts),
            "packets": len(index.pts),
            "decoders": crew.decoders,
            "decoded_by": "cpu" if self._gpu is None else f"nvdec on gpu:{self._gpu}",
        }
        self._file.expect([_bytes(index, part) for part in parts])
        for taken, frame in enumerate(crew.frames(parts, self._done, ordered=not plan.any_order), 1):
            self.seen = stop * taken // len(due)
            yield frame
        toll = Toll()
        for first in sorted(self._tolls):
            toll.add(self._tolls[first])
        if toll.lost:
            assert plan.chosen is not None
            times = self._lose(toll.lost, index, plan.chosen[: bisect_left(plan.chosen, stop)])
        self.seen = min(stop, len(times))
        self._account(toll, index)
        if stop >= len(times):
            if self._stopped:
                self.warnings.append(f"reading stopped after {len(times)} frames ({self._stopped})")
            self.warnings += complaints(self._promise, times, "are there")

    def _done(self, part: Stretch, toll: Toll) -> None:
        """Called by the decoders' threads: the damage first, since it counts once its frames are settled."""
        if toll and not any(begin <= part.first < end for begin, end in self._paid):
            self._tolls[part.first] = toll
        self._open.difference_update([number for number, _ in part.wanted])

    def unsettled(self) -> set[int]:
        return self._open.copy()

    def identity(self) -> dict[str, Any]:
        return self._file.identity()

    def state(self) -> dict[str, Any]:
        return {
            "index": self._index.origin if self._index else None,
            "why": self._why,
            "lost": sorted(self._lost),
            "losses": self._losses,
            "mending": self._mending,
            "tolls": {str(first): toll.as_json() for first, toll in self._tolls.copy().items()},
        }

    def recall(self, state: dict[str, Any]) -> None:
        if not state:
            return
        if state["index"] == packets.PACKETS and self._index and self._index.origin == packets.TABLES:
            self._scan()
        self._lost, self._losses, self._mending = set(state["lost"]), state["losses"], state["mending"]
        if self._lost and self._index:
            self._index = self._index.without(self._lost)
            times = self._index.times_s(self._time_base.numerator, self._time_base.denominator)
            self.timeline = Timeline(len(times), times, self._index.keyframes)
        if state["index"] is None and self._index and self.timeline:
            self._index, self._why = None, state["why"]
            self.timeline = replace(self.timeline, keyframes=np.empty(0, np.int64))
        self._recalled = {int(first): Toll.from_json(toll) for first, toll in state["tolls"].items()}

    def _stretches(
        self, plan: Plan, index: PacketIndex, indices: Sequence[int]
    ) -> tuple[int, Sequence[int], list[Stretch]]:
        """Where the plan is over, the frames that are due before, and the stretches that give them."""
        assert self.timeline is not None and self.timeline.times_s is not None
        times = self.timeline.times_s
        stop = bisect_left(range(len(times)), True, key=lambda number: plan.over(number, float(times[number])))
        due = indices[: bisect_left(indices, stop)]
        return stop, due, stretches(index, due)

    def way(self, plan: Plan) -> str | None:
        if self._index is None or plan.indices is None:
            return f"every frame from the beginning, because {self._why or 'the samples are chosen while reading'}"
        _, _, parts = self._stretches(plan, self._index, plan.indices)
        needed = sum(part.stop - part.first for part in parts)
        return (
            f"{needed} of {len(self._index.pts)} packets, in {len(parts)} stretches on "
            f"{self._crew(self._index, parts).decoders} decoders; the packets are known from {self._index.origin}"
        )

    def _lose(self, lost: set[int], index: PacketIndex, chosen: Sequence[int]) -> NDArray[np.float64]:
        """Takes these packets' frames out of the timeline, and returns its times.

        Raises ReadAgainError if the number of a sample moves by that.
        """
        assert self.timeline is not None
        self._lost |= lost
        moved = bool(chosen) and min(index.pts[list(lost)]) <= index.pts[index.rows[chosen[-1]]]
        index = self._index = index.without(lost)
        times = index.times_s(self._time_base.numerator, self._time_base.denominator)
        self.timeline = Timeline(len(times), times, index.keyframes)
        beheaded = len(times) > 0 and not index.key[0]
        if not moved and not beheaded:
            return times
        self._losses += 1
        if beheaded or self._losses > _MOST_LOSSES:
            self._index, self._why = None, "its first keyframe is lost" if beheaded else "it is too damaged for a plan"
        raise ReadAgainError(f"{self.name}: {len(lost)} frames are lost, so those behind them have other numbers")

    def _crew(self, index: PacketIndex, parts: Sequence[Stretch]) -> Crew:
        decoders, threads = division(len(parts), self._size, self._deep, self._config.decoders, self._most_bytes)
        if self._gpu is not None:
            decoders = min(decoders, _NVDEC)

        def make(tolerant: bool) -> Decoder:
            if self._gpu is not None and not tolerant:
                return Decoder(nvdec.opened(Path(self.name), self._gpu), index, self._size)
            if self._opened and not tolerant and self._opened_strict == self._strict(index):
                with suppress(IndexError):  # another thread took it
                    return Decoder(self._opened.pop(), index, self._size, used=True)
            container = self._file.open()
            prepare(container, 1 if tolerant else threads, strict=not tolerant and self._strict(index))
            return Decoder(container, index, self._size)

        assert self.timeline is not None and self.timeline.times_s is not None
        return Crew(decoders, make, self._reader, self.timeline.times_s, self._file.close)

    def _strict(self, index: PacketIndex) -> bool:
        return self.container["codec"] != "h264" or not index.open_groups

    def _reader(self) -> PixelReader:
        return PixelReader(self.name, self._depth, self._config.gray)

    def _account(self, toll: Toll, index: PacketIndex) -> None:
        """Tells what damage cost, and where."""
        self.damaged = max(toll.frames, len(self._lost))
        if not self.damaged:
            return
        harmed = sorted(toll.spans) or [(min(self._lost), max(self._lost) + 1)]  # lost frames are not visited again
        stamps = [index.pts[first:stop] - index.pts[index.rows[0]] for first, stop in harmed]
        seconds = [(float(ticks.min() * self._time_base), float(ticks.max() * self._time_base)) for ticks in stamps]
        spans = [(max(0.0, begin), end) for begin, end in seconds]
        self.warnings.append(f"{toll.told()}, {len(self._lost)} frames are lost; within {places(spans)}")

    def _sequential(self, plan: Plan) -> Iterator[Frame]:
        """Frames as they come; a complete reading corrects the timeline."""
        # the cut end of a bare stream shows nowhere; samples that are chosen on the way do not come twice
        mending = self._mending = self._mending or plan.indices is None or self.container["format"] in _BARE
        pixels, reading = self._reader(), Sequential(self._file, self._frame_s, mending=mending)
        for time_s, picture in reading.pictures():
            self._check_whole(reading)
            if plan.over(self.seen, time_s):
                self._tell(reading)
                return
            self.seen += 1
            self.damaged = reading.toll.frames
            if plan.due(self.seen - 1, time_s):
                yield Frame(self.seen - 1, time_s, pixels(picture))
        self._check_whole(reading)
        self._tell(reading)
        times = np.asarray(reading.times_s)
        if not len(times):
            raise self._nothing()
        self.timeline = Timeline(len(times), times, np.empty(0, np.int64))
        self.warnings += complaints(self._promise, times, "could be decoded")

    def _check_whole(self, reading: Sequential) -> None:
        """Raises ReadAgainError at the first damage: what several threads make of it is not the same each time."""
        if reading.toll.frames and not self._mending:
            self._mending = True
            raise ReadAgainError(f"{self.name} is damaged: it is read again by one thread")

    def _tell(self, reading: Sequential) -> None:
        if reading.stopped:
            self.warnings.append(f"reading stopped after {self.seen} frames ({reading.stopped})")
        self.damaged = reading.toll.frames
        if self.damaged:
            within = f"; within {places(spans)}" if (spans := reading.harmed_s()) else ""
            self.warnings.append(f"{reading.toll.told()}{within}")

    def _nothing(self) -> SourceError:
        return SourceError(f"{self.name}: not one frame could be decoded; is the file whole?")

    def rest(self) -> None:
        while self._opened:
            self._opened.pop().close()

    def close(self) -> None:
        self.rest()
        self._file.close()


def _bytes(index: PacketIndex, part: Stretch) -> tuple[int, int]:
    """Where the packets of a stretch lie in the file."""
    begin = index.begin[part.first : part.stop]
    return int(begin.min()), int((begin + index.size[part.first : part.stop]).max()) + packets.CHUNK_HEAD
