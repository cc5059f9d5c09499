"""The index of a video stream: its packets in the order in which they are decoded, known without decoding.

It comes from the container's own tables where these are complete (MP4 and MOV, AVI), else from reading all packets
once. `doubt` says why an index cannot be trusted to tell which packet becomes the n-th frame; then the file is
decoded from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.media import mp4_tables
from gpu_bgstat.media.video_file import VideoFile, film, packets_of, reason

Ticks = NDArray[np.int64]
Flags = NDArray[np.bool_]

TABLES, PACKETS = "the container's tables", "reading all packets"  # where an index comes from
CHUNK_HEAD = 8  # bytes in front of an AVI packet, which its size leaves out, and FFmpeg's position, too
_BIT_A_MACROBLOCK = {"mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "h263", "flv1"}
_NUMBERED = {"h264", "hevc"}  # in showing order by numbers of their own; of others, FFmpeg tells B-frames by their type
_HIDES_FRAMES = {"vp8", "vp9"}  # packets of frames that are never shown, told only by their first byte


@dataclass(frozen=True)
class PacketIndex:
    """What is known of each packet, in decoding order. Ticks are the stream's time base."""

    pts: Ticks  # (N,) when its frame is shown
    dts: Ticks  # (N,) when it is decoded
    key: Flags  # (N,) decoding can begin here
    shown: Flags  # (N,) False: an edit list hides its frame, or it is known to be lost
    begin: Ticks  # (N,) where its bytes begin in the file; -1 if unknown
    size: Ticks  # (N,) bytes
    origin: str  # where this was learned

    @cached_property
    def rows(self) -> Ticks:
        """(frames,) the packet of each frame, in the order in which they are shown."""
        order = np.argsort(self.pts, kind="stable")
        return order[self.shown[order]]

    @cached_property
    def by_pts(self) -> tuple[Ticks, Ticks]:
        """All timestamps in increasing order, and the packet of each."""
        order = np.argsort(self.pts, kind="stable")
        return self.pts[order], order

    def row(self, pts: int | None) -> int:
        """The packet with this timestamp; -1 if there is none."""
        stamps, order = self.by_pts
        place = int(np.searchsorted(stamps, pts)) if pts is not None else len(stamps)
        return int(order[place]) if place < len(stamps) and stamps[place] == pts else -1

    @cached_property
    def keyframes(self) -> Ticks:
        """The numbers of the frames that are keyframes."""
        return np.flatnonzero(self.key[self.rows])

    @cached_property
    def open_groups(self) -> bool:
        """Whether some frame is shown before the keyframe that it is decoded after."""
        keys = np.flatnonzero(self.key)
        begins = np.searchsorted(keys, np.arange(len(self.key)), side="right") - 1
        return bool(len(keys)) and bool((self.pts < self.pts[keys[np.maximum(begins, 0)]]).any())

    def times_s(self, numerator: int, denominator: int) -> NDArray[np.float64]:
        """(frames,) seconds since the first frame, for this time base; correctly rounded."""
        stamps = self.pts[self.rows]
        return (stamps - stamps[:1]) * numerator / denominator

    def without(self, lost: Iterable[int]) -> PacketIndex:
        """The index after these packets were found not to give their frames; decoding cannot begin there either."""
        shown, key = self.shown.copy(), self.key.copy()
        shown[list(lost)] = key[list(lost)] = False
        return replace(self, shown=shown, key=key)


def from_tables(file: VideoFile, container: Any) -> PacketIndex | None:
    """The index as the container's tables tell it, or None where they do not tell all of it."""
    stream = film(container)
    form, codec = container.format.name, stream.codec_context
    if codec.name in _HIDES_FRAMES:
        return None
    mp4 = "mp4" in form.split(",")
    if not mp4 and (form != "avi" or codec.has_b_frames or codec.name in ("h264", "hevc")):
        return None  # AVI does not say when a B-frame is shown
    entries = ((entry.timestamp, entry.pos, entry.size, entry.flags) for entry in stream.index_entries)
    row: Any = np.dtype((np.int64, 4))
    table: Ticks = np.fromiter(entries, row)  # a recording of ten hours has a million
    offsets: Ticks | None = np.zeros(len(table), np.int64)
    if mp4:
        with file.raw() as opened:
            offsets = mp4_tables.composition_offsets(opened, stream.id, len(table))
    elif len(table) != stream.frames:
        return None  # the file was cut before its table, or its header is wrong
    table = table[table[:, 2] > 0] if not mp4 else table
    if offsets is None or not len(table) or (np.diff(table[:, 1]) <= 0).any():
        return None
    offsets = offsets[: len(table)]
    dts = table[:, 0]
    there = table[:, 1] < file.size
    index = PacketIndex(
        pts=dts + offsets,
        dts=dts,
        key=(table[:, 3] & 1).astype(bool),
        shown=(table[:, 3] & 2) == 0,
        begin=table[:, 1],
        size=table[:, 2],
        origin=TABLES,
    )
    return _cut(index, there)


def _cut(index: PacketIndex, there: Flags) -> PacketIndex:
    """The index without packets that lie behind the end of the file."""
    parts = {name: getattr(index, name)[there] for name in ("pts", "dts", "key", "shown", "begin", "size")}
    return replace(index, **parts)


def aligned(index: PacketIndex, first: Any) -> PacketIndex:
    """The index with its timestamps moved to those of the stream's first packet (a start offset of the container)."""
    if first.pts is None:
        return index
    return replace(index, pts=index.pts + (first.pts - index.pts[0]))


def from_packets(container: Any) -> tuple[PacketIndex, bool, str]:
    """The index from reading all packets once; whether each had a timestamp; why reading stopped early, or nothing."""
    stream = film(container)
    hides = stream.codec_context.name if stream.codec_context.name in _HIDES_FRAMES else ""
    rows: list[tuple[int, int, bool, bool, int, int]] = []
    timed, stopped, head = True, "", head_bytes(container)
    try:
        for packet in packets_of(container):
            if not packet.size:
                continue
            pts, dts = packet.pts, packet.dts
            timed = timed and pts is not None
            shown = not packet.is_discard and not (hides and _hidden(bytes(packet), hides))
            stamp = len(rows) if pts is None else pts
            place = -1 if packet.pos is None else max(-1, packet.pos - head)
            rows.append((stamp, stamp if dts is None else dts, packet.is_keyframe, shown, place, packet.size))
    except av.error.FFmpegError as error:
        stopped = reason(error)
    columns = np.asarray(rows, np.int64).reshape(-1, 6).T
    index = PacketIndex(
        pts=columns[0],
        dts=columns[1],
        key=columns[2].astype(bool),
        shown=columns[3].astype(bool),
        begin=columns[4],
        size=columns[5],
        origin=PACKETS,
    )
    return index, timed, stopped


def head_bytes(container: Any) -> int:
    """How far behind the beginning of a packet in the file FFmpeg says that it lies."""
    return CHUNK_HEAD if container.format.name == "avi" else 0


def _hidden(data: bytes, codec: str) -> bool:
    """Whether a VP8 or VP9 packet holds just a frame that is never shown (RFC 6386, 9.1; VP9 specification, 6.2)."""
    if codec == "vp8":
        return not data[0] >> 4 & 1
    if data[-1] >> 5 == 0b110:  # a superframe: its last frame is shown
        return False
    bits = f"{data[0]:08b}"
    profile = int(bits[2]) + 2 * int(bits[3])
    at = 5 if profile == 3 else 4
    return bits[at] == "0" and bits[at + 2] == "0"  # neither an earlier frame shown again, nor this one


def _unordered(index: PacketIndex, codec: str) -> bool:
    """Whether timestamps are just those of decoding: AVI has no others, and an MP4 may have lost its table."""
    rising = len(index.pts) > 1 and (np.diff(index.pts) > 0).all()
    return bool(rising and (codec in _NUMBERED or (index.pts == index.dts).all()))


def _straddled(index: PacketIndex) -> bool:
    """Whether a frame that is decoded before a keyframe is shown after it: no encoder does that."""
    keys = np.flatnonzero(index.key)[1:]
    return bool((np.maximum.accumulate(index.pts)[keys - 1] > index.pts[keys]).any())


def doubt(index: PacketIndex, timed: bool, codec: Any) -> str:
    """Why this index cannot be trusted to tell which packet becomes the n-th frame; empty if it can."""
    if not len(index.rows):
        return "the file has no packets"
    stamps, _ = index.by_pts
    least = codec.width * codec.height // 256 // 8 if codec.name in _BIT_A_MACROBLOCK else 0  # bytes a frame
    reasons = {
        "its packets have no timestamps": not timed,
        "packets share a timestamp": (np.diff(stamps) <= 0).any(),
        "its first packet is no keyframe": not index.key[0],
        "frames are shown before the first keyframe": index.pts[index.rows[0]] < index.pts[0],
        "its frames are reordered, and its timestamps are not": codec.has_b_frames and _unordered(index, codec.name),
        "frames decoded before a keyframe are shown after it": _straddled(index),
        "it has packets too small for a frame": (index.size[index.shown] < least).any(),
    }
    return next((reason for reason, found in reasons.items() if found), "")
