"""Raw frames on a pipe: `ffmpeg -i rec.mp4 -f rawvideo -pix_fmt bgr24 - | gpu-bgstat estimate - --size 1920x1080`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Plan
from gpu_bgstat.sources.source import Source

PIXEL_FORMATS: dict[str, tuple[int, np.dtype[Any]]] = {  # name (as FFmpeg's) -> channels and type
    "bgr24": (3, np.dtype("u1")),
    "gray": (1, np.dtype("u1")),
    "gray16le": (1, np.dtype("<u2")),
}


class PipeSource(Source):
    """Frames of a known size and format, read from a binary stream until it ends. It has no times."""

    def __init__(self, stream: BinaryIO, width: int, height: int, pixel_format: str) -> None:
        super().__init__("standard input")
        channels, self._dtype = PIXEL_FORMATS[pixel_format]
        self._stream = stream
        self.spec = FrameSpec(width, height, channels, self._dtype.newbyteorder("="))
        self.container = {"format": "raw", "pixel_format": pixel_format, "width": width, "height": height}

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        assert self.spec is not None
        try:
            data = bytearray(self.spec.bytes)
        except (MemoryError, OverflowError) as error:
            raise SourceError(f"no memory for one frame of {self.spec}: check --size") from error
        while True:
            got = self._fill(memoryview(data))
            if got < len(data):
                break
            index = self.seen
            if plan.over(index, None):
                return
            self.seen += 1
            if plan.due(index, None):
                pixels = np.frombuffer(data, self._dtype).reshape(self.spec.shape)
                yield Frame(index, None, pixels.astype(self.spec.dtype))
        if got:
            self.damaged += 1
            self.warnings.append(f"damage: the pipe ended inside frame {self.seen}, after {got} of {len(data)} bytes")
        if not self.seen:
            raise SourceError(f"standard input ended before one whole frame of {len(data)} bytes ({self.spec})")

    def _fill(self, view: memoryview) -> int:
        """Bytes read; fewer than asked for only at the end of the stream."""
        got = 0
        while got < len(view):
            try:
                more = self._stream.readinto(view[got:])  # type: ignore[attr-defined]
            except OSError as error:
                raise SourceError(
                    f"standard input cannot be read ({error.strerror}): pipe raw frames into it"
                ) from error
            if not more:
                break
            got += more
        return got
