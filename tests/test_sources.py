"""Every kind of source against an independent reading: plain PyAV, OpenCV, tifffile and NumPy."""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import pytest
import tifffile
from av.video.reformatter import Interpolation
from conftest import RECORDINGS, recording

from gpu_bgstat import Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, Image
from gpu_bgstat.media import live
from gpu_bgstat.media.video_file import LocalFile
from gpu_bgstat.schedule import Planned
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.pipe import PipeSource
from gpu_bgstat.sources.source import ReadAgainError, Source
from gpu_bgstat.sources.video import VideoSource

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # damage is expected here; OpenCV reads this once

# what a complete sequential decode yields, from the recordings' README
FRAMES = {
    "animals/tracktor_mouse_video.mp4": 10000,
    "animals/dlc_openfield_m3v1mp4.mp4": 2330,
    "animals/sleap_flies_20190128_113421.120s.mp4": 3000,
    "animals/ethoscope_arena_10x2_sortTubes.mp4": 1200,
    "animals/idtrackerai_test_A.avi": 501,
    "animals/idtrackerai_test_B.avi": 508,
    "animals/freeclimber_w1118_m_2_1.h264": 145,
    "animals/freeclimber_w1118_m_2_1.mov": 145,
    "animals/freeclimber_w1118_m_2_1.avi": 145,
    "animals/freeclimber_w1118_m_2_1.mp4": 145,
    "animals/eztrack_Freezing_calibration.wmv": 298,
    "animals/tracktorlive_ant.mp4": 2263,
    "people/opencv_vtest.avi": 795,
    "people/bgslib_video.avi": 374,
    "codec/exo_sample_sef_slow_motion.mp4": 63,
    "codec/torchcodec_h265_video.mp4": 10,
    "codec/torchcodec_h264_10bits.mp4": 30,
    "codec/torchcodec_h265_10bits.mp4": 30,
    "codec/exo_roadtrip-vp92-10bit.webm": 72,
    "codec/lrs_escalator.avi": 198,
    "codec/opencv_tree.avi": 68,
    "codec/exo_sample.mkv": 30,
    "codec/exo_sample.flv": 30,
    "codec/exo_sample.mp4": 30,
    "codec/exo_sample_fragmented.mp4": 30,
    "codec/moviepy_no_duration.webm": 74,
    "codec/imageio_newtonscradle.gif": 36,
    "codec/decord_video_0.mov": 3,
    "codec/decord_video_90.mov": 3,
    "codec/decord_video_180.mov": 3,
    "codec/decord_video_270.mov": 3,
    "codec/exo_bear-vp9-odd-dimensions.webm": 30,
    "codec/dlaptev_RobustPCA_video_demo.avi": 180,
}
DAMAGED = "codec/decord_corrupted.mp4"  # has a test of its own
TEN_BIT = [name for name in FRAMES if "10bit" in name]
LIMIT = 120  # frames of a recording that is too large to be compared whole, one in 17 of them
OPENCV_5 = int(cv2.__version__.split(".")[0]) >= 5
LARGE_BYTES = 1_000_000


def everything(frames: int = 10**9) -> Planned:
    return Planned(range(min(frames, 100_000)), frames)


def frames_of(source: Source, plan: Planned | None = None) -> list[Frame]:
    with closing(source):
        for _ in range(9):
            with suppress(ReadAgainError):
                return list(source.read(plan or everything()))
    raise AssertionError("the source never came to an end of correcting itself")


def pixels_of(given: Any) -> list[Image]:
    return [frame.pixels for frame in frames_of(open_source(given))]


def same(left: Iterable[Image], right: Iterable[Image]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def plain_decode(path: Path, pixel_format: str = "bgr24") -> Iterator[tuple[float, Image]]:
    """(time, pixels) of every frame by a plain loop; time is by the rule that `sources/video.py` promises."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        interval = 1 / (stream.average_rate or stream.guessed_rate or 1)
        first: Any = None
        now: Any = None
        for picture in container.decode(video=0):
            first = picture.pts if now is None else first
            then, now = now, None
            if first is not None and picture.pts is not None and picture.time_base is not None:
                now = (picture.pts - first) * picture.time_base
            if then is not None and (now is None or now <= then):
                now = then + interval
            now = 0 if now is None else now
            pixels = picture.to_ndarray(format=pixel_format, interpolation=Interpolation.BICUBIC)
            yield float(now), np.rot90(pixels, picture.rotation // 90)


def picture_file(path: Path) -> Image:
    pixels = cv2.imread(str(path))
    assert pixels is not None
    return pixels


def opencv_decode(path: Path) -> Iterator[Image]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        while True:
            found, pixels = capture.read()
            if not found:
                return
            yield pixels
    finally:
        capture.release()


# --- video ---------------------------------------------------------------------------------------------------------


@pytest.mark.recordings
def test_every_recording_has_an_expectation() -> None:
    """A recording that someone adds is not silently left out."""
    recording("animals")
    there = {
        f"{folder}/{path.name}" for folder in ("animals", "people", "codec") for path in (RECORDINGS / folder).iterdir()
    }
    assert there == {*FRAMES, DAMAGED}


@pytest.mark.recordings
@pytest.mark.parametrize("name", sorted(set(FRAMES) - set(TEN_BIT)))
def test_video_equals_a_plain_decode_and_opencv(name: str) -> None:
    """Indices, times and pixels of 8-bit video: small files whole, large ones in parts.

    OpenCV 4 brings an older FFmpeg: levels differ, and some turned films stay unturned.
    """
    path = recording(name)
    large = path.stat().st_size > LARGE_BYTES
    count = min(FRAMES[name], LIMIT) if large else FRAMES[name]
    wanted = range(0, count, 17 if large else 1)
    source = VideoSource(LocalFile(path))
    met = 0
    plain = ((index, *frame) for index, frame in enumerate(plain_decode(path)) if index in wanted)
    opencv = (frame for index, frame in enumerate(opencv_decode(path)) if index in wanted)
    for frame, (index, time_s, pixels), seen_by_opencv in zip(
        source.read(Planned(wanted, count)), islice(plain, len(wanted)), islice(opencv, len(wanted)), strict=True
    ):
        assert frame.index == index
        assert frame.time_s == pytest.approx(time_s, abs=1e-6)
        assert np.array_equal(frame.pixels, pixels), f"frame {index} differs from PyAV's"
        if OPENCV_5:
            assert np.array_equal(frame.pixels, seen_by_opencv), f"frame {index} differs from OpenCV's"
        assert source.spec is not None and frame.pixels.shape == source.spec.shape
        met += 1
    assert met == len(wanted)
    assert source.damaged == 0


@pytest.mark.recordings
@pytest.mark.parametrize("name", sorted(set(FRAMES) - {"codec/lrs_escalator.avi"}))
def test_video_is_as_long_as_foretold(name: str) -> None:
    """The packets tell the number of frames, and increasing times, before any decoding."""
    timeline = VideoSource(LocalFile(recording(name))).timeline
    assert timeline is not None and timeline.frames == FRAMES[name]
    assert timeline.times_s is not None and len(timeline.times_s) == FRAMES[name]
    assert timeline.times_s[0] == 0 and (np.diff(timeline.times_s) >= 0).all()


@pytest.mark.recordings
@pytest.mark.parametrize("name", ["codec/lrs_escalator.avi", "codec/opencv_tree.avi"])
def test_a_header_that_lies_is_corrected_and_told(name: str) -> None:
    source = VideoSource(LocalFile(recording(name)))
    frames = list(source.read(everything(source.timeline.frames if source.timeline else 0)))
    assert source.seen == len(frames) == FRAMES[name]
    assert source.timeline is not None and source.timeline.frames == FRAMES[name]
    assert any(f"and {FRAMES[name]} " in warning for warning in source.warnings)


@pytest.mark.recordings
def test_a_sound_file_is_not_warned_about() -> None:
    """An edit list hides a packet, sound outlasts the pictures, a rate is bogus: none of it is damage."""
    for name in ("exo_sample_sef_slow_motion.mp4", "exo_sample.mkv", "exo_sample.flv", "moviepy_no_duration.webm"):
        source = VideoSource(LocalFile(recording(f"codec/{name}")))
        assert frames_of(source, everything(10_000))
        assert source.warnings == [], name


@pytest.mark.recordings
@pytest.mark.parametrize("name", TEN_BIT)
def test_ten_bit_video_at_16_and_at_8(name: str) -> None:
    """At 16 bits it is swscale's; at 8 it is that divided by 257 and rounded, exactly."""
    path = recording(name)
    deep, flat = VideoSource(LocalFile(path), Config(depth=16)), VideoSource(LocalFile(path), Config(depth=8))
    assert deep.spec is not None and deep.spec.dtype == np.uint16
    plan = everything(FRAMES[name])
    met = 0
    for (time_s, expected), sixteen, eight in zip(
        plain_decode(path, "bgr48le"), deep.read(plan), flat.read(everything(FRAMES[name])), strict=True
    ):
        assert sixteen.time_s == eight.time_s == pytest.approx(time_s, abs=1e-6)
        assert sixteen.pixels.dtype == np.uint16 and np.array_equal(sixteen.pixels, expected)
        rounded = (2 * expected.astype(np.int64) + 257) // 514
        assert eight.pixels.dtype == np.uint8 and np.array_equal(eight.pixels, rounded)
        met += 1
    assert met == FRAMES[name]


def test_eight_bit_video_at_16_bits_uses_the_whole_range(film: Path) -> None:
    frames = frames_of(open_source(film, Config(depth=16)), everything(5))
    assert same((frame.pixels for frame in frames), (pixels for _, pixels in islice(plain_decode(film, "bgr48le"), 5)))
    assert max(frame.pixels.max() for frame in frames) > 40_000


@pytest.mark.recordings
@pytest.mark.parametrize(("degrees", "size"), [(0, (568, 320)), (90, (320, 568)), (180, (568, 320)), (270, (320, 568))])
def test_rotation_is_applied_as_players_do(degrees: int, size: tuple[int, int]) -> None:
    """Pixels against OpenCV in the test above; here the size that the plan and the region of interest go by."""
    source = VideoSource(LocalFile(recording(f"codec/decord_video_{degrees}.mov")))
    first = next(iter(source.read(everything(1))))
    assert (first.pixels.shape[1], first.pixels.shape[0]) == size
    assert source.spec is not None and (source.spec.width, source.spec.height) == size


@pytest.mark.recordings
def test_damage_in_the_middle_of_a_recording_is_passed_over() -> None:
    """A plain decode stops at the bad packet, as OpenCV does; FFmpeg's decoder yields 49 frames when it goes on."""
    path = recording(DAMAGED)
    whole: list[Image] = []
    with pytest.raises(av.error.FFmpegError):
        whole.extend(pixels for _, pixels in plain_decode(path))
    source = VideoSource(LocalFile(path))
    frames = frames_of(source, everything(100))
    assert len(frames) == source.seen == 49
    assert source.damaged >= 1
    assert same((frame.pixels for frame in frames[: len(whole)]), whole)
    assert any(warning.startswith("damage: ") for warning in source.warnings)


@pytest.mark.recordings
@pytest.mark.parametrize("name", ["codec/lrs_escalator.avi", "codec/opencv_tree.avi"])
def test_spread_samples_of_a_file_that_lies_are_chosen_anew(name: str) -> None:
    """The estimate is the median and variance of samples spread over the frames that are really there."""
    path, limit = recording(name), 7
    background = estimate(path, Config(every=1, max_samples=limit, method="median", depth=16))
    indices = [math.ceil((k + 1) * FRAMES[name] / limit) - 1 for k in range(limit)]
    assert [sample.index for sample in background.samples] == indices
    stack = np.stack([pixels for k, (_, pixels) in enumerate(plain_decode(path, "bgr48le")) if k in indices])
    assert np.array_equal(background.background, np.median(stack, axis=0).astype(np.uint16))
    assert np.allclose(background.variance, stack.astype(np.float64).var(axis=0), rtol=1e-6)  # float32's last digit
    assert any(str(FRAMES[name]) in warning for warning in background.run.warnings)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """120 frames, 160x120, in six containers; the MP4s have their index behind and in front of the pictures."""
    folder = tmp_path_factory.mktemp("films")
    arena = Arena(width=160, height=120, animals=2)
    films = {suffix: folder / f"film.{suffix}" for suffix in ("mp4", "mkv", "avi", "ts", "h264")}
    for suffix, path in films.items():
        arena.film(path, 120, "mpeg4" if suffix == "avi" else "libx264")
    films["faststart"] = folder / "fast.mp4"
    with (
        av.open(str(films["mp4"])) as old,
        av.open(str(films["faststart"]), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return films


def cut(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


def overwrite(data: bytes) -> bytes:
    """3000 bytes of noise in the middle."""
    middle = len(data) // 2
    return data[:middle] + np.random.default_rng(1).bytes(3000) + data[middle + 3000 :]


def tolerant_decode(path: Path) -> list[Image]:
    """What one thread of FFmpeg makes of a damaged file: bad packets left out, the rest decoded."""
    frames: list[Image] = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for packet in container.demux(video=0):
            try:
                pictures = packet.decode()
            except av.error.FFmpegError:
                continue
            frames.extend(
                picture.to_ndarray(format="bgr24", interpolation=Interpolation.BICUBIC) for picture in pictures
            )
    return frames


@pytest.mark.parametrize("harm", [cut, overwrite])
@pytest.mark.parametrize("kind", ["faststart", "mkv", "avi", "ts", "h264"])
def test_a_damaged_film_gives_what_can_be_decoded_and_a_count(
    films: dict[str, Path], kind: str, harm: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / films[kind].name
    path.write_bytes(harm(films[kind].read_bytes()))
    expected = tolerant_decode(path)
    background = estimate(path, Config(every=1, method="median"))
    np.testing.assert_array_equal(background.background, np.median(np.stack(expected), axis=0).astype(np.uint8))
    assert 10 < len(expected) <= 120
    assert background.run.frames_seen == len(background.samples) == len(expected)
    if kind == "h264":
        return  # a bare stream promises nothing, and FFmpeg's threads may set the mark of a frame too late
    assert any(any(letter.isdigit() for letter in warning) for warning in background.run.warnings)
    told = " ".join(background.run.warnings)
    assert (
        background.run.damaged
        or str(len(expected)) in told
        or f"as if frames were missing: {120 - len(expected)}" in told
    )


def test_an_mp4_without_its_index_is_no_video(films: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(cut(films["mp4"].read_bytes()))
    with pytest.raises(SourceError, match=r"cut\.mp4 is no video that FFmpeg can read"):
        open_source(path)


@pytest.mark.parametrize("name", ["12:30:00.mp4", "100%d.mp4", "arena [1].mp4", "été.mp4", "a*b.mp4", "-.mp4"])
def test_a_name_with_signs_in_it_is_a_name(
    name: str, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colon is no protocol, a bracket no pattern."""
    (tmp_path / name).write_bytes(film.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(open_source(name), everything(90))) == 90


def test_frames_that_change_size_in_the_middle(tmp_path: Path) -> None:
    """The source hands them over as they are; the estimate resizes them and says so."""
    parts = [tmp_path / "large.ts", tmp_path / "small.ts"]
    Arena(width=96, height=72).film(parts[0], 20)
    Arena(width=64, height=48).film(parts[1], 20)
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    shapes = [pixels.shape for pixels in tolerant_decode(both)]
    assert {(72, 96, 3), (48, 64, 3)} == set(shapes)
    assert [pixels.shape for pixels in pixels_of(both)] == shapes
    background = estimate(both, Config(every=1))
    assert background.background.shape == (72, 96, 3)
    assert background.run.resized == shapes.count((48, 64, 3))
    assert any(f"{background.run.resized} samples had another size" in text for text in background.run.warnings)


# --- several files -------------------------------------------------------------------------------------------------


def test_joined_files_are_one_recording(films: dict[str, Path], film: Path) -> None:
    """Indices go on; a part begins one mean frame interval after the last frame before it."""
    parts = [films["avi"], film, films["mkv"]]
    joined = open_source([str(part) for part in parts])
    expected: list[Image] = []
    times: list[float] = []
    begin = 0.0
    for part in parts:
        own = list(plain_decode(part))
        times += [begin + time_s for time_s, _ in own]
        expected += [pixels for _, pixels in own]
        begin = times[-1] + own[-1][0] / (len(own) - 1)
    timeline = joined.timeline
    assert timeline is not None and timeline.frames == 120 + 90 + 120
    assert timeline.times_s == pytest.approx(times, abs=1e-6)
    frames = frames_of(joined, everything(330))
    assert [frame.index for frame in frames] == list(range(330))
    assert [frame.time_s for frame in frames] == pytest.approx(times, abs=1e-6)
    assert same((frame.pixels for frame in frames), expected)


def test_a_range_across_joined_files(films: dict[str, Path], film: Path) -> None:
    background = estimate([films["mkv"], film], Config(every=7, method="median", start="100f", end="150f"))
    indices = list(range(106, 150, 7))
    assert [sample.index for sample in background.samples] == indices
    whole = [pixels for path in (films["mkv"], film) for _, pixels in plain_decode(path)]
    resized = [cv2.resize(whole[index], (160, 120)) for index in indices]
    expected = np.median(np.stack(resized), axis=0).astype(np.uint8)
    assert np.array_equal(background.background, expected)


@pytest.mark.recordings
def test_joined_files_of_which_one_lies() -> None:
    """The second part begins where the first really ends, and the spread samples are chosen by the true length."""
    names = ["codec/lrs_escalator.avi", "codec/exo_sample.mp4"]
    background = estimate([recording(name) for name in names], Config(every=1, max_samples=5, gray=True))
    total = sum(FRAMES[name] for name in names)
    assert [sample.index for sample in background.samples] == [math.ceil((k + 1) * total / 5) - 1 for k in range(5)]
    assert background.run.frames_seen == total
    assert any(text.endswith("198 could be decoded") for text in background.run.warnings)


# --- images --------------------------------------------------------------------------------------------------------


def shade(number: int) -> Image:
    return np.full((12, 16, 3), number, np.uint8)


def test_folder_and_glob_in_natural_order(tmp_path: Path) -> None:
    """2 before 10; hidden files and other files are left out."""
    for number in (10, 2, 1, 33, 4):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), shade(number))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".frame0.png").write_bytes(b"hidden")
    for given in (tmp_path, str(tmp_path), f"{tmp_path}/frame*.png", f"{tmp_path}/*.PNG".replace("PNG", "png")):
        source = open_source(given)
        assert source.timeline is not None and source.timeline.frames == 5 and source.timeline.times_s is None
        assert same(pixels_of(given), map(shade, (1, 2, 4, 10, 33)))


def test_a_list_of_images_keeps_its_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in (5, 3, 9)]
    for path in paths:
        cv2.imwrite(str(path), shade(int(path.stem)))
    assert same(pixels_of(paths), map(shade, (5, 3, 9)))


@pytest.mark.recordings
def test_the_frames_of_hall_and_monitor() -> None:
    """A real folder of 296 pictures, against OpenCV in the order of their numbers."""
    folder = recording("ground_truth/HallAndMonitor/PNG")
    names = sorted((path for path in folder.iterdir()), key=lambda path: int("".join(filter(str.isdigit, path.stem))))
    frames = frames_of(open_source(folder), Planned(range(0, 296, 25), 296))
    assert [frame.index for frame in frames] == list(range(0, 296, 25))
    assert same((frame.pixels for frame in frames), map(picture_file, names[::25]))


@pytest.mark.recordings
def test_one_tiff_file_a_frame() -> None:
    folder = recording("stacks/larval_multi")
    paths = sorted(folder.glob("*.tif"))
    assert same(pixels_of(folder), [tifffile.imread(path) for path in paths])
    assert same(pixels_of(f"{folder}/*.tif"), [tifffile.imread(path) for path in paths])


def test_pictures_of_16_bits_and_in_grey(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = [rng.integers(0, 65536, (9, 7), dtype=np.uint16) for _ in range(3)]
    for number, pixels in enumerate(deep):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    assert same(pixels_of(tmp_path), deep)


def noisy(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damaged_images_in_the_middle(suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut short, empty, no picture at all: told by name, missing from the result, and no word from the C libraries."""
    paths = [tmp_path / f"f{number}{suffix}" for number in range(8)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), noisy(number))
    paths[2].write_bytes(cut(paths[2].read_bytes()))
    paths[4].write_bytes(b"")
    paths[5].write_bytes(b"this is no picture")
    source = open_source(tmp_path)
    frames = frames_of(source, everything(8))
    assert [frame.index for frame in frames] == [0, 1, 3, 6, 7]
    assert same((frame.pixels for frame in frames), (picture_file(paths[index]) for index in (0, 1, 3, 6, 7)))
    assert source.damaged == 3 and source.seen == 8
    for number, warning in zip((2, 4, 5), source.warnings, strict=True):
        assert f"f{number}{suffix} (frame {number}) cannot be read" in warning
    assert capfd.readouterr().err == ""


def test_a_hole_in_a_png_is_damage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), noisy(number))
    hole = bytearray((tmp_path / "1.png").read_bytes())
    hole[len(hole) // 2] ^= 1
    (tmp_path / "1.png").write_bytes(hole)
    source = open_source(tmp_path)
    assert [frame.index for frame in frames_of(source, everything(3))] == [0, 2]
    assert capfd.readouterr().err == ""


def test_the_first_image_may_be_the_damaged_one(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), shade(number))
    (tmp_path / "0.png").write_bytes(b"")
    assert same(pixels_of(tmp_path), map(shade, (1, 2, 3)))


# --- TIFF ----------------------------------------------------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.parametrize("name", ["imageio_calcium_imaging.tif", "trackpy_stuck.tif"])
def test_real_tiff_stacks_keep_16_bits(name: str) -> None:
    """More than 8 bits, and big-endian."""
    path = recording(f"stacks/{name}")
    expected = tifffile.imread(path)
    expected = expected.astype(expected.dtype.newbyteorder("="))
    frames = pixels_of(path)
    assert expected.dtype == np.uint16 and expected.max() > 255
    assert same(frames, expected)
    background = estimate(path, Config(every=1, max_samples=2000, method="median"))
    assert background.background.dtype == np.uint16
    assert np.array_equal(background.background, np.median(expected, axis=0).astype(np.uint16))


STACK = np.random.default_rng(3).integers(0, 65536, (12, 20, 30), dtype=np.uint16)
COLOUR = np.random.default_rng(4).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)


def page_by_page(path: Path, **options: Any) -> None:
    with tifffile.TiffWriter(path) as writer:
        for page in STACK:
            writer.write(page, photometric="minisblack", **options)


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}, {"imagej": True}]
)
def test_grey_tiff(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", **options)
    assert same(pixels_of(path), STACK)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"metadata": None}, {"contiguous": True}])
def test_tiff_written_page_by_page(options: dict[str, Any], tmp_path: Path) -> None:
    """tifffile's own writer makes each page a series of its own: all of them are frames."""
    path = tmp_path / "pages.tif"
    page_by_page(path, **options)
    assert same(pixels_of(path), STACK)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_rgb_tiff_becomes_bgr(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "colour.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb", **options)
    assert same(pixels_of(path), COLOUR[..., ::-1])


def test_planar_tiff_and_tiff_with_alpha(tmp_path: Path) -> None:
    planar, alpha = tmp_path / "planar.tif", tmp_path / "alpha.tif"
    tifffile.imwrite(planar, np.moveaxis(COLOUR, 3, 1), photometric="rgb", planarconfig="separate")
    opaque = np.full((*COLOUR.shape[:3], 1), 255, np.uint8)
    tifffile.imwrite(alpha, np.concatenate([COLOUR, opaque], axis=3), photometric="rgb", extrasamples=["unassalpha"])
    for path in (planar, alpha):
        assert same(pixels_of(path), COLOUR[..., ::-1]), path


def test_several_tiff_stacks_are_joined(tmp_path: Path) -> None:
    """A folder, a glob, or a list of multi-page files: every page counts, not the first of each."""
    for number in (10, 9):
        tifffile.imwrite(tmp_path / f"part{number}.tif", STACK + number, photometric="minisblack")
    expected = [*(STACK + 9), *(STACK + 10)]
    for given in (tmp_path, f"{tmp_path}/*.tif", [tmp_path / "part9.tif", tmp_path / "part10.tif"]):
        assert same(pixels_of(given), expected)


def test_a_tiff_that_ends_in_the_middle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Contiguous pages: those that are there, and how many are not."""
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack")
    path.write_bytes(cut(path.read_bytes()))
    source = open_source(path)
    frames = frames_of(source, everything(12))
    assert 2 <= len(frames) < 12
    assert same((frame.pixels for frame in frames), STACK[: len(frames)])
    assert source.damaged == 12 - len(frames)
    assert source.warnings == [f"damage: the file ends after {len(frames)} of its 12 pages"]
    assert capfd.readouterr().err == ""


def test_a_page_that_cannot_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[5]
        offset = page.dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(zlib.error), tifffile.TiffFile(path) as file:
        file.pages[5].asarray()
    source = open_source(path)
    frames = frames_of(source, everything(12))
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert source.damaged == 1 and "page 5 cannot be read" in source.warnings[0]


@pytest.mark.parametrize("seed", range(40))
def test_a_tiff_with_random_damage_raises_nothing_else(seed: int, tmp_path: Path) -> None:
    """Random bytes in the header, the index and the pixels: frames or SourceError, never another error."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "stack.tif"
    if seed % 2:
        page_by_page(path, compression="zlib" if seed % 4 == 1 else None)
    else:
        tifffile.imwrite(path, STACK, photometric="minisblack", compression="zlib" if seed % 4 else None)
    data = bytearray(path.read_bytes())
    for _ in range(6):
        at = int(rng.integers(0, 400 if rng.random() < 0.5 else len(data) - 8))
        data[at : at + 4] = rng.bytes(4)
    path.write_bytes(data)
    try:
        source = open_source(path)
    except SourceError as error:
        assert str(path) in str(error)
        return
    for frame in frames_of(source, everything(100)):
        assert frame.pixels.ndim in (2, 3)


# --- NumPy and Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("colour", [False, True])
def test_npy_and_npz(dtype: str, colour: bool, tmp_path: Path) -> None:
    stack = np.random.default_rng(5).integers(0, 256, (7, 9, 11, 3) if colour else (7, 9, 11)).astype(dtype) * 1
    native = stack.astype(stack.dtype.newbyteorder("="))
    np.save(tmp_path / "stack.npy", stack)
    np.savez(tmp_path / "plain.npz", stack)
    np.savez_compressed(tmp_path / "packed.npz", frames=stack)
    for given in (
        tmp_path / "stack.npy",
        tmp_path / "plain.npz",
        tmp_path / "packed.npz",
        stack,
        np.asfortranarray(stack),
    ):
        source = open_source(given)
        assert source.spec is not None and source.spec.dtype == native.dtype
        assert same(pixels_of(given), native)


def test_npz_with_none_or_two_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "two.npz", a=STACK, b=STACK)
    with pytest.raises(SourceError, match=r"none\.npz holds 0 arrays: save just one"):
        open_source(tmp_path / "none.npz")
    with pytest.raises(SourceError, match=r"two\.npz holds 2 arrays \(a, b\): save just one"):
        open_source(tmp_path / "two.npz")


def test_lists_and_generators() -> None:
    """Any iterable of frames; only a list tells its length beforehand."""
    frames = [noisy(number) for number in range(30)]
    config = Config(every=3, max_samples=8, method="median")
    from_list = estimate(frames, config)
    spread = [3 * math.ceil((k + 1) * 10 / 8) - 1 for k in range(8)]
    assert [sample.index for sample in from_list.samples] == spread
    picked = np.stack([frames[index] for index in spread])
    assert np.array_equal(from_list.background, np.median(picked, axis=0).astype(np.uint8))
    from_generator = estimate((frame for frame in frames), config.model_copy(update={"keep": "recent"}))
    recent = np.stack(frames[8::3][-8:])
    assert [sample.index for sample in from_generator.samples] == list(range(8, 30, 3))
    assert np.array_equal(from_generator.background, np.median(recent, axis=0).astype(np.uint8))


def test_a_big_endian_frame_from_python_keeps_its_16_bits() -> None:
    frames = [page.astype(">u2") for page in STACK]
    background = estimate(frames, Config(every=1, method="median"))
    assert background.background.dtype == np.uint16
    assert np.array_equal(background.background, np.median(STACK, axis=0).astype(np.uint16))


def test_frames_may_be_reused_by_their_maker() -> None:
    """A source's frame is the receiver's to keep, although the generator writes into one buffer."""

    def one_buffer() -> Iterator[Image]:
        buffer = np.empty((4, 5), np.uint8)
        for number in range(6):
            buffer[:] = number
            yield buffer

    assert [int(pixels[0, 0]) for pixels in pixels_of(one_buffer())] == list(range(6))


# --- raw frames on a pipe ------------------------------------------------------------------------------------------


@contextmanager
def piped(data: bytes, gulp: int) -> Iterator[Any]:
    """The reading end of a real pipe, into which `data` is written, `gulp` bytes at a time."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 (a descriptor, no path)
            for at in range(0, len(data), gulp):
                pipe.write(data[at : at + gulp])

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb", buffering=0) as pipe:  # noqa: PTH123
        yield pipe
    writer.join()


@pytest.mark.parametrize("gulp", [7, 1000])
@pytest.mark.parametrize(
    ("pix", "shape", "dtype"), [("bgr24", (5, 4, 3), "u1"), ("gray", (5, 4), "u1"), ("gray16le", (5, 4), "<u2")]
)
@pytest.mark.parametrize("rest", [0, 3])
def test_raw_frames_on_a_pipe(pix: str, shape: tuple[int, ...], dtype: str, gulp: int, rest: int) -> None:
    """Short reads are completed; a partial last frame is damage."""
    rng = np.random.default_rng(6)
    stack = rng.integers(0, np.iinfo(dtype).max, (6, *shape), endpoint=True).astype(dtype)
    with piped(stack.tobytes() + bytes(rest), gulp) as pipe:
        source = PipeSource(pipe, 4, 5, pix)
        frames = list(source.read(everything()))
    assert [frame.index for frame in frames] == list(range(6))
    assert same((frame.pixels for frame in frames), stack.astype(stack.dtype.newbyteorder("=")))
    assert source.damaged == (1 if rest else 0)
    size = stack[0].nbytes
    told = [f"damage: the pipe ended inside frame 6, after {rest} of {size} bytes"]
    assert source.warnings == (told if rest else [])


# --- live streams --------------------------------------------------------------------------------------------------


@contextmanager
def streaming(frames: Sequence[bytes], repeat: bool) -> Iterator[str]:
    """The URL of a real MJPEG-over-HTTP camera on this machine; it sends as fast as it is read."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while True:
                    for jpeg in frames:
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                    if not repeat:
                        return
            except OSError:
                return  # the viewer has gone

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/stream.mjpg"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    """20 pictures of 64x48, frame n of grey level 10 n."""
    return [cv2.imencode(".jpg", np.full((48, 64, 3), 10 * n, np.uint8))[1].tobytes() for n in range(20)]


def test_a_stream_that_ends_by_itself(jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame once, in order, at the time of its arrival; all may wait, for they come as fast as they are read."""
    monkeypatch.setattr(live, "ROOM", 100)
    with streaming(jpegs, repeat=False) as url:
        source = open_source(url)
        frames = frames_of(source)
    assert source.container["width"] == 64 and source.container["height"] == 48
    assert [frame.index for frame in frames] == list(range(len(frames)))
    expected = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
    assert len(frames) in (len(expected) - 1, len(expected))  # FFmpeg may wait for a frame's end that does not come
    for frame, picture in zip(frames, expected, strict=False):
        assert np.abs(frame.pixels.astype(int) - picture).max() <= 2  # two JPEG decoders
    times = [frame.time_s for frame in frames]
    assert times[0] == 0 and times == sorted(times, key=lambda time_s: time_s or 0)
    assert source.warnings == [f"the stream ended by itself after {len(frames)} frames"]


def test_a_live_stream_for_a_duration(jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream never ends: the duration does, and every frame due within it is a sample."""
    monkeypatch.setattr(live, "ROOM", 10**6)
    with streaming(jpegs, repeat=True) as url:
        background = estimate(url, Config(every=2, duration=0.4, max_samples=50))
    times = [sample.time_s or 0.0 for sample in background.samples]
    assert len(times) >= 25
    assert times == sorted(times) and times[-1] < 0.4
    assert all((sample.index + 1) % 2 == 0 for sample in background.samples)
    assert background.background.shape == (48, 64, 3)
    assert not any("ended by itself" in warning for warning in background.run.warnings)


def test_a_live_stream_needs_a_duration(jpegs: list[bytes]) -> None:
    with streaming(jpegs, repeat=True) as url, pytest.raises(ValueError, match=r"never ends by itself: .*--duration"):
        estimate(url)


def test_a_url_that_nobody_answers() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        url = f"http://127.0.0.1:{server.server_port}/"  # free again when the server is closed
    with pytest.raises(SourceError, match="cannot be opened: is it there"):
        open_source(url)


@pytest.mark.parametrize("address", ["camera:", "camera:x", "camera:²", "camera:123456789012"])
def test_a_camera_has_a_number(address: str) -> None:
    with pytest.raises(SourceError, match="is no camera: give camera:0"):
        open_source(address)


@pytest.mark.parametrize(
    "axes, shape, told", [("TCYX", (5, 2, 8, 9), "2 channels"), ("TZYX", (5, 3, 8, 9), "3 planes")]
)
def test_a_tiff_of_more_than_time_is_refused(axes: str, shape: tuple[int, ...], told: str, tmp_path: Path) -> None:
    """Channels and planes would be taken for moments, and their median for a background."""
    path = tmp_path / "hyper.tif"
    tifffile.imwrite(path, np.zeros(shape, np.uint8), imagej=True, metadata={"axes": axes})
    with pytest.raises(SourceError, match=rf"axes {axes} .*: {told} are no time points"):
        open_source(path)


def test_a_tiff_of_planes_alone_may_be_time(tmp_path: Path) -> None:
    path = tmp_path / "planes.tif"
    tifffile.imwrite(path, np.zeros((5, 8, 9), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    with closing(open_source(path)) as source:
        assert source.timeline is not None and source.timeline.frames == 5


def test_a_film_that_lost_its_end_says_how_much(films: dict[str, Path], tmp_path: Path) -> None:
    """Less than a tenth; there is no sound that could last longer than the pictures."""
    path = tmp_path / "cut.mkv"
    data = films["mkv"].read_bytes()
    path.write_bytes(data[: len(data) * 92 // 100])
    run = estimate(path, Config(every=1)).run
    assert run.frames_seen < 120
    told = " ".join(run.warnings)
    assert f"as if {120 - run.frames_seen} more were missing" in told or str(run.frames_seen) in told
