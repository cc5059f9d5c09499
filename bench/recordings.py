"""Recordings to measure on: a synthetic arena in the codecs that cameras and trackers write.

Rendering takes minutes, so that finished files stay in a folder; their names hold all that they depend on.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import cv2

from gpu_bgstat.arena import Arena


@dataclass(frozen=True)
class Codec:
    """How a recording is encoded."""

    name: str
    encoder: str
    suffix: str
    options: tuple[tuple[str, str], ...] = ()
    bit_rate: int | None = None

    @property
    def full_range(self) -> bool:
        return self.encoder == "mjpeg"


CODECS = {
    codec.name: codec
    for codec in (
        Codec("mpeg4", "mpeg4", ".mp4", bit_rate=8_000_000),
        Codec("mjpeg", "mjpeg", ".avi", (("qmin", "4"), ("qmax", "4"))),
        Codec("x264", "libx264", ".mp4"),  # no option at all: GOPs of up to 250 frames, three B-frames in a row
        Codec("x264-gop60", "libx264", ".mp4", (("g", "60"), ("bf", "0"))),
        Codec("hevc", "libx265", ".mp4", (("preset", "superfast"), ("crf", "20"), ("x265-params", "log-level=error"))),
    )
}


def available() -> list[str]:
    """The codecs whose encoder this PyAV has; Debian's, for one, may lack libx265."""
    return [name for name, codec in CODECS.items() if codec.encoder in av.codecs_available]


def recordings(folder: Path, arena: Arena, frames: int) -> dict[str, Path]:
    """The first `frames` frames of the arena by each codec, rendered in one pass if any is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / _file_name(CODECS[name], arena, frames) for name in available()}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        print(f"rendering {frames} frames as {', '.join(missing)}", file=sys.stderr)
        _render({name: paths[name] for name in missing}, arena, frames)
    return paths


def _file_name(codec: Codec, arena: Arena, frames: int) -> str:
    digest = hashlib.sha256(repr((codec, arena)).encode()).hexdigest()[:8]
    return f"{codec.name}-{arena.width}x{arena.height}-{frames}-{digest}{codec.suffix}"


def _render(paths: dict[str, Path], arena: Arena, frames: int) -> None:
    """Writes beside the names and renames, so that a name never holds half a recording."""
    drafts = {name: _draft(path) for name, path in paths.items()}
    try:
        with ExitStack() as stack:
            writers = [stack.enter_context(_Writer(CODECS[name], drafts[name], arena)) for name in paths]
            for pixels in arena.frames(frames):
                planes = cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420)  # rounds, where swscale truncates
                for writer in writers:
                    writer.add(planes)
        for name, path in paths.items():
            drafts[name].replace(path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


class _Writer:
    """One file that is being encoded."""

    def __init__(self, codec: Codec, path: Path, arena: Arena) -> None:
        self._full_range = codec.full_range
        self._container = av.open(str(path), "w")
        stream: Any = self._container.add_stream(codec.encoder, rate=Fraction(arena.frames_per_s))
        stream.width, stream.height = arena.width, arena.height
        stream.pix_fmt = "yuvj420p" if codec.full_range else "yuv420p"
        stream.options = dict(codec.options)
        if codec.bit_rate:
            stream.bit_rate = codec.bit_rate
        if codec.encoder == "libx265":
            stream.codec_context.codec_tag = "hvc1"
        self._stream = stream

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, planes: Any) -> None:
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        if self._full_range:
            frame = frame.reformat(format="yuvj420p")
        self._container.mux(self._stream.encode(frame))


def lengthened(path: Path, times: int, folder: Path) -> Path:
    """The recording so many times in a row: the same packets with later timestamps, nothing is encoded.

    Every copy begins with a keyframe that drops all before it, so frame i shows frame i mod n of the original.
    """
    longer = folder / f"{times}x-{path.name}"
    draft = _draft(longer)
    with av.open(str(path)) as source, av.open(str(draft), "w") as target:
        stream: Any = source.streams.video[0]
        copy: Any = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        step = _step(packets)
        for turn in range(times):
            later = turn * len(packets) * step
            source.seek(0)
            for packet in source.demux(stream):
                if not packet.size:
                    continue
                packet.dts += later
                packet.pts = packet.dts if packet.pts is None else packet.pts + later
                packet.stream = copy
                target.mux(packet)
    draft.replace(longer)
    return longer


def _step(packets: list[Any]) -> int:
    """Ticks from one frame to the next, which must be even."""
    stamps = sorted(packet.dts for packet in packets)
    steps = {later - earlier for earlier, later in pairwise(stamps)}
    if len(steps) != 1:
        raise AssertionError(f"uneven timestamps, {sorted(steps)} ticks apart, cannot be continued")
    return int(steps.pop())


def _draft(path: Path) -> Path:
    return path.with_name(f".{os.getpid()}-{path.name}")
