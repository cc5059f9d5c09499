"""Damage in recordings of several files, and at their very beginning: numbers, readings, open files."""

from __future__ import annotations

import os
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gpu_bgstat import Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.errors import TooFewSamplesError
from gpu_bgstat.frames import Timeline
from gpu_bgstat.schedule import plan
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.video import VideoSource

FRAMES = 60


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames in groups of 12, every one different."""
    path = tmp_path_factory.mktemp("joined") / "film.mp4"
    Arena(width=96, height=72, animals=2, noise=3.0).film(path, FRAMES, "mpeg4")
    return path


def spoiled(film: Path, target: Path, packets: list[int], half: int | None = None) -> Path:
    """A copy in which these packets hold zeros, and one of them in its second half alone."""
    data = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        table = [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]
    for number in packets:
        begin, size = table[number]
        if number == half:
            begin, size = begin + size // 2, size - size // 2
        data[begin : begin + size] = bytes(size)
    target.write_bytes(data)
    return target


def everything(given: Any) -> dict[int, bytes]:
    """Every frame by number, from a sequential reading."""
    frames: dict[int, bytes] = {}
    with av.open(str(given)) as container:
        for packet in container.demux(video=0):
            try:
                pictures: Any = packet.decode()
            except av.error.InvalidDataError:
                continue
            for picture in pictures:
                frames[len(frames)] = picture.to_ndarray(format="bgr24", interpolation="BICUBIC").tobytes()
    return frames


def test_frames_behind_a_lost_end_keep_their_numbers(film: Path, tmp_path: Path) -> None:
    """The first part loses frames behind its last sample: the second part begins earlier for that.

    A frame before that sample has a hole, so that its group is looked at up to its end.
    """
    first = spoiled(film, tmp_path / "first.mp4", [54, 57, 58, 59], half=54)
    there = len(everything(first))
    assert there < FRAMES
    config = Config(every=19, max_samples=10, method="median")
    background = estimate([first, film], config)
    assert background.run.frames_seen == there + FRAMES
    wanted = range(18, there + FRAMES, 19)
    assert [sample.index for sample in background.samples] == list(wanted)
    pixels = [*everything(first).values(), *everything(film).values()]
    stack = np.stack([np.frombuffer(pixels[number], np.uint8) for number in wanted])
    assert np.array_equal(background.background.reshape(-1), np.median(stack, axis=0).astype(np.uint8))


@pytest.mark.parametrize("every", [1, 7])
def test_a_lost_first_keyframe(film: Path, tmp_path: Path, every: int) -> None:
    """Nothing can be planned without it; what a sequential decode gives is the result."""
    path = spoiled(film, tmp_path / "film.mp4", [0])
    there = len(everything(path))
    background = estimate(path, Config(every=every))
    assert [sample.index for sample in background.samples] == list(range(every - 1, there, every))
    assert background.run.warnings


def test_many_damaged_parts_are_read_a_few_times(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [spoiled(film, tmp_path / f"{number}.mp4", [24, 25]) for number in range(24)]
    readings = []
    read = VideoSource.read

    def counted(source: VideoSource, plan: Any) -> Any:
        readings.append(source.name)
        return read(source, plan)

    monkeypatch.setattr(VideoSource, "read", counted)
    background = estimate(parts, Config(every=5, max_samples=1000))
    there = len(everything(parts[0]))
    assert background.run.frames_seen == 24 * there
    assert len(readings) <= 4 * 24


def test_parts_that_wait_hold_no_file_open(film: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    if before is None:
        pytest.skip("needs /proc")
    with closing(open_source([film] * 40)):
        assert len(os.listdir("/proc/self/fd")) < before + 10  # noqa: PTH208


def test_a_cover_picture_is_not_the_film(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "cover.mkv"
    jpeg = av.CodecContext.create("mjpeg", "w")
    jpeg.width, jpeg.height, jpeg.pix_fmt, jpeg.time_base = 64, 48, "yuvj420p", Fraction(1, 25)
    [data] = jpeg.encode(av.VideoFrame(64, 48, "yuvj420p"))
    with av.open(str(film)) as old, av.open(str(path), "w") as new:
        new.add_attachment("cover.jpg", "image/jpeg", bytes(data))
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    with closing(open_source(path)) as source:
        assert source.timeline is not None and source.timeline.frames == FRAMES
        assert source.spec is not None and source.spec.width == 96


def test_a_range_without_keyframes_says_what_to_leave_out(film: Path) -> None:
    timeline = Timeline(1000, np.arange(1000) / 30, np.array([0, 500]))
    chosen = plan(timeline, Config(every=10, snap="keyframe", start="100f", end="400f"))
    assert chosen.indices == () and chosen.notes == (
        "the range has 0 keyframes for 30 samples: only they are taken (snap=keyframe)",
    )
    with pytest.raises(TooFewSamplesError, match="or leave snap out"):
        estimate(film, Config(every=2, snap="keyframe", start="1f", end="9f"))
