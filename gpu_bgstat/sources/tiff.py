"""Multi-page TIFF, 8 and 16 bit, either byte order (tifffile). Every page of the first series is a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
from gpu_bgstat.sources.source import Source


class TiffSource(Source):
    """One TIFF file: a stack of pages, or one contiguous block as ImageJ writes above 4 GB."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        try:
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0]
        except (tifffile.TiffFileError, OSError, IndexError, ValueError) as error:
            raise SourceError(f"{path} is no TIFF that can be read ({error})") from error
        self._page = self._pages(series)
        self.container = {
            "format": "tiff",
            "codec": tifffile.COMPRESSION(series.keyframe.compression).name.lower(),
            "axes": series.axes,
        }
        first = self._load(0)
        self.spec = FrameSpec.of(first)
        self.container |= {"width": self.spec.width, "height": self.spec.height}

    def _pages(self, series: tifffile.TiffPageSeries) -> Callable[[int], Image]:
        """How to get the n-th frame; sets the timeline."""
        page = series.keyframe
        if series.dataoffset is not None and series.size:  # uncompressed and contiguous: map it
            stack: Image = np.memmap(
                self._file.filehandle.path,
                dtype=np.dtype(self._file.byteorder + series.dtype.char),
                mode="r",
                offset=series.dataoffset,
                shape=(series.size // page.size, *page.shape),
            )
            self.timeline = Timeline(len(stack))
            return lambda number: np.asarray(stack[number])
        self.timeline = Timeline(len(series.pages))

        def decode(number: int) -> Image:
            found = series.pages[number]
            if found is None:
                raise SourceError(f"{self.name}: page {number} is missing")
            return found.asarray()

        return decode

    def _load(self, number: int) -> Image:
        """One page as (H, W) or BGR, in the machine's byte order."""
        try:
            pixels = self._page(number)
        except (tifffile.TiffFileError, OSError, ValueError, RuntimeError, IndexError) as error:
            raise SourceError(f"{self.name}: page {number} cannot be read ({error})") from error
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
            pixels = np.moveaxis(pixels, 0, 2)  # planes one after the other
        if pixels.ndim == 3 and pixels.shape[2] >= 3:
            pixels = cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_RGB2BGR)
        return pixels

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        assert self.timeline is not None
        for index in range(self.timeline.frames):
            if plan.over(index, None):
                return
            self.seen += 1
            if not plan.due(index, None):
                continue
            try:
                pixels = self._load(index)
            except SourceError as error:
                self.damaged += 1
                self.warnings.append(f"damage: {error}; its sample is missing")
                continue
            yield Frame(index, None, pixels)

    def close(self) -> None:
        self._file.close()
