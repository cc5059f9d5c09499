"""Damaged copies of videos, made from a seed, and a process that reads them: run as a script, it takes one a line.

    test ──► {"source": path, "seed": 7, "folder": …} ──► this process ──► {"outcome": "read", "faults": []} ──► test

Whatever kills or stalls the process is seen by the test, which knows the mutant that it was at.
"""

from __future__ import annotations

import functools
import json
import random
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from clips import pixels_hash, to_bgr

from gpu_bgstat import BgstatError, Config, estimate
from gpu_bgstat.media.video_file import METADATA
from gpu_bgstat.schedule import Planned
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.source import ReadAgainError

MEMORY_BYTES = 6 << 30  # of addresses, of which threads' stacks and FFmpeg's pools take most
_HEADER_BYTES = 1500  # where damage is aimed at headers and tables, from either end

Harm = Callable[[bytearray, random.Random], None]


# --- damage ----------------------------------------------------------------------------------------------------------


def _flip(data: bytearray, rng: random.Random, places: range) -> None:
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        data[rng.choice(places)] ^= 1 << rng.randrange(8)


def flips(data: bytearray, rng: random.Random) -> None:
    _flip(data, rng, range(len(data)))


def flips_in_front(data: bytearray, rng: random.Random) -> None:
    _flip(data, rng, range(min(len(data), _HEADER_BYTES)))


def flips_behind(data: bytearray, rng: random.Random) -> None:
    _flip(data, rng, range(max(0, len(data) - _HEADER_BYTES), len(data)))


def wrong_number(data: bytearray, rng: random.Random) -> None:
    """Four bytes near either end become an extreme number, as a hostile writer would put into a size or a count."""
    at = rng.randrange(min(len(data), _HEADER_BYTES) - 4)
    at = rng.choice([at, len(data) - at - 4])
    number = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 100_000])
    data[at : at + 4] = number.to_bytes(4, rng.choice(["big", "little"]))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def hole(data: bytearray, rng: random.Random) -> None:
    begin, length = _part(data, rng)
    data[begin : begin + length] = bytes([rng.choice([0, 0, 255])]) * length


def left_out(data: bytearray, rng: random.Random) -> None:
    begin, length = _part(data, rng)
    del data[begin : begin + length]


def twice(data: bytearray, rng: random.Random) -> None:
    begin, length = _part(data, rng)
    data[begin:begin] = data[begin : begin + length]


def swapped(data: bytearray, rng: random.Random) -> None:
    length = rng.choice([16, 188, 512, 2048])
    blocks = max(2, len(data) // length)
    one, other = (block * length for block in rng.sample(range(blocks), 2))
    data[one : one + length], data[other : other + length] = (
        data[other : other + length],
        data[one : one + length],
    )


def _part(data: bytearray, rng: random.Random) -> tuple[int, int]:
    length = min(len(data) - 1, rng.choice([1, 4, 64, 188, 1000, 4000]))
    return rng.randrange(len(data) - length), length


HARMS: tuple[Harm, ...] = (
    flips,
    flips,
    flips_in_front,
    flips_behind,
    wrong_number,
    cut,
    hole,
    left_out,
    twice,
    swapped,
)


def mutant(original: bytes, seed: int) -> bytes:
    """A damaged copy: each kind of harm in turn, and each seed another place."""
    data, rng = bytearray(original), random.Random(seed)
    HARMS[seed % len(HARMS)](data, rng)
    return bytes(data)


# --- judging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Met:
    """A frame: its time, and which frame of the whole recording it shows; None if it is no longer any of them."""

    time_s: float
    shows: int | None


def in_sequence(path: Path, known: dict[int, int]) -> tuple[list[Met], bool]:
    """Every frame by a plain decoder with one thread, which passes over what it cannot decode; whether these are all.

    They are not where the file does not open, or the decoder got stuck, as PyAV's may after an error.

    A time that is missing or does not increase is that of the frame before plus one frame.
    """
    met: list[Met] = []
    try:
        with av.open(str(path), **METADATA) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            interval = 1 / Fraction(stream.average_rate or stream.guessed_rate or 1)
            first: int | None = None
            last: Fraction | None = None
            for packet in _packets(container):
                try:
                    pictures: list[Any] = stream.codec_context.decode(packet)
                except av.error.BlockingIOError:
                    return met, False
                except av.error.FFmpegError:
                    continue
                for picture in pictures:
                    if last is None:
                        first, now = picture.pts, Fraction(0)
                    else:
                        now = last + interval
                        if first is not None and picture.pts is not None:
                            stamp = (picture.pts - first) * Fraction(stream.time_base or 0)
                            now = stamp if stamp > last else now
                    last = now
                    met.append(Met(float(now), known.get(pixels_hash(to_bgr(picture)))))
    except (av.error.FFmpegError, IndexError, ValueError):
        return [], False
    return met, True


def _packets(container: Any) -> Iterator[Any]:
    """As far as the file can be read, and None at the end."""
    with suppress(av.error.FFmpegError):
        while True:
            try:
                yield from (packet for packet in container.demux(video=0) if packet.size)
                break
            except IndexError:  # PyAV at a packet of a stream that appeared in the middle
                continue
    yield None


@functools.cache
def frames_of(path: Path) -> dict[int, int]:
    """Which frame these pixels are, of those that look like no other."""
    hashes: list[int] = []
    with av.open(str(path), **METADATA) as container:
        for packet in container.demux(video=0):
            try:
                hashes += [pixels_hash(to_bgr(picture)) for picture in packet.decode()]
            except av.error.FFmpegError:
                continue
    seen = Counter(hashes)
    return {pixels: number for number, pixels in enumerate(hashes) if seen[pixels] == 1}


def dense(path: Path, known: dict[int, int]) -> tuple[dict[int, Met], Any]:
    """Every frame that the source under test gives, by its index."""
    with closing(open_source(path, Config(decoders=2))) as source:
        for _ in range(20):
            assert source.timeline is not None
            total = source.timeline.frames
            try:
                frames = {
                    frame.index: Met(frame.time_s or 0.0, known.get(pixels_hash(frame.pixels)))
                    for frame in source.read(Planned(range(total), total))
                }
            except ReadAgainError:
                continue
            return frames, source
    raise AssertionError("the source never came to an end of correcting itself")


def judge(source: Path, path: Path) -> tuple[str, list[str]]:
    known = frames_of(source)
    try:
        background = estimate(path, Config(every=3, device="cpu"))
        outcome = "told" if background.run.damaged or background.run.warnings else "read"
        indices = [sample.index for sample in background.samples]
        assert indices == sorted({*indices}), f"samples {indices}"
    except BgstatError as error:
        assert "\n" not in str(error), error
        outcome = "refused"
    try:
        frames, reader = dense(path, known)
    except BgstatError:
        return outcome, []
    truth, complete = in_sequence(path, known)
    faults = []
    for index, frame in frames.items():
        if index >= len(truth):
            faults += [f"frame {index} of {len(truth)}"] if complete else []
        elif frame.shows is not None and truth[index].shows is not None and frame.shows != truth[index].shows:
            faults.append(f"frame {index} shows {frame.shows}, and should show {truth[index].shows}")
        elif abs(frame.time_s - truth[index].time_s) > 1e-6:
            faults.append(f"frame {index} is at {frame.time_s} s, and should be at {truth[index].time_s} s")
    if faults:
        faults = [
            f"{len(frames)} frames, {len(truth)} in sequence; {reader.decoding}; {reader.damaged}; {reader.warnings}",
            *faults,
        ]
    return outcome, faults[:6]


def serve() -> None:
    """Judges the mutants that stdin names, one a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    av.logging.set_level(None)
    for line in sys.stdin:
        asked = json.loads(line)
        source = Path(asked["source"])
        path = Path(asked["folder"]) / f"mutant{source.suffix}"
        path.write_bytes(mutant(source.read_bytes(), asked["seed"]))
        try:
            outcome, faults = judge(source, path)
        except Exception:  # noqa: BLE001 (whatever it is, the test tells it)
            outcome, faults = "failed", [traceback.format_exc()]
        print(json.dumps({"outcome": outcome, "faults": faults}), flush=True)


if __name__ == "__main__":
    serve()
