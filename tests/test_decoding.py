"""Planned decoding of many codecs and containers against a plain decode: sound films, damaged, lying, changing ones."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import pytest
from clips import Clip, Shown, copied, pixels_hash, plain_decode, unevenly
from conftest import RECORDINGS, recording

from gpu_bgstat import Config, estimate
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame
from gpu_bgstat.media.video_file import LocalFile
from gpu_bgstat.schedule import Planned
from gpu_bgstat.sources.source import ReadAgainError
from gpu_bgstat.sources.video import VideoSource

TABLES, PACKETS = "from the container's tables", "from reading all packets"


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What a source gave at last, and how."""

    frames: list[Frame]
    source: VideoSource

    @property
    def way(self) -> str:
        return str(self.source.decoding["way"])

    @property
    def why(self) -> str:
        return str(self.source.decoding["why"])

    @property
    def told(self) -> bool:
        return bool(self.source.damaged or self.source.warnings)

    @functools.cached_property
    def pixels(self) -> dict[int, int]:
        return {frame.index: pixels_hash(frame.pixels) for frame in self.frames}


def read(
    path: Path,
    wanted: Sequence[int] | None = None,
    decoders: int | None = None,
    any_order: bool = False,
    sequential: bool = False,
) -> Reading:
    """These frames (None: all), read again as the pipeline does where the source asks for it."""
    source = VideoSource(LocalFile(path), Config(decoders=decoders))
    if sequential:
        source._index, source._why = None, "the test wants it"
    with closing(source):
        for _ in range(20):
            assert source.timeline is not None
            total = source.timeline.frames if wanted is not None or not sequential else 10**6
            numbers = range(total) if wanted is None else [number for number in wanted if number < total]
            try:
                return Reading(list(source.read(Planned(numbers, total, any_order=any_order))), source)
            except ReadAgainError:
                continue
    raise AssertionError("the source never came to an end of correcting itself")


def compare(path: Path, wanted: Sequence[int], truth: Sequence[Shown], decoders: int, any_order: bool) -> Reading:
    """Reads, and holds indices, times and pixels against the plain decode."""
    reading = read(path, wanted, decoders, any_order)
    indices = [frame.index for frame in reading.frames]
    assert (sorted(indices) if any_order else indices) == list(wanted)
    for frame in reading.frames:
        assert frame.time_s == pytest.approx(truth[frame.index].time_s, abs=1e-9)
        assert pixels_hash(frame.pixels) == truth[frame.index].pixels, f"frame {frame.index} of {wanted}"
    assert reading.source.damaged == 0
    return reading


# --- a zoo of clips --------------------------------------------------------------------------------------------------


def x264(params: str, **more: str) -> dict[str, str]:
    return {"preset": "veryfast", "crf": "22", "x264-params": params, **more}


def x265(params: str) -> dict[str, str]:
    quiet = "log-level=none:pools=1:frame-threads=1:keyint=24:min-keyint=24:"
    return {"preset": "ultrafast", "crf": "22", "x265-params": quiet + params}


OPEN = x264("open-gop=1:keyint=24:min-keyint=24:bframes=3:b-adapt=0:b-pyramid=normal")
REFRESH = x264("intra-refresh=1:keyint=24:bframes=0")
LAYERS = "bframes=3:b-adapt=0:temporal-layers=2"
AHEAD = {"auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "6", "deadline": "realtime"}
B3 = x264("bframes=3:b-adapt=0")
NO_STAMPS = "its packets have no timestamps"
UNORDERED = "its frames are reordered, and its timestamps are not"
NO_KEYFRAME = "is marked as a keyframe and"  # gives no frame, or is none
PLANNED = (TABLES, PACKETS)

# clip, and what `decoding["why"]` ends with or contains: planned, and from what; or why not
ZOO: dict[str, tuple[Clip, str]] = {
    "h264 without B-frames": (Clip("mp4", "libx264", x264("bframes=0")), TABLES),
    "h264 b-pyramid=none": (Clip("mp4", "libx264", x264("bframes=3:b-adapt=0:b-pyramid=none")), TABLES),
    "h264 b-pyramid=strict": (Clip("mkv", "libx264", x264("bframes=3:b-adapt=0:b-pyramid=strict")), PACKETS),
    "h264 b-pyramid=normal": (Clip("mov", "libx264", x264("bframes=3:b-adapt=0:b-pyramid=normal")), TABLES),
    "h264 refs=5 weightp": (Clip("ts", "libx264", x264("bframes=3:ref=5:weightp=2:b-adapt=0")), PACKETS),
    "h264 open mp4": (Clip("mp4", "libx264", OPEN, gop=None), TABLES),
    "h264 open ts": (Clip("ts", "libx264", OPEN, gop=None), PACKETS),
    "h264 open mkv": (Clip("mkv", "libx264", OPEN, gop=None), PACKETS),
    "h264 intra-refresh mp4": (Clip("mp4", "libx264", REFRESH, gop=None), NO_KEYFRAME),
    "h264 intra-refresh ts": (Clip("ts", "libx264", REFRESH, gop=None), NO_KEYFRAME),
    "h264 one keyframe": (Clip("mp4", "libx264", x264("keyint=infinite"), gop=None), TABLES),
    "h264 interlaced mp4": (Clip("mp4", "libx264", x264("tff=1:bframes=2"), interlaced=True), TABLES),
    "h264 interlaced ts": (Clip("ts", "libx264", x264("tff=1:bframes=2"), interlaced=True), PACKETS),
    "h264 slices": (Clip("mp4", "libx264", x264("slices=4:bframes=2")), TABLES),
    "h264 sound mp4": (Clip("mp4", "libx264", B3, sound=True), TABLES),
    "h264 sound ts": (Clip("ts", "libx264", B3, sound=True), PACKETS),
    "h264 sound mkv": (Clip("mkv", "libx264", B3, sound=True), PACKETS),
    "h264 10 bit": (Clip("mp4", "libx264", B3, pixel_format="yuv420p10le"), TABLES),
    "h264 4:4:4": (Clip("mp4", "libx264", B3, pixel_format="yuv444p"), TABLES),
    "h264 grey": (Clip("mp4", "libx264", B3, pixel_format="gray"), TABLES),
    "h264 uneven mp4": (Clip("mp4", "libx264", B3, pts=unevenly), TABLES),
    "h264 uneven mkv": (Clip("mkv", "libx264", B3, pts=unevenly), PACKETS),
    "h264 starts later": (Clip("mp4", "libx264", B3, pts=lambda number: number + 45), TABLES),
    "h264 negative offsets": (Clip("mp4", "libx264", B3, mux={"movflags": "negative_cts_offsets"}), TABLES),
    "h264 no edit list": (Clip("mp4", "libx264", B3, mux={"use_editlist": "0"}), TABLES),
    "h264 index in front": (Clip("mp4", "libx264", B3, mux={"movflags": "faststart"}), TABLES),
    "h264 fragmented": (Clip("mp4", "libx264", B3, mux={"movflags": "frag_keyframe+empty_moov"}), PACKETS),
    "h264 flv": (Clip("flv", "libx264", B3), PACKETS),
    "h264 avi": (Clip("avi", "libx264", x264("bframes=0")), PACKETS),
    "h264 avi with B-frames": (Clip("avi", "libx264", B3), UNORDERED),
    "h264 bare": (Clip("h264", "libx264", B3), NO_STAMPS),
    "hevc without B-frames": (Clip("mp4", "libx265", x265("bframes=0"), gop=None), TABLES),
    "hevc closed": (Clip("mp4", "libx265", x265("bframes=3:open-gop=0"), gop=None), TABLES),
    "hevc open mp4": (Clip("mp4", "libx265", x265("bframes=4:b-adapt=0:open-gop=1"), gop=None), TABLES),
    "hevc open ts": (Clip("ts", "libx265", x265("bframes=4:b-adapt=0:open-gop=1"), gop=None), PACKETS),
    "hevc open mkv": (Clip("mkv", "libx265", x265("bframes=4:b-adapt=0:open-gop=1"), gop=None), PACKETS),
    "hevc layers mp4": (Clip("mp4", "libx265", x265(LAYERS), gop=None), TABLES),
    "hevc layers ts": (Clip("ts", "libx265", x265(LAYERS), gop=None), PACKETS),
    "hevc bare": (Clip("hevc", "libx265", x265("bframes=3"), gop=None), NO_STAMPS),
    "mpeg4 mp4": (Clip("mp4", "mpeg4", b_frames=0, gop=12), TABLES),
    "mpeg4 B-frames mp4": (Clip("mp4", "mpeg4", b_frames=2, gop=12), TABLES),
    "mpeg4 avi": (Clip("avi", "mpeg4", b_frames=0, gop=12), TABLES),
    "mpeg4 sound avi": (Clip("avi", "mpeg4", b_frames=0, gop=12, sound=True), TABLES),
    "mpeg4 B-frames avi": (Clip("avi", "mpeg4", b_frames=2, gop=12), PACKETS),
    "mpeg4 B-frames mkv": (Clip("mkv", "mpeg4", b_frames=2, gop=12), PACKETS),
    "mpeg2 ts": (Clip("ts", "mpeg2video", b_frames=2, gop=12), PACKETS),
    "mpeg2 interlaced": (Clip("ts", "mpeg2video", b_frames=2, gop=12, interlaced=True), PACKETS),
    "mpeg2 mp4": (Clip("mp4", "mpeg2video", b_frames=2, gop=12), TABLES),
    "mpeg2 program stream": (Clip("mpg", "mpeg2video", b_frames=2, gop=12), "was foretold"),
    "mpeg2 bare": (Clip("m2v", "mpeg2video", b_frames=2, gop=12), PACKETS),
    "mpeg1": (Clip("mpg", "mpeg1video", b_frames=2, gop=12), PACKETS),
    "mjpeg avi": (Clip("avi", "mjpeg", pixel_format="yuvj420p"), TABLES),
    "mjpeg mkv": (Clip("mkv", "mjpeg", pixel_format="yuvj422p"), PACKETS),
    "ffv1": (Clip("mkv", "ffv1", {"level": "3", "slices": "4"}, gop=1), PACKETS),
    "ffv1 groups": (Clip("mkv", "ffv1", {"level": "3", "slices": "4"}, gop=12), PACKETS),
    "ffv1 grey": (Clip("avi", "ffv1", {"context": "1"}, pixel_format="gray", gop=12), TABLES),
    "huffyuv": (Clip("avi", "huffyuv", pixel_format="yuv422p"), TABLES),
    "ffvhuff adaptive": (Clip("avi", "ffvhuff", {"context": "1"}), TABLES),
    "prores": (Clip("mov", "prores_ks", pixel_format="yuv422p10le", frames=40), TABLES),
    "vp8": (Clip("webm", "libvpx", {**AHEAD, "cpu-used": "8"}), PACKETS),
    "vp9 webm": (Clip("webm", "libvpx-vp9", AHEAD), PACKETS),
    "vp9 mp4": (Clip("mp4", "libvpx-vp9", AHEAD), PACKETS),
    "av1 mp4": (Clip("mp4", "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}), TABLES),
    "av1 mkv": (Clip("mkv", "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}), PACKETS),
    "wmv1": (Clip("wmv", "wmv1"), PACKETS),
    "wmv2": (Clip("wmv", "wmv2"), PACKETS),
    "msmpeg4": (Clip("avi", "msmpeg4"), TABLES),
    "flv1": (Clip("flv", "flv"), PACKETS),
    "h263": (Clip("3gp", "h263", size=(176, 144)), TABLES),
    "svq1": (Clip("mov", "svq1", pixel_format="yuv410p", frames=60), NO_KEYFRAME),
    "snow": (Clip("avi", "snow", {"strict": "-2"}, frames=40), TABLES),
    "gif": (Clip("gif", "gif", pixel_format="rgb8", frames=40, rate=25), PACKETS),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a clip of this name, once."""
    folder = tmp_path_factory.mktemp("zoo")

    @functools.cache
    def made(name: str) -> Path:
        clip = ZOO[name][0]
        if clip.codec not in av.codecs_available:
            pytest.skip(f"this PyAV has no {clip.codec}")
        return clip.write(folder / f"{name.replace(':', '')}.{clip.suffix}")

    return made


def subsets(total: int, seed: str) -> Iterator[tuple[list[int], int, bool]]:
    """Frames to read, decoders, any order: all, dense, sparse, a few, one."""
    rng = random.Random(seed)
    for count in (total, total * 2 // 3, 9, 4, 2, 1, 1, 1):
        yield sorted(rng.sample(range(total), min(count, total))), rng.choice([1, 2, 3]), rng.random() < 0.5


def is_the_expected(reading: Reading, why: str) -> bool:
    return (reading.way == "planned") == (why in PLANNED) and why in reading.why


@pytest.mark.parametrize("name", ZOO)
def test_planned_frames_are_those_of_a_plain_decode(zoo: Callable[[str], Path], name: str) -> None:
    """Indices, times and pixels; and the way is the expected one, so that nothing falls back unnoticed."""
    path, (clip, why) = zoo(name), ZOO[name]
    truth = plain_decode(path)
    assert len(truth) == clip.frames
    assert len({shown.pixels for shown in truth}) > 0.9 * clip.frames, "frames must differ to be told apart"
    readings = [
        compare(path, wanted, truth, decoders, any_order) for wanted, decoders, any_order in subsets(len(truth), name)
    ]
    if why in PLANNED or why in (NO_STAMPS, UNORDERED):
        assert all(is_the_expected(reading, why) for reading in readings)
    else:  # found out while reading: some frames are before the place that shows it
        assert any(is_the_expected(reading, why) for reading in readings)
    if name != "h264 avi with B-frames":  # whose times go by a rule, since AVI has none
        assert not any(reading.source.warnings for reading in readings)


def test_every_frame_by_itself(zoo: Callable[[str], Path]) -> None:
    """Where a frame lies in its group must not matter."""
    for name in ("h264 open mp4", "hevc layers mp4", "hevc open ts", "mpeg2 ts", "vp9 webm"):
        truth = plain_decode(zoo(name))
        for number in range(len(truth)):
            assert read(zoo(name), [number], 1).pixels == {number: truth[number].pixels}, (name, number)


COPIES = [
    *(
        (name, suffix)
        for name in ("h264 b-pyramid=normal", "h264 open mp4", "hevc open mp4")
        for suffix in ("mp4", "mkv")
    ),
    *(("mpeg4 B-frames mp4", suffix) for suffix in ("mov", "mkv", "avi")),
    *((name, "ts") for name in ("h264 open ts", "hevc open ts", "mpeg2 ts")),
    ("h264 flv", "flv"),
]


@pytest.mark.parametrize(("name", "suffix"), COPIES)
def test_copies_that_begin_within_a_group(zoo: Callable[[str], Path], name: str, suffix: str, tmp_path: Path) -> None:
    """Cut by a program that does not decode: the first packets have no keyframe, or an edit list hides some."""
    for first in (7, 24, 31):
        path = copied(zoo(name), tmp_path / f"{first}.{suffix}", first)
        truth = plain_decode(path, tolerant=True)
        assert [shown.pixels for shown in truth] == list(read(path, sequential=True).pixels.values())
        for wanted, decoders, any_order in [([0, 1, 2, 30], 1, False), ([40, 60], 2, True), ([70], 1, False)]:
            reading = read(path, wanted, decoders, any_order)
            right = reading.pixels == {number: truth[number].pixels for number in wanted}
            assert right or reading.told, (first, wanted, reading.why)


@pytest.mark.recordings
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name)
        for folder in ("animals", "people", "codec")
        for path in sorted((RECORDINGS / folder).glob("*"))
        if path.name != "decord_corrupted.mp4"  # damaged: two plain decodes of it differ
    ],
)
def test_sparse_samples_of_real_recordings(path: Path) -> None:
    """Against one plain decode, whose length the recording tells; long ones up to a sixth of their frames."""
    source = VideoSource(LocalFile(recording(f"{path.parent.name}/{path.name}")))
    assert source.timeline is not None
    rng = random.Random(path.name)
    total = source.timeline.frames
    reach = total if total * path.stat().st_size < 3e9 else total // 6
    subsets = [sorted(rng.sample(range(reach), min(reach, count))) for count in (9, 3, 1)]
    every = set().union(*subsets)
    truth = plain_decode(path, every, stop=max(every) + 1)
    for wanted in subsets:
        with closing(VideoSource(LocalFile(path), Config(decoders=rng.choice([1, 2, 3])))) as again:
            there = [number for number in wanted if number < len(truth)]  # a header may promise too much
            frames = frames_of(again, there, any_order=rng.random() < 0.5)
            assert sorted(frame.index for frame in frames) == there
            for frame in frames:
                assert frame.time_s == pytest.approx(truth[frame.index].time_s, abs=1e-6)
                assert pixels_hash(frame.pixels) == truth[frame.index].pixels, frame.index
            assert again.damaged == 0


def frames_of(source: VideoSource, wanted: Sequence[int], any_order: bool = False) -> list[Frame]:
    for _ in range(20):
        assert source.timeline is not None
        with suppress(ReadAgainError):
            return list(source.read(Planned(wanted, source.timeline.frames, any_order=any_order)))
    raise AssertionError("the source never came to an end of correcting itself")


# --- damage ----------------------------------------------------------------------------------------------------------

HARMED = [
    "h264 b-pyramid=none", "h264 b-pyramid=strict", "h264 refs=5 weightp", "h264 avi", "h264 fragmented", "h264 flv",
    "hevc closed", "hevc open ts", "mpeg4 B-frames mp4", "mpeg4 avi", "mpeg2 ts", "mjpeg avi", "vp8", "vp9 webm",
    "av1 mp4", "wmv2", "msmpeg4", "flv1", "huffyuv",
]  # fmt: skip


def harmed(data: bytes, rng: random.Random) -> bytes:
    """Noise, zeros, a flipped bit, or the end gone."""
    spoilt, kind = bytearray(data), rng.choice(["noise", "zeros", "bit", "cut"])
    if kind == "cut":
        return data[: rng.randrange(len(data) // 3, len(data))]
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(data) // 20, len(data) - 10)
        size = min(rng.choice([1, 8, 64, 600, 3000]), len(data) - at)
        if kind == "bit":
            spoilt[at] ^= 1 << rng.randrange(8)
        else:
            spoilt[at : at + size] = rng.randbytes(size) if kind == "noise" else bytes(size)
    return bytes(spoilt)


@pytest.mark.parametrize("seed", range(2 * len(HARMED)))
def test_damaged_films_give_the_frames_of_a_sequential_reading_or_say_so(
    zoo: Callable[[str], Path], seed: int, tmp_path: Path
) -> None:
    """Nothing that was decoded with damage is handed on without a word.

    What no reader can know is the damage in groups that it does not visit: frames that are lost there move the numbers
    behind them, so where nothing is told, each frame must be one of the sequential reading, be it under another number.
    FFmpeg fills holes from buffers of its threads, so what is told may differ in its pixels. Damage of MJPEG that
    FFmpeg does not mark, and of FFV1, it never marks, is left to nobody: these are whatever lay in memory.
    """
    rng = random.Random(seed)
    source = zoo(HARMED[seed % len(HARMED)])
    path = tmp_path / source.name
    path.write_bytes(harmed(source.read_bytes(), rng))
    try:
        reference = read(path, sequential=True)
    except SourceError:
        return  # not even that
    total = len(reference.frames)
    for wanted in (sorted(rng.sample(range(total), min(total, 4))), sorted(rng.sample(range(total), total * 2 // 3))):
        reading = read(path, wanted, rng.choice([1, 2, 3]))
        if reading.told:
            continue
        assert sorted(reading.pixels) == wanted
        for number, pixels in reading.pixels.items():
            right = reference.pixels[number]
            assert pixels == right or (reference.told and pixels in reference.pixels.values()), number


def test_damaged_keyframes_side_by_side(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    """What FFmpeg puts in place of a broken keyframe comes from the frames before: decoding must begin before both."""
    path = spoilt_packets(zoo("h264 sound mp4"), tmp_path, [24, 48], lambda size: range(size // 2, size // 2 + 20))
    with only_one_core():
        reference, reading = read(path, sequential=True), read(path)
        assert reference.source.damaged >= 2
        assert reading.way == "planned" and reading.pixels == reference.pixels
        alone = read(path, [50, 60])
        assert alone.way == "planned" and alone.told
        assert alone.pixels == {number: reference.pixels[number] for number in (50, 60)}
        assert reading.source.damaged == reference.source.damaged, "counted once, though decoded twice"


def test_keyframes_that_are_lost_are_no_place_to_begin(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    """Of a stretch without any sound packet, the next group still comes as in a sequential reading."""
    path = spoilt_packets(zoo("h264 slices"), tmp_path, range(72, 97), range)
    with only_one_core():
        reference, reading = read(path, sequential=True), read(path)
        assert len(reference.frames) == 95
        assert reading.way == "planned" and reading.pixels == reference.pixels
        assert any("25 frames are lost; within 1.6 s to 4.0 s" in warning for warning in reading.source.warnings)
        (told,) = [warning for warning in reference.source.warnings if warning.startswith("damage")]
        begin_s, end_s = (float(word) for word in re.findall(r"([\d.]+) s", told.split("within")[1]))
        assert abs(begin_s - 2.4) <= 0.3 and abs(end_s - 3.2) <= 0.3  # a decoder's threads complain late


def test_what_is_left_of_an_incomplete_packet_is_damage(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    """The file ends within a JPEG: FFmpeg says that the packet is incomplete, and makes a frame of it unmarked."""
    data = zoo("mjpeg avi").read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(data[: len(data) * 2 // 3])
    reference = read(path, sequential=True)
    assert reference.source.damaged == 1
    last = len(reference.frames) - 1
    assert read(path, [last]).source.damaged == 1
    assert read(path, [last - 1]).source.damaged == 0


def spoilt_packets(source: Path, folder: Path, rows: Iterable[int], where: Callable[[int], Iterable[int]]) -> Path:
    """A copy with zeros in these packets, at the bytes that `where` tells for a size."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for row in rows:
        begin, size = places[row]
        assert begin is not None
        for at in where(size):
            data[begin + at] = 0
    path = folder / f"spoilt{source.suffix}"
    path.write_bytes(data)
    return path


@contextmanager
def only_one_core() -> Iterator[None]:
    """FFmpeg starts no threads here: what it makes of damage is the same each time."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# --- an index that lies ----------------------------------------------------------------------------------------------


def table(data: bytes | bytearray, kind: bytes) -> tuple[int, int]:
    """Where the entries of the first box of this kind begin, and how many there are."""
    at = data.index(kind) + (12 if kind == b"stsz" else 8)
    return at + 4, struct.unpack_from(">I", data, at)[0]


def false_keyframes(data: bytearray, rng: random.Random) -> None:
    at, count = table(data, b"stss")
    struct.pack_into(f">{count}I", data, at, *sorted({1, *rng.sample(range(2, 121), count - 1)}))


def all_keyframes(data: bytearray, rng: random.Random) -> None:
    at = data.index(b"stss")
    data[at : at + 4] = b"free"


def no_offsets(data: bytearray, rng: random.Random) -> None:
    at = data.index(b"ctts")
    data[at : at + 4] = b"free"


def swapped_offsets(data: bytearray, rng: random.Random) -> None:
    at, count = table(data, b"ctts")
    one, other = (at + 8 * place + 4 for place in rng.sample(range(count), 2))
    data[one : one + 4], data[other : other + 4] = data[other : other + 4], data[one : one + 4]


def far_offset(data: bytearray, rng: random.Random) -> None:
    at, count = table(data, b"ctts")
    struct.pack_into(">I", data, at + 8 * rng.randrange(count) + 4, 512 * rng.randrange(100))


def false_size(data: bytearray, rng: random.Random) -> None:
    at, count = table(data, b"stsz")
    struct.pack_into(">I", data, at + 4 * rng.randrange(1, count), rng.choice([0, 1, rng.randrange(600)]))


def false_place(data: bytearray, rng: random.Random) -> None:
    at, count = table(data, b"stco")
    place = at + 4 * rng.randrange(count)
    struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + rng.choice([-30, 77, 1000, 10**6]))


def false_durations(data: bytearray, rng: random.Random) -> None:
    at, _ = table(data, b"stts")
    struct.pack_into(">I", data, at + 4, rng.choice([1, 100, 1024]))


LIES = [
    false_keyframes, all_keyframes, no_offsets, swapped_offsets, far_offset, false_size, false_place, false_durations,
]  # fmt: skip


@pytest.mark.parametrize("name", ["h264 b-pyramid=none", "h264 open mp4", "hevc open mp4", "mpeg4 B-frames mp4"])
@pytest.mark.parametrize("lie", LIES)
def test_an_mp4_whose_tables_lie(
    zoo: Callable[[str], Path], name: str, lie: Callable[[bytearray, random.Random], None], tmp_path: Path
) -> None:
    """The frames of a sequential reading, or an error, or a warning; never another frame without a word."""
    for seed in range(3):
        rng = random.Random(f"{name}{lie.__name__}{seed}")
        data = bytearray(zoo(name).read_bytes())
        lie(data, rng)
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(data)
        try:
            reference = read(path, sequential=True)
        except SourceError:
            with pytest.raises(SourceError, match=r"not one frame could be decoded|is no video"):
                read(path, [0, 40])
            continue
        total = len(reference.frames)
        for count in (1, 5, total * 2 // 3):
            wanted = sorted(rng.sample(range(total), count))
            reading = read(path, wanted, rng.choice([1, 2]))
            right = reading.pixels == {number: reference.pixels[number] for number in wanted}
            assert right or reading.told, (seed, wanted, reading.why)
            if lie is no_offsets:
                assert reading.why == UNORDERED


@pytest.mark.parametrize(
    ("name", "marked"), [("h264 b-pyramid=none", 31), ("mpeg4 B-frames mp4", 41), ("hevc closed", 31)]
)
def test_a_packet_that_is_falsely_marked_as_a_keyframe_is_found_out(
    zoo: Callable[[str], Path], name: str, marked: int, tmp_path: Path
) -> None:
    """In place of the second keyframe, another packet is marked: reading there tells the way and the reason."""
    data = bytearray(zoo(name).read_bytes())
    at, _ = table(data, b"stss")
    struct.pack_into(">I", data, at + 4, marked)
    path = tmp_path / "lie.mp4"
    path.write_bytes(data)
    truth = plain_decode(path)
    readings = [compare(path, [number], truth, 1, False) for number in range(marked - 3, marked + 6)]
    assert any(reading.why != "the packets are known " + TABLES for reading in readings)


def test_an_avi_that_marks_every_frame_as_a_keyframe(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    """As old recorders did: the index is of no use, and is found out by the first picture."""
    for name in ("mpeg4 avi", "msmpeg4"):
        data = bytearray(zoo(name).read_bytes())
        at = data.rindex(b"idx1") + 8
        for entry in range(at, len(data) - 15, 16):
            data[entry + 4] |= 0x10
        path = tmp_path / "lie.avi"
        path.write_bytes(data)
        truth = plain_decode(path)
        for wanted in ([50], [3, 70, 71], list(range(0, 120, 7))):
            reading = compare(path, wanted, truth, 2, False)
            assert reading.why != "the packets are known " + TABLES
        with closing(VideoSource(LocalFile(path))) as source:
            assert source.timeline is not None and source.timeline.frames == 120


# --- files that change while they are read ---------------------------------------------------------------------------


def while_reading(
    path: Path, happens: Callable[[], object], wanted: Sequence[int] = range(0, 120, 5), decoders: int = 2
) -> Reading:
    """Something happens to the file after the second frame."""
    source = VideoSource(LocalFile(path), Config(decoders=decoders))
    done = False
    with closing(source):
        for _ in range(20):
            assert source.timeline is not None
            frames = []
            try:
                for frame in source.read(Planned(wanted, source.timeline.frames)):
                    frames.append(frame)
                    if len(frames) == 2 and not done:
                        happens()
                        done = True
                return Reading(frames, source)
            except ReadAgainError:
                continue
    raise AssertionError("the source never came to an end of correcting itself")


@pytest.fixture
def copy(zoo: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a clip, to be spoilt."""

    def copied_clip(name: str) -> Path:
        path = tmp_path / zoo(name).name
        path.write_bytes(zoo(name).read_bytes())
        return path

    return copied_clip


CHANGING = ["h264 refs=5 weightp", "h264 b-pyramid=strict", "h264 bare", "h264 index in front", "mpeg4 avi"]


@pytest.mark.parametrize("name", CHANGING)
def test_a_file_that_grows(copy: Callable[[str], Path], name: str) -> None:
    """Only what was there at first is used."""
    path = copy(name)
    truth = plain_decode(path)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(path.read_bytes()[1000:])

    reading = while_reading(path, grow)
    assert reading.pixels == {number: truth[number].pixels for number in range(0, 120, 5)}
    assert any("grew by" in warning for warning in reading.source.warnings)


@pytest.mark.parametrize("name", CHANGING)
def test_a_file_that_vanishes(copy: Callable[[str], Path], name: str) -> None:
    """Containers that are open go on; one that must be opened anew says what is wrong."""
    path = copy(name)
    truth = plain_decode(path)
    try:
        reading = while_reading(path, path.unlink)
    except SourceError as error:
        assert str(path) in str(error) and ("not there any more" in str(error) or "No such file" in str(error))
    else:
        assert reading.pixels == {number: truth[number].pixels for number in range(0, 120, 5)}
        assert any("was removed" in warning for warning in reading.source.warnings)


def test_a_file_that_is_gone_before_it_is_read(copy: Callable[[str], Path]) -> None:
    path = copy("h264 index in front")
    source = VideoSource(LocalFile(path))
    path.unlink()
    with closing(source), pytest.raises(SourceError, match=r"No such file|not there any more"):
        list(source.read(Planned([3, 50], 120)))


@pytest.mark.parametrize("name", CHANGING)
def test_a_file_that_is_replaced(copy: Callable[[str], Path], zoo: Callable[[str], Path], name: str) -> None:
    """By renaming another over it: the earlier one stays readable where it is open; no frame of the new one comes."""
    path = copy(name)
    truth = plain_decode(path)
    other = path.with_name("other" + path.suffix)
    Clip(path.suffix[1:], ZOO[name][0].codec, {"x264-params": "bframes=0"}, size=(128, 96)).write(other)
    try:
        reading = while_reading(path, lambda: other.rename(path))
    except SourceError as error:
        assert "was replaced while it was read" in str(error)
    else:
        assert reading.pixels == {number: truth[number].pixels for number in range(0, 120, 5)}
        assert any("was replaced" in warning for warning in reading.source.warnings)


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("how", ["cut", "rewritten"])
def test_a_file_that_is_changed_in_place(copy: Callable[[str], Path], name: str, how: str) -> None:
    """Cut, or written over with the same length: nobody can tell which bytes were read, so it is an error."""
    path = copy(name)
    data = path.read_bytes()

    def change() -> None:
        if how == "cut":
            os.truncate(path, len(data) // 2)
            return
        with path.open("r+b") as file:
            file.seek(len(data) // 2)
            file.write(data[1000 : 1000 + len(data) // 3])
        os.utime(path, ns=(1, 1))

    with pytest.raises(SourceError, match=r"was changed while it was read|was replaced while it was read|is no video"):
        while_reading(path, change)


# --- sizes, reports, grey --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["ts", "h264"])
def test_frames_that_change_their_size(suffix: str, tmp_path: Path) -> None:
    """Exact and sequential, and the report says why."""
    parts = [
        Clip(suffix, "libx264", B3, frames=60, size=size).write(tmp_path / f"{size[0]}.{suffix}")
        for size in ((96, 72), (128, 96))
    ]
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    truth = plain_decode(path)
    wanted = [3, 50, len(truth) - 5]
    reading = compare(path, wanted, truth, 2, False)
    assert reading.way == "sequential"
    sizes = [frame.pixels.shape[:2] for frame in reading.frames]
    assert sizes == [(72, 96), (72, 96), (96, 128)]
    background = estimate(path, Config(every=20))
    assert background.run.decoding == reading.source.decoding
    assert background.run.resized
    background.save(tmp_path / "out")
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert reading.why in json.dumps(told)


@pytest.mark.parametrize("name", ["h264 b-pyramid=none", "h264 bare", "h264 intra-refresh ts", "mjpeg mkv"])
def test_the_report_says_which_way_was_taken_and_why(zoo: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    background = estimate(zoo(name), Config(every=30))
    truth = plain_decode(zoo(name))
    assert [sample.index for sample in background.samples] == [29, 59, 89, 119]
    assert len(truth) == 120
    why = ZOO[name][1]
    assert background.run.decoding["way"] == ("planned" if why in PLANNED else "sequential")
    assert why in background.run.decoding["why"]
    background.save(tmp_path / "out")
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert background.run.decoding in (told.get("decoding"), told.get("run", {}).get("decoding"))


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("ffv1", "gray", "mkv"),
        ("ffv1", "gray", "avi"),
        ("libx264", "gray", "mp4"),
        ("ffv1", "yuv420p", "mkv"),
        ("libx264", "yuv420p", "mp4"),
        ("mjpeg", "yuvj420p", "avi"),
        ("ffv1", "gray16le", "mkv"),
    ],
)
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_grey_equals_that_of_bgr(codec: str, pixel_format: str, suffix: str, color_range: int, tmp_path: Path) -> None:
    """All 256 levels, whatever range the file claims: reading grey gives COLOR_BGR2GRAY of reading colour."""
    path = tmp_path / f"grey.{suffix}"
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"crf": "1"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 128, 128, pixel_format
        stream.codec_context.color_range = color_range
        for number in range(5):
            picture = av.VideoFrame.from_ndarray(np.roll(ramp, 8 * number, 1), format="gray")
            picture = picture.reformat(format=pixel_format)
            picture.color_range = color_range
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    levels = levels_read_in_grey(path, 5)
    assert len(levels) == 256 or (codec, pixel_format) != ("ffv1", "gray")


def test_grey_of_jpeg_equals_that_of_bgr(tmp_path: Path) -> None:
    """A camera's grey JPEGs: the encoder here is OpenCV's, FFmpeg has none for them."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    path = tmp_path / "grey.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuvj420p"
        for number in range(5):
            jpeg = cv2.imencode(".jpg", np.roll(ramp, 8 * number, 1), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
            packet = av.Packet(jpeg.tobytes())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    assert len(levels_read_in_grey(path, 5, np.dtype("u1"))) > 250


def levels_read_in_grey(path: Path, count: int, only: np.dtype[Any] | None = None) -> set[int]:
    """All levels of the frames; asserts that grey is what BGR gives. `only`: that it comes as grey of this type."""
    levels: set[int] = set()
    with closing(VideoSource(LocalFile(path), Config(gray=True))) as grey, closing(VideoSource(LocalFile(path))) as bgr:
        frames = frames_of(grey, range(count)), frames_of(bgr, range(count))
    assert len(frames[0]) == count
    for one, other in zip(*frames, strict=True):
        assert only is None or (one.pixels.ndim == 2 and one.pixels.dtype == only)
        pixels = one.pixels if one.pixels.ndim == 2 else cv2.cvtColor(one.pixels, cv2.COLOR_BGR2GRAY)
        assert np.array_equal(pixels, cv2.cvtColor(np.ascontiguousarray(other.pixels), cv2.COLOR_BGR2GRAY))
        levels |= {int(level) for level in np.unique(pixels)}
    return levels


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads_go() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before, "threads are left"


@pytest.mark.usefixtures("threads_go")
@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 2, 7])
def test_a_reader_that_stops_early(zoo: Callable[[str], Path], taken: int, any_order: bool) -> None:
    for decoders in (1, 2, 5):
        with closing(VideoSource(LocalFile(zoo("h264 b-pyramid=none")), Config(decoders=decoders))) as source:
            frames = source.read(Planned(range(120), 120, any_order=any_order))
            for _ in range(taken):
                next(frames)
            frames.close()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("threads_go")
@pytest.mark.parametrize("any_order", [False, True])
def test_more_decoders_than_stretches(zoo: Callable[[str], Path], any_order: bool) -> None:
    for name in ("h264 one keyframe", "h264 b-pyramid=none"):
        truth = plain_decode(zoo(name))
        reading = compare(zoo(name), range(0, 120, 9), truth, 40, any_order)
        assert reading.source.decoding["decoders"] == reading.source.decoding["stretches"]


@pytest.mark.usefixtures("threads_go")
@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("decoders", [1, 2, 3])
def test_lost_frames_are_not_waited_for(
    zoo: Callable[[str], Path], decoders: int, any_order: bool, tmp_path: Path
) -> None:
    """First, last and middle ones, in a row and alone."""
    path = spoilt_packets(zoo("mjpeg avi"), tmp_path, [0, 5, 6, 7, 8, 9, 10, 11, 60, 119], range)
    sound = [number for number in range(120) if number not in (0, 5, 6, 7, 8, 9, 10, 11, 60, 119)]
    truth = plain_decode(zoo("mjpeg avi"))
    reading = read(path, None, decoders, any_order)
    assert sorted(reading.pixels) == list(range(110))
    assert [reading.pixels[number] for number in range(110)] == [truth[number].pixels for number in sound]
    assert reading.source.damaged == 10


def test_a_loss_that_is_known_is_told_with_its_place(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    """The last reading does not come by the lost frame any more."""
    path = spoilt_packets(zoo("mjpeg avi"), tmp_path, [30], range)
    reading = read(path, [4, 30, 90])
    truth = plain_decode(zoo("mjpeg avi"))
    assert list(reading.pixels.values()) == [truth[number].pixels for number in (4, 31, 91)]
    assert any("1 frames are lost; within 1.0 s to 1.0 s" in warning for warning in reading.source.warnings)


def test_a_film_without_a_single_sound_frame_is_an_error(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    path = spoilt_packets(zoo("h264 sound mp4"), tmp_path, range(120), range)
    for wanted in ([0], range(0, 120, 10)):
        with pytest.raises(SourceError, match="not one frame could be decoded"):
            read(path, wanted)
    with pytest.raises(SourceError, match="not one frame could be decoded"):
        estimate(path)


@pytest.mark.usefixtures("threads_go")
@pytest.mark.parametrize("any_order", [False, True])
def test_an_error_in_a_decoder_reaches_the_reader(copy: Callable[[str], Path], any_order: bool) -> None:
    """A file that is gone when further decoders open it. A lone one has it open already, and says that it is gone."""
    path = copy("h264 b-pyramid=none")
    with closing(VideoSource(LocalFile(path), Config(decoders=3))) as source:
        path.unlink()
        with pytest.raises(SourceError):
            list(source.read(Planned(range(120), 120, any_order=any_order)))
    path = copy("h264 b-pyramid=none")
    with closing(VideoSource(LocalFile(path), Config(decoders=1))) as source:
        path.unlink()
        assert len(list(source.read(Planned(range(120), 120, any_order=any_order)))) == 120
        assert any("was removed while it was read" in warning for warning in source.warnings)


@pytest.mark.usefixtures("threads_go")
def test_a_lie_that_shows_behind_the_last_frame_is_told(zoo: Callable[[str], Path]) -> None:
    """Frames near a keyframe that is none, each alone: the decoder finds out only after it has handed the frame on."""
    truth = plain_decode(zoo("h264 intra-refresh ts"))
    for number in range(68, 80):
        compare(zoo("h264 intra-refresh ts"), [number], truth, 1, False)
