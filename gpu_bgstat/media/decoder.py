"""Decodes one stretch of packets at a time, and holds what comes out against the index.

Each packet must have the timestamp that the index foretold; `sift` looks at the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import av.error
from av.video.frame import VideoFrame

from gpu_bgstat.media.decode_plan import Stretch, keyframe_after, keyframe_before
from gpu_bgstat.media.packets import PacketIndex, head_bytes
from gpu_bgstat.media.sift import DamageError, FalseIndexError, Sift
from gpu_bgstat.media.video_file import film, packets_of

# Codecs whose decoders leave out frames that nobody refers to, when asked; all others decode every packet.
_SKIP_NONREF = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vc1", "wmv3"}


_ALONE = {"mjpeg", "ffv1", "huffyuv", "ffvhuff", "utvideo", "prores", "rawvideo", "png"}  # no packet needs another
_BEYOND = 64  # packets behind a damaged stretch: more than any decoder holds back


@dataclass
class Toll:
    """What damage cost."""

    incomplete: int = 0  # packets
    undecodable: int = 0  # packets
    marked: int = 0  # frames decoded with errors
    suspected: int = 0  # stretches where FFmpeg complained, and then marked nothing
    lost: set[int] = field(default_factory=set)  # packets whose frame did not come out
    spans: list[tuple[int, int]] = field(default_factory=list)  # packets first .. stop-1 of each damaged stretch

    @property
    def frames(self) -> int:
        """How many frames or packets were harmed."""
        return max(self.undecodable + self.marked, self.incomplete, self.suspected)

    def told(self) -> str:
        suspected = f", {self.suspected} stretches gave errors that left no mark" if self.suspected else ""
        return (
            f"damage: {self.incomplete} packets are incomplete, {self.undecodable} could not be decoded, "
            f"{self.marked} frames were decoded with errors{suspected}"
        )

    def __bool__(self) -> bool:
        return bool(self.frames or self.lost)

    def add(self, other: Toll) -> None:
        self.incomplete += other.incomplete
        self.undecodable += other.undecodable
        self.marked += other.marked
        self.suspected += other.suspected
        self.lost |= other.lost
        self.spans += other.spans

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "lost": sorted(self.lost)}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Toll:
        lost, spans = set(state["lost"]), [(int(first), int(stop)) for first, stop in state["spans"]]
        return cls(**{**state, "lost": lost, "spans": spans})


class Decoder:
    """One container with its codec: yields the wanted pictures of a stretch."""

    def __init__(self, container: Any, index: PacketIndex, size: tuple[int, int], *, used: bool = False) -> None:
        """`size` is (width, height) of every frame; `used` says that the first packet has been decoded already."""
        self._index = index
        self._size = size
        self._container = container
        self._stream = film(self._container)
        self._codec = self._stream.codec_context
        self._head = head_bytes(container)
        self._spares = self._codec.name in _SKIP_NONREF and _one_layer(self._codec)
        self._packets: Iterator[Any] = packets_of(container)
        self._ahead: Any = None  # a packet that was read and not used yet
        self._next = -1 if used else 0  # the packet that comes next; -1 if unknown
        self.unwanted: Callable[[], bool] = lambda: False  # asked before each packet: whether to give up
        self._primed = used or self._codec.name in _ALONE

    def pictures(self, stretch: Stretch) -> Iterator[tuple[int, VideoFrame]]:
        """(frame number, picture) for each wanted frame, in order. Raises FalseIndexError, DamageError."""
        needed = {stretch.first, *(row for _, row in stretch.wanted)}
        sift = Sift(self._index, stretch, self._size)
        self._go_to(stretch.first)
        try:
            for row in range(stretch.first, stretch.stop):
                packet = self._take(row)
                if self.unwanted():
                    return
                if packet.is_corrupt:  # FFmpeg may make an unmarked frame of what is left of it
                    raise DamageError
                self._skip(self._spares and row not in needed)
                yield from sift(packet.decode())
            yield from sift(self._codec.decode(None))
        except av.error.FFmpegError as error:
            raise DamageError from error
        finally:
            self._codec.flush_buffers()
        yield from sift.rest()

    def tolerantly(self, stretch: Stretch, toll: Toll) -> Iterator[tuple[int, VideoFrame]]:
        """A damaged stretch again, as a sequential decoder meets it: every packet between the keyframes around it.

        It begins at one that is whole, for what hides damage comes from the frames before. Adds to `toll` what the
        damage cost from the stretch on. Raises FalseIndexError.
        """
        index, first = self._index, keyframe_before(self._index, stretch.first)
        while first and not self._whole(first):
            first = keyframe_before(index, first)
        stop = keyframe_after(index, stretch.stop)
        numbers = {int(index.pts[row]): number for number, row in stretch.wanted}
        missing = {row for row in range(first, stop) if index.shown[row] and index.pts[row] >= index.pts[first]}
        self._go_to(first)
        self._skip(False)
        latest = int(index.pts[first])
        counted = range(stretch.first, stop)  # damage around them is told by the stretches that it belongs to
        for at, packet in enumerate(chain(self._until(first, stop + _BEYOND), [None]), first):
            if self.unwanted():
                return
            toll.incomplete += bool(packet and packet.is_corrupt and at in counted)
            try:
                pictures = decoded(self._codec, packet)
            except av.error.FFmpegError:
                toll.undecodable += at in counted
                continue
            for picture in pictures:
                row = index.row(picture.pts)
                if row in missing and index.pts[row] < latest:
                    raise FalseIndexError(f"the frame at {picture.pts} came out after that at {latest}")
                latest = max(latest, int(index.pts[row])) if row in missing else latest
                toll.marked += row in missing and row in counted and picture.is_corrupt
                missing.discard(row)
                if picture.pts in numbers:
                    yield numbers.pop(picture.pts), picture
        self._codec.flush_buffers()
        if first in missing and first:
            raise FalseIndexError(f"packet {first} is marked as a keyframe and gives no frame")
        toll.lost |= missing
        toll.spans.append((stretch.first, stop))

    def _whole(self, row: int) -> bool:
        """Whether a keyframe can be decoded without errors."""
        self._go_to(row)
        self._skip(False)
        try:
            pictures = [*self._take(row).decode(), *self._codec.decode(None)]
        except (DamageError, av.error.FFmpegError):
            return False
        finally:
            self._codec.flush_buffers()
            self._next = -1
        return not any(picture.is_corrupt for picture in pictures)

    def _go_to(self, row: int) -> None:
        """Makes `row` the packet that comes next, by seeking or by passing over packets."""
        if not self._primed and row:
            self._prime()
        self._primed = True
        if self._next == row:
            return
        index, before = self._index, keyframe_before(self._index, row)
        for stamp in (index.pts[row], index.dts[row], index.dts[before]):  # containers differ in what they look up
            try:
                self._container.seek(int(stamp), stream=self._stream)
            except av.error.FFmpegError:
                break
            self._packets, self._ahead = packets_of(self._container), None
            if self._pass_over(row):
                return
        raise FalseIndexError("it cannot be searched by time")

    def _prime(self) -> None:
        """Decodes the first packet, whose user data may name the encoder: FFmpeg works around faults of some.

        (x264 before build 151 coded 4:4:4 wrongly; Xvid has an inverse DCT of its own.)
        """
        with suppress(DamageError, av.error.FFmpegError):
            self._take(0).decode()
            self._codec.decode(None)
        self._codec.flush_buffers()

    def _pass_over(self, row: int) -> bool:
        """Reads up to a packet; whether it was ahead."""
        for packet in self._packets:
            if not packet.size or self.unwanted():
                return False
            here = self._index.row(packet.pts)
            if here == row:
                self._ahead, self._next = packet, row
                return True
            if here > row:
                return False
        return False

    def _take(self, row: int) -> Any:
        packet, self._ahead = self._ahead, None
        while packet is None or not packet.size:
            packet = next(self._packets, None)
            if packet is None:
                raise DamageError
        self._next = row + 1
        if packet.pts != self._index.pts[row]:
            raise FalseIndexError(
                f"packet {row} has the timestamp {packet.pts}, and {self._index.pts[row]} was foretold"
            )
        place = int(self._index.begin[row]) + self._head
        if packet.pos is not None and self._head <= place != packet.pos >= 0:
            # FFmpeg passes over a broken head in silence, and gives what follows the timestamp of what is missing
            raise FalseIndexError(f"packet {row} lies at byte {packet.pos}, and {place} was foretold")
        return packet

    def _until(self, first: int, stop: int) -> Iterator[Any]:
        """The packets of these rows, as far as the file has them."""
        try:
            for row in range(first, min(stop, len(self._index.pts))):
                yield self._take(row)
        except (DamageError, av.error.FFmpegError):
            self._next = -1

    def _skip(self, spare: bool) -> None:
        """Whether the next packet's frame may be left out if nobody refers to it."""
        self._codec.skip_frame = "NONREF" if spare else "DEFAULT"

    def close(self) -> None:
        self._container.close()


def decoded(codec: Any, packet: Any) -> list[VideoFrame]:
    """The pictures that come out for this packet, or at the end (None); raises FFmpegError.

    After an error, the decoder may hold a part of the packet before, which PyAV cannot fetch, and refuse all others for
    good: it is emptied then, and goes on.
    """
    try:
        return list(codec.decode(None) if packet is None else packet.decode())
    except av.error.BlockingIOError:
        codec.flush_buffers()
        return [] if packet is None else list(packet.decode())


def prepare(container: Any, threads: int, *, strict: bool = False) -> None:
    """Sets how the video is decoded, before the first packet: by how many of FFmpeg's threads (0 lets FFmpeg choose).

    strict  what FFmpeg would mend is an error. Marks on frames alone do not do: with several threads, a frame may be
            handed over before its mark is set. Intra codecs are left out, since harmless faults of cameras abound
            there. Not for H.264 with open groups, whose leading pictures lack references after a seek.
    """
    codec = film(container).codec_context
    codec.thread_count = threads
    codec.thread_type = "AUTO" if threads != 1 else "NONE"
    if strict and codec.name not in _ALONE:
        codec.options = {"err_detect": "explode"}


def _one_layer(codec: Any) -> bool:
    """False for HEVC with temporal layers, where an upper layer may refer to what the lower one calls unreferenced.

    The number of layers stands in the decoder configuration record (ISO/IEC 14496-15, 8.3.2.1).
    """
    if codec.name != "hevc":
        return True
    record = codec.extradata or b""
    return len(record) > 22 and record[0] == 1 and record[21] >> 3 & 7 == 1
