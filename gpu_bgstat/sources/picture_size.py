"""Width and height as the header of a picture file tells them, before anything is allocated to decode it.

PNG, JPEG, BMP, WebP, TIFF, PNM, JPEG 2000, OpenEXR and Radiance HDR: what OpenCV decodes among `images.SUFFIXES`.
"""

from __future__ import annotations

import re
import struct

_JPEG_SIZES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # SOF0 to SOF15
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,18})(?:\s|#[^\n]*\n)+(\d{1,18})")
_HDR = re.compile(rb"\n[-+][XY] (\d{1,18}) [-+][XY] (\d{1,18})")
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF
_NEAR = 4096  # bytes within which text headers end


def picture_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a file's first picture; None where its kind is unknown, or its header broken."""
    try:
        return _size(data)
    except (struct.error, IndexError):
        return None


def _size(data: bytes) -> tuple[int, int] | None:  # noqa: PLR0911 (a case for each kind)
    if data.startswith(b"\x89PNG"):
        return _two(">II", data, 16)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"BM"):
        width, height = _two("<HH", data, 18) if data[14:18] == b"\x0c\0\0\0" else _two("<ii", data, 18)
        return width, abs(height)  # a negative one says that the top row comes first
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data, "<" if data.startswith(b"II") else ">")
    if found := _PNM.match(data[:_NEAR]):
        return int(found[1]), int(found[2])
    if data.startswith(b"#?") and (found := _HDR.search(data[:_NEAR])):
        return int(found[2]), int(found[1])
    if data.startswith(b"\x76\x2f\x31\x01"):
        return _window(data)
    begin = data.find(b"\xff\x4f\xff\x51", 0, _NEAR)  # JPEG 2000: its codestream, and there the size
    if begin >= 0 and (data[4:8] == b"jP  " or begin == 0):
        right, bottom, left, top = struct.unpack_from(">IIII", data, begin + 8)
        return right - left, bottom - top
    return None


def _two(form: str, data: bytes, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, at)
    return int(first), int(second)


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        if data[at + 1] in _JPEG_SIZES:
            height, width = _two(">HH", data, at + 5)
            return width, height
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = _two("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes, order: str) -> tuple[int, int] | None:
    """The first page's, in plain TIFF and in BigTIFF."""
    big = 43 in data[2:4]
    at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)[0]
    begin, step = (at + 8, 20) if big else (at + 2, 12)
    found = {}
    for entry in range(begin, begin + step * min(count, _NEAR), step):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (_WIDTH, _HEIGHT):
            form = {3: "H", 16: "Q"}.get(kind, "I")
            found[tag] = struct.unpack_from(f"{order}{form}", data, entry + (12 if big else 8))[0]
    return (found[_WIDTH], found[_HEIGHT]) if len(found) == 2 else None


def _window(data: bytes) -> tuple[int, int] | None:
    """Of OpenEXR: the data window, inclusive corners."""
    name = b"dataWindow\0box2i\0"
    at = data.find(name, 0, _NEAR * 16)
    if at < 0:
        return None
    left, top, right, bottom = struct.unpack_from("<iiii", data, at + len(name) + 4)
    return right - left + 1, bottom - top + 1
