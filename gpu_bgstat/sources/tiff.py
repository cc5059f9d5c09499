"""Multi-page TIFF, 8 and 16 bit, either byte order (tifffile). Every page like the first one is a frame."""

from __future__ import annotations

import json
import logging
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import tifffile

from gpu_bgstat.errors import BgstatError, FrameError, SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline, check_size
from gpu_bgstat.sources.mapped import at_random, copy_frame
from gpu_bgstat.sources.source import Source

_BUFFER_BYTES = 512  # holds a page's tags; the usual 8192 read twenty times as much on the way from page to page
_MANY_PAGES = 256  # from here on a plain file's pages are not listed one by one

# what tifffile and the decoders below it raise on damaged files
_DAMAGE = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


class TiffSource(Source):
    """One TIFF file: a stack of pages, or one contiguous block as ImageJ writes above 4 GB."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.files = [path]
        self._complaints: list[str] = []  # about the file as a whole
        self._missing = 0  # pages that lie beyond the end of the file
        with ExitStack() as opened:
            try:
                handle = opened.enter_context(path.open("rb", buffering=_BUFFER_BYTES))
                if _circular(handle):
                    raise SourceError(f"{path} is no TIFF that can be read: its pages go round in a circle")
                handle.seek(0)
                with _heard(self._complaints):
                    self._file = tifffile.TiffFile(handle)
            except _DAMAGE as error:
                raise SourceError(f"{path} is no TIFF that can be read ({error}): is it whole?") from error
            opened.callback(self._file.close)
            self._open(path)
            self._opened = opened.pop_all()

    def _open(self, path: Path) -> None:
        try:
            with _heard(self._complaints):
                axes, shape = self._find()
                codec = tifffile.COMPRESSION(self._first.compression).name.lower()
        except _DAMAGE as error:
            raise SourceError(f"{path} is no TIFF that can be read ({error}): is it whole?") from error
        if mixed := _other_axes(axes, shape):
            raise SourceError(
                f"{path} has axes {axes} of {shape}: {mixed} are no time points; "
                "save one channel and one plane as a stack of its own"
            )
        if len(self._pages) < 2 and (self._complaints or self._missing):
            reason = "".join(f" ({complaint})" for complaint in self._complaints[:1])
            raise SourceError(f"{path} is damaged, only {len(self._pages)} pages can be read{reason}: is it whole?")
        try:
            check_size(self._first.imagewidth, self._first.imagelength)
        except FrameError as error:
            raise SourceError(f"{path}: {error}") from error
        first = next((pixels for pixels in map(self._try, _tried(len(self._pages))) if pixels is not None), None)
        if first is None:
            raise SourceError(
                f"{path}: none of {len(self._pages)} pages can be read: is it whole, and does it need "
                "the formats extra (pip install 'gpu-bgstat[formats]')?"
            )
        self.timeline = Timeline(len(self._pages))
        self.spec = FrameSpec.of(first)
        self.container = {"format": "tiff", "codec": codec, "axes": axes}
        self.container |= {"width": self.spec.width, "height": self.spec.height}

    def _find(self) -> tuple[str, tuple[int, ...]]:
        """Learns how to get each frame; returns the axes of the first series, and its shape.

        Writers that add page by page make a series of each page, so all series that fit count.
        """
        self._pages: list[Callable[[], Image]] = []
        self._first = self._file.pages.first
        if chain := _chain(self._file):
            self._pages += [partial(self._alone, number) for number in range(len(self._file.pages))]
            return chain
        whole = self._file.series
        self._first = whole[0].keyframe
        for series in [series for series in whole if _kind(series) == _kind(whole[0])]:
            if series.dataoffset is None or not series.size:
                self._pages += [partial(self._decoded, series, number) for number in range(len(series.pages))]
            else:
                self._pages += self._mapped(series)
        return whole[0].axes, whole[0].shape

    def _mapped(self, series: tifffile.TiffPageSeries) -> list[Callable[[], Image]]:
        """Uncompressed, contiguous pages, straight from the file's bytes; only those that lie within the file."""
        page = series.keyframe
        dtype = np.dtype(self._file.byteorder + series.dtype.char)
        begin: int = series.dataoffset or 0
        size, promised = page.size * dtype.itemsize, series.size // page.size
        there = min(promised, max(0, self._file.filehandle.size - begin) // size)
        self._missing += promised - there
        if not there:
            return []
        stack = at_random(np.memmap(self._file.filehandle.path, dtype, "r", begin, (there, *page.shape)))
        return [partial(copy_frame, stack, number) for number in range(there)]

    def _decoded(self, series: tifffile.TiffPageSeries, number: int) -> Image:
        page = series.pages[number]
        if page is None:
            raise SourceError(f"{self.name}: page {number} is missing")
        pixels: Image = page.asarray()
        return pixels

    def _alone(self, number: int) -> Image:
        """A page of a chain, whose tags are read only now."""
        page = self._file.pages.get(number)
        if page.hash != self._first.hash:
            raise ValueError(f"{page.shape} {page.dtype} is not like the first page's {self._first.shape}")
        pixels: Image = page.asarray()
        return pixels

    def _load(self, number: int) -> Image:
        """One page as (H, W) or BGR, in the machine's byte order."""
        complaints: list[str] = []
        try:
            with _heard(complaints):
                pixels = self._pages[number]()
        except _DAMAGE as error:
            raise SourceError(f"{self.name}: page {number} cannot be read ({error})") from error
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
            pixels = np.moveaxis(pixels, 0, 2)  # planes one after the other
        if pixels.ndim == 3 and pixels.shape[2] >= 3:
            pixels = cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_RGB2BGR)
        return pixels

    def _try(self, number: int) -> Image | None:
        try:
            return self._load(number)
        except SourceError:
            return None

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        there = len(self._pages)
        if self._missing:
            self.warnings.append(f"damage: the file ends after {there} of its {there + self._missing} pages")
        elif self._complaints:
            self.warnings.append(f"damage: {self._complaints[0]}; {there} pages can be read")
        self.damaged = self._missing or len(self._complaints)
        for index in self.due(plan, there):
            try:
                pixels = self._load(index)
            except SourceError as error:
                self.damaged += 1
                self.warnings.append(f"damage: {error}; its sample is missing")
                continue
            yield Frame(index, None, pixels)

    def close(self) -> None:
        self._opened.close()


def _circular(file: BinaryIO) -> bool:
    """Whether a page that comes later is said to follow on the last: tifffile would go round without an end.

    Brent's way (1980): one place waits, and is moved to where the walk is after 1, 2, 4, … steps.
    """
    head = file.read(16)
    order, big = "<" if head.startswith(b"II") else ">", 43 in head[2:4]
    form, count_form, tag_bytes = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}I", f"{order}H", 12)
    count_bytes, offset_bytes = struct.calcsize(count_form), struct.calcsize(form)
    waits, steps, limit = 0, 0, 1
    try:
        at = struct.unpack_from(form, head, 8 if big else 4)[0]
        while at:
            if at == waits:
                return True
            if steps == limit:
                waits, steps, limit = at, 0, 2 * limit
            file.seek(at)
            tags = struct.unpack(count_form, file.read(count_bytes))[0]
            file.seek(at + count_bytes + tags * tag_bytes)
            at = struct.unpack(form, file.read(offset_bytes))[0]
            steps += 1
    except (struct.error, OSError, OverflowError, ValueError):
        return False  # the chain is broken: tifffile tells where
    return False


def _tried(pages: int) -> list[int]:
    """Pages of which the first that can be read is the pattern of all: of very many, not each, which may take hours."""
    return sorted({*range(min(pages, _MANY_PAGES)), *range(0, pages, max(1, pages // _MANY_PAGES))})


def holds_stack(path: Path) -> bool:
    """Whether a file is a TIFF of more than one frame."""
    try:
        source = TiffSource(path)
    except BgstatError:
        return False
    source.close()
    return source.timeline is not None and source.timeline.frames > 1


def _chain(file: tifffile.TiffFile) -> tuple[str, tuple[int, ...]] | None:
    """Axes and shape of a plain file of many pages that are all alike; None if only tifffile's `series` can tell.

    `series` reads the strip table of each page, and compares with one another the pages that tifffile's own writer
    added one by one: 20,000 of them for half a minute. Here some pages are looked at; `_alone` looks at the others.
    """
    total = len(file.pages)
    if total < _MANY_PAGES or file.pages.first.subifds is not None or file.flags - {"shaped", "uniform"}:
        return None
    spots = sorted({*range(8), *range(0, total, total // 32), total - 1})
    looked_at: list[Any] = [file.pages.get(number) for number in spots]
    first, *others = looked_at
    if any(page.hash != first.hash or page.subifds is not None for page in others):
        return None
    if not any(page.is_shaped for page in (first, *others)):
        return f"I{first.axes}", (total, *first.shape)
    told = [_description(page) for page in (first, *others)]
    if all(math.prod(description.get("shape", [0])) == first.size for description in told):
        return first.axes, first.shape  # each page is a stack of its own
    shape = tuple(told[0].get("shape", ()))
    if first.is_contiguous or any(told[1:]) or shape != (total, *first.shape):
        return None
    return told[0].get("axes", f"Q{first.axes}"), shape


def _description(page: tifffile.TiffPage) -> dict[str, Any]:
    """What tifffile's writer noted at the first page of a stack; empty where it did not."""
    try:
        noted: dict[str, Any] = json.loads(page.description) if page.is_shaped else {}
    except ValueError:
        return {}
    return noted


def _other_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Names what else than time the pages run over, where they run over two things; a lone Z is often time."""
    pages = {axis: length for axis, length in zip(axes, shape, strict=False) if axis not in "YXS"}
    long = {axis: length for axis, length in pages.items() if length > 1}
    names = {"C": "channels", "Z": "planes"}
    return " and ".join(f"{length} {names[axis]}" for axis, length in long.items() if axis in names and len(long) > 1)


def _kind(series: tifffile.TiffPageSeries) -> tuple[object, ...]:
    page = series.keyframe
    return page.shape, page.dtype, page.photometric, page.planarconfig


@contextmanager
def _heard(complaints: list[str]) -> Iterator[None]:
    """tifffile tells of damage by logging: that goes into `complaints`, and not on to stderr."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage().splitlines()[0])

    logger, notes = logging.getLogger("tifffile"), Notes(logging.WARNING)
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)
