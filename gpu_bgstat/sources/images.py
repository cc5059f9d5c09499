"""Image sequences: a folder, a glob, or a list of files, one frame each, in natural order (2 before 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
from natsort import natsorted

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
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
        self._paths = list(paths)
        self.timeline = Timeline(len(self._paths))
        self.container = {"format": "images", "codec": self._paths[0].suffix.lower().lstrip(".")}
        first = next((pixels for pixels in map(_load, self._paths) if pixels is not None), None)
        if first is None:
            raise SourceError(f"{name}: none of {len(self._paths)} image files can be read")
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
                self.warnings.append(f"damage: {path.name} cannot be read; its sample is missing")
            else:
                yield Frame(index, None, pixels)


def _load(path: Path) -> Image | None:
    """BGR or grey, 8 or 16 bit, turned as its EXIF says; None if OpenCV cannot read it."""
    try:
        return cv2.imread(str(path), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        return None
