"""Image sequences: a folder, a glob, or a list of files, one frame each, in natural order (2 before 10)."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted

from gpu_bgstat.errors import FrameError, SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline, check_size
from gpu_bgstat.sources.picture_size import picture_size
from gpu_bgstat.sources.source import Source

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".pgm",
        ".ppm",
        ".pnm",
        ".pbm",
        ".jp2",
        ".exr",
        ".hdr",
    ]
)


def in_folder(folder: Path) -> list[Path]:
    """The images in a folder, hidden files left out, in natural order; raises SourceError if there is none."""
    try:
        entries = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed ({error.strerror})") from error
    found: list[Path] = natsorted([path for path in entries if path.suffix.lower() in SUFFIXES], key=str)
    if not found:
        raise SourceError(f"{folder} holds no images ({len(entries)} other files): give a folder of pictures or a file")
    return found


class ImageSource(Source):
    """One image file a frame. It has no times, unless they are asked for by frame number."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        super().__init__(name)
        self._paths = self.files = list(paths)
        self.timeline = Timeline(len(self._paths))
        self.container = {"format": "images", "codec": self._paths[0].suffix.lower().lstrip(".")}
        first = next((pixels for pixels in map(_load, self._paths) if pixels is not None), None)
        if first is None:
            reason = _claim(self._paths[0])
            raise SourceError(f"{name}: none of {len(self._paths)} image files can be read{reason}")
        self.spec = FrameSpec.of(first)
        self.container |= {"width": self.spec.width, "height": self.spec.height}

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        for index, path in enumerate(self._paths):
            if plan.over(index, None):
                return
            self.seen += 1
            if not plan.due(index, None):
                continue
            pixels = _load(path)
            if pixels is None:
                self.damaged += 1
                self.warnings.append(
                    f"damage: {path.name} (frame {index}) cannot be read{_claim(path)}; its sample is missing"
                )
            else:
                yield Frame(index, None, pixels)


def read_picture(path: Path) -> Image:
    """One picture, as it would be a frame; raises SourceError if it cannot be read whole."""
    if not path.is_file():
        raise SourceError(f"{path} is no file: give a picture")
    pixels = _load(path)
    if pixels is None:
        raise SourceError(f"{path} cannot be read as a picture{_claim(path)}: give a whole PNG, TIFF or JPEG file")
    return pixels


def _load(path: Path) -> Image | None:
    """BGR or grey, 8 or 16 bit, turned as its EXIF says; None if OpenCV cannot read all of it."""
    try:
        data = _bytes(path)
        if not data or not _whole(data):
            return None
        if size := picture_size(data):
            check_size(*size)
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except (cv2.error, OSError, FrameError):
        return None


def _bytes(path: Path) -> bytes:
    """The content of a file; empty for anything else: a named pipe would be waited for, a device never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _claim(path: Path) -> str:
    """What is wrong with a picture's size, in brackets; empty if nothing is."""
    try:
        size = picture_size(_bytes(path))
        if size:
            check_size(*size)
    except FrameError as error:
        return f" ({path.name}: {error})"
    except OSError:
        return ""
    return ""


def _whole(data: bytes) -> bool:
    """False for a PNG or JPEG file with a hole or without an end: OpenCV would make up the pixels that are missing."""
    if data.startswith(b"\x89PNG"):
        return _png_whole(data)
    return not data.startswith(b"\xff\xd8") or _jpeg_whole(data)


def _png_whole(data: bytes) -> bool:
    """Chunks are length, name, content, checksum; the last one is IEND."""
    at, name = 8, b""
    while name != b"IEND":
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        at = end + 4
    return True


def _jpeg_whole(data: bytes) -> bool:
    """Segments are FF, kind, length, content; behind the last one, the scan (DA), the end (FF D9) must come."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
        elif data[at + 1] == 0xDA:
            return data.find(b"\xff\xd9", at) > 0
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return False
