"""Small clips of many codecs and containers, made with PyAV, and a plain decode of them to judge by."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation

from gpu_bgstat.arena import Arena
from gpu_bgstat.frames import Image

WIDTH, HEIGHT = 96, 72
MOST = 200  # frames of a clip


def evenly(number: int) -> int:
    return number


def unevenly(number: int) -> int:
    """A variable frame rate: now and then a frame stays for longer."""
    return number * 3 + number // 7 * 5


@dataclass(frozen=True)
class Clip:
    """How a clip is made."""

    suffix: str  # of its file, which chooses the container
    codec: str
    options: dict[str, str] = field(default_factory=dict)  # of the encoder
    mux: dict[str, str] = field(default_factory=dict)  # of the container
    pixel_format: str = "yuv420p"
    frames: int = 120
    gop: int | None = 24
    b_frames: int | None = None
    interlaced: bool = False
    sound: bool = False
    pts: Callable[[int], int] = evenly
    size: tuple[int, int] = (WIDTH, HEIGHT)
    rate: int = 30

    def write(self, path: Path) -> Path:
        with av.open(str(path), "w", options=self.mux) as container:
            stream: Any = container.add_stream(self.codec, rate=Fraction(self.rate), options=self.options)
            stream.width, stream.height, stream.pix_fmt = *self.size, self.pixel_format
            if self.gop is not None:
                stream.codec_context.gop_size = self.gop
            if self.b_frames is not None:
                stream.codec_context.max_b_frames = self.b_frames
            if self.interlaced:
                stream.codec_context.flags |= 1 << 18 | 1 << 29  # coded as fields, and motion of fields
            if not self.options.get("crf"):
                stream.bit_rate = 800_000
            stream.codec_context.thread_count = 1  # the same clip on every machine
            voice: Any = (
                container.add_stream("aac" if self.suffix != "avi" else "mp2", rate=48000) if self.sound else None
            )
            for number, pixels in enumerate(pictures(*self.size)[: self.frames]):
                picture = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format=self.pixel_format)
                picture.pts, picture.time_base = self.pts(number), Fraction(1, self.rate)
                container.mux(stream.encode(picture))
                if voice is not None and number % 3 == 0:
                    container.mux(voice.encode(_noise(number, 4800)))
            container.mux(stream.encode())
            if voice is not None:
                container.mux(voice.encode())
        return path


def _noise(number: int, samples: int) -> Any:
    values = np.random.default_rng(number).normal(0, 0.1, (1, samples)).astype(np.float32)
    sound = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")
    sound.sample_rate, sound.pts, sound.time_base = 48000, number * samples // 3, Fraction(1, 48000)
    return sound


@cache
def pictures(width: int = WIDTH, height: int = HEIGHT) -> list[Image]:
    """Frames of an arena, no two alike."""
    return list(Arena(width=width, height=height, animals=3, asleep=0).frames(MOST))


def copied(source: Path, target: Path, first: int = 0, mux: dict[str, str] | None = None) -> Path:
    """The packets of all streams in another file, without encoding; of the pictures, those from `first` on."""
    number = -1
    with av.open(str(source)) as old, av.open(str(target), "w", options=mux or {}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video":
                number += 1
                if number < first:
                    continue
            packet.stream = streams[packet.stream_index]
            new.mux(packet)
    return target


@dataclass(frozen=True)
class Shown:
    """A frame as a plain decode gives it."""

    time_s: float
    pixels: int  # hash; 0 if not asked for


def plain_decode(
    path: Path, wanted: Container[int] | None = None, stop: int | None = None, tolerant: bool = False
) -> list[Shown]:
    """Every frame by a plain loop over all packets; numbers by counting, times by the rule in `sources/video.py`.

    wanted    frames whose pixels are hashed; None: all
    stop      how many frames are enough
    tolerant  passes over what cannot be decoded, as players do
    """
    shown: list[Shown] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        interval = 1 / (stream.average_rate or stream.guessed_rate or 1)
        first: Any = None
        now: Any = None
        for picture in islice(_decoded(container, tolerant), stop):
            first = picture.pts if now is None else first
            then, now = now, None
            if first is not None and picture.pts is not None and picture.time_base is not None:
                now = (picture.pts - first) * picture.time_base
            if then is not None and (now is None or now <= then):
                now = then + interval
            now = Fraction(0) if now is None else now
            shown.append(
                Shown(float(now), pixels_hash(to_bgr(picture)) if wanted is None or len(shown) in wanted else 0)
            )
    return shown


def _decoded(container: Any, tolerant: bool) -> Iterator[Any]:
    if not tolerant:
        yield from container.decode(video=0)
        return
    for packet in container.demux(video=0):
        pictures: list[Any] = []
        with suppress(av.error.FFmpegError):
            pictures = packet.decode()
        yield from pictures


def to_bgr(picture: Any) -> Image:
    """Upright BGR of 8 bits, as `sources/pixels.py` promises it."""
    deep = picture.format.components[0].bits > 8
    image: Image = picture.to_ndarray(format="bgr48le" if deep else "bgr24", interpolation=Interpolation.BICUBIC)
    if deep:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.rot90(image, picture.rotation // 90)


def pixels_hash(pixels: Image) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data) | hash(pixels.shape) << 32
