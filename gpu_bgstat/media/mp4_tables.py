"""The one table of an MP4 or MOV file that FFmpeg does not hand on: by how much each frame is shown after its decoding.

Boxes and tables as in ISO/IEC 14496-12 (ISO base media file format), 4.2, 8.3.2, 8.6.1.3, 8.7.3.

    moov ─ trak ┬ tkhd                         which track
                └ mdia ─ minf ─ stbl ┬ ctts    (count, offset) …
                                     └ stsz    number of samples
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_MOST_BYTES = 1 << 30  # of a moov box; ten hours have about 10 MB


def composition_offsets(file: BinaryIO, track: int, packets: int) -> NDArray[np.int64] | None:
    """(packets,) ticks from decoding to showing, before any edit list; None if the file does not tell just that.

    Fragmented files keep these numbers elsewhere, and edit lists may leave out packets: both give None.
    """
    moov = _find(file)
    if moov is None or any(kind == b"mvex" for kind, _ in _boxes(moov)):
        return None
    for kind, trak in _boxes(moov):
        if kind == b"trak" and _track(trak) == track:
            return _offsets(_inside(trak, b"mdia", b"minf", b"stbl"), packets)
    return None


def _find(file: BinaryIO) -> memoryview | None:
    """The content of the moov box."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return None
        length, kind = struct.unpack_from(">I4s", head)
        begin = at + 8
        if length == 1 and len(head) == 16:
            length, begin = struct.unpack_from(">Q", head, 8)[0], at + 16
        if kind == b"moov":
            size = length - (begin - at)
            if not 0 < size <= _MOST_BYTES:
                return None
            file.seek(begin)
            return memoryview(file.read(size))
        if length < 8:  # 0: up to the end of the file
            return None
        at += length


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each box, as far as they are whole."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length < 8 or at + length > len(data):
            return
        yield kind, data[at + 8 : at + length]
        at += length


def _inside(data: memoryview, *path: bytes) -> memoryview:
    """The content of the first box at this path; empty if there is none."""
    for step in path:
        data = next((content for kind, content in _boxes(data) if kind == step), data[:0])
    return data


def _track(trak: memoryview) -> int:
    header = _inside(trak, b"tkhd")
    at = 20 if len(header) and header[0] == 1 else 12  # version 1 has 64-bit times
    return int(struct.unpack_from(">I", header, at)[0]) if len(header) >= at + 4 else -1


def _offsets(stbl: memoryview, packets: int) -> NDArray[np.int64] | None:
    sizes, table = _inside(stbl, b"stsz"), _inside(stbl, b"ctts")
    if len(sizes) < 12 or struct.unpack_from(">I", sizes, 8)[0] != packets:
        return None
    if not len(table):
        return np.zeros(packets, np.int64)
    count = struct.unpack_from(">I", table, 4)[0] if len(table) >= 8 else 0
    if len(table) < 8 + 8 * count:
        return None
    pairs = np.frombuffer(table, ">u4", 2 * count, 8).reshape(-1, 2)
    if int(pairs[:, 0].sum(dtype=np.int64)) != packets:
        return None
    # Signed in version 1; writers put negative ones into version 0, too, and FFmpeg reads both as signed.
    return np.repeat(pairs[:, 1].astype(np.int32).astype(np.int64), pairs[:, 0].astype(np.int64))
