"""Planned decoding of many codecs and containers against a plain decode: sound films, damaged, lying, changing ones."""

from __future__ import annotations

import functools
import os
import random
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import pytest
from clips import Clip, Shown, pixels_hash, plain_decode, unevenly

from gpu_bgstat import Config, estimate
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame
from gpu_bgstat.schedule import Planned
from gpu_bgstat.sources.source import ReadAgainError
from gpu_bgstat.sources.video import VideoSource
from gpu_bgstat.sources.video_file import LocalFile

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


# --- damage ----------------------------------------------------------------------------------------------------------


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


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads_go() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before, "threads are left"


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
def test_a_lie_that_shows_behind_the_last_frame_is_told(zoo: Callable[[str], Path]) -> None:
    """Frames near a keyframe that is none, each alone: the decoder finds out only after it has handed the frame on."""
    truth = plain_decode(zoo("h264 intra-refresh ts"))
    for number in range(68, 80):
        compare(zoo("h264 intra-refresh ts"), [number], truth, 1, False)
