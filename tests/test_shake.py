"""A camera that shakes, by offsets that are known: what is found, undone, told, and the same whoever decodes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from killing import summary
from numpy.typing import NDArray
from test_command import outcome, report_of

from gpu_bgstat import Background, Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.shake import moved

WIDTH, HEIGHT, RIM = 160, 120, 24
LARGE = Arena(width=WIDTH + 2 * RIM, height=HEIGHT + 2 * RIM, animals=1, asleep=0.0, noise=1.5)


def offsets(count: int, most: int = 6, seed: int = 3) -> list[tuple[int, int]]:
    """By how much the camera points (right, down) of the middle in each frame; not at the middle in the first."""
    shaken = np.random.default_rng(seed).integers(-most, most + 1, (count, 2)).tolist()
    return [(4, -3), *((right, down) for right, down in shaken[1:])]


def seen(large: NDArray[Any], right: int, down: int) -> NDArray[Any]:
    return np.ascontiguousarray(large[RIM + down : RIM + down + HEIGHT, RIM + right : RIM + right + WIDTH])


def shaken(places: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    frames = LARGE.frames(len(places))
    return np.stack([seen(frame, *place) for frame, place in zip(frames, places, strict=True)])


def undone(places: Sequence[tuple[int, int]], samples: Sequence[int]) -> list[tuple[int, int]]:
    """How far the scene lies right and down of its place in the first sample: left, as the camera turns right."""
    first = places[samples[0]]
    return [(first[0] - places[k][0], first[1] - places[k][1]) for k in samples]


def error(got: Background, place: tuple[int, int]) -> float:
    """The mean error inside of what all samples see."""
    truth = seen(LARGE.truth(), *place)
    return float(np.abs(got.background.astype(int) - truth)[RIM:-RIM, RIM:-RIM].mean())


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, -2), (-4, 5), (11, 8), (-11, -8)])
def test_what_comes_in_repeats_the_edge(shift: tuple[int, int], dtype: str, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    rows = np.clip(np.arange(9) + shift[1], 0, 8)
    columns = np.clip(np.arange(12) + shift[0], 0, 11)
    got = moved(pixels, *shift)
    np.testing.assert_array_equal(got, pixels[rows][:, columns])
    assert got.dtype == dtype and got.flags.c_contiguous


@pytest.mark.parametrize("kind", ["colour", "grey", "16 bit", "16 bit colour"])
def test_every_shift_is_found_and_undone(kind: str, device: str) -> None:
    places = offsets(30)
    frames: Any = shaken(places)
    if "16" in kind:
        frames = frames.astype(np.uint16) * 257
    if "colour" not in kind:
        frames = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames])
    config = Config(every=1, method="median", shake=True, device=device)
    got = estimate(frames, config)
    assert [sample.shift for sample in got.samples] == undone(places, range(30))
    assert got.samples[0].shift == (0, 0)
    assert not got.run.warnings
    registered = [
        frame[np.clip(np.arange(HEIGHT) + down, 0, HEIGHT - 1)]
        for frame, (_, down) in zip(frames, undone(places, range(30)), strict=True)
    ]
    registered = [
        frame[:, np.clip(np.arange(WIDTH) + right, 0, WIDTH - 1)]
        for frame, (right, _) in zip(registered, undone(places, range(30)), strict=True)
    ]
    np.testing.assert_array_equal(got.background, np.median(registered, axis=0).astype(frames.dtype))
    assert got.run.shake == {
        "largest_px": round(max(math.hypot(*shift) for shift in undone(places, range(30))), 2),
        "unregistered": 0,
    }


@pytest.mark.parametrize("method", ["median", "still", "auto"])
def test_the_background_is_sharp_again(method: Any) -> None:
    """Where neighbours tell what moves, they are moved as well: else everything would seem to move."""
    places = offsets(200)
    frames = shaken(places)
    without, got = (
        estimate(frames, Config(every=5, method=method, shake=shake, device="cpu")) for shake in (False, True)
    )
    assert [sample.shift for sample in got.samples] == undone(places, range(4, 200, 5))
    assert error(got, places[4]) < 0.3  # 0.13 if the camera stands still
    assert error(without, places[4]) > 5
    assert any("the camera moved" in warning for warning in without.run.warnings) and not got.run.warnings
    assert got.stable.mean() > without.stable.mean() + 0.3
    assert all(sample.shift is None for sample in without.samples) and without.run.shake is None


def test_what_cannot_be_registered_stays_and_is_told() -> None:
    """A black sample, one of another scene, and one that lies too far away."""
    places = offsets(12)
    places[9] = (-22, 20)
    frames = shaken(places)
    frames[3] = 0
    frames[6] = np.random.default_rng(1).integers(0, 255, frames[6].shape)
    got = estimate(frames, Config(every=1, method="median", shake=True, device="cpu"))
    assert [sample.index for sample in got.samples if sample.shift is None] == [3, 6, 9]
    assert got.run.shake and got.run.shake["unregistered"] == 3
    assert any(
        "3 of 12 samples could not be registered to the first one (shake), and stay where they are: frame 3, 6, 9;"
        in warning
        for warning in got.run.warnings
    )
    brightness = [sample.brightness for sample in got.samples]
    assert [brightness[k] for k in (3, 6, 9)] == pytest.approx([frames[k].mean() for k in (3, 6, 9)])


def test_black_samples_at_the_beginning_are_passed_over(tmp_path: Path) -> None:
    """The first one with something in it is the first one, after a resume as well."""
    places = offsets(12)
    frames = shaken(places)
    frames[:2] = 0
    files = []
    for number, frame in enumerate(frames):
        files.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(files[-1], frame)
    config = Config(every=1, method="median", shake=True, device="cpu")
    got = estimate(files, config)
    assert [sample.shift for sample in got.samples] == [None, None, *undone(places, range(2, 12))]

    def stop(progress: Any) -> None:
        if progress.samples == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(files, config, stop, checkpoint=tmp_path / "checkpoint")
    resumed = estimate(files, config, checkpoint=tmp_path / "checkpoint")
    assert resumed.samples == got.samples
    np.testing.assert_array_equal(resumed.background, got.background)


@pytest.mark.parametrize("shape", [(8, 6), (1, 200, 3), (40, 31)])
def test_small_pictures_stay(shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, *shape), np.uint8)
    got = estimate(frames, Config(every=1, method="median", shake=True, device="cpu"))
    np.testing.assert_array_equal(got.background, np.median(frames, axis=0).astype(np.uint8))
    assert [sample.shift for sample in got.samples] == [None] * 4
    assert "4 of 4 samples could not be registered" in got.run.warnings[0]


@pytest.mark.parametrize("keep", ["recent", "spread"])
def test_the_first_sample_counts_although_it_was_dropped(keep: Any) -> None:
    """A recording of unknown length, which the ring does not hold."""
    places = offsets(60)
    config = Config(every=2, max_samples=8, keep=keep, method="median", shake=True, device="cpu")
    got = estimate(iter(shaken(places)), config)
    assert got.samples[0].index > 1
    first = places[1]
    for sample in got.samples:
        place = places[sample.index]
        assert sample.shift == (first[0] - place[0], first[1] - place[1])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """120 shaken frames, B-frames, a keyframe every 20."""
    path, places = tmp_path_factory.mktemp("shaken") / "film.mp4", offsets(120)
    with av.open(str(path), "w") as container:
        options = {"g": "20", "bf": "2", "crf": "14", "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=Fraction(30), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in shaken(places):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "bgr24")))
        container.mux(stream.encode())
    return path, places


@pytest.mark.parametrize("method", ["median", "auto"])
def test_any_number_of_decoders_gives_the_same(
    film: tuple[Path, list[tuple[int, int]]], method: Any, tmp_path: Path
) -> None:
    """Stretches are decoded beside each other, and the first sample is the first of the recording all the same."""
    path, places = film
    written = []
    for decoders in (1, 2, 5):
        config = Config(every=8, method=method, shake=True, decoders=decoders, device="cpu")
        got = estimate(path, config)
        assert got.run.decoding["way"] == "planned" and got.run.decoding["decoders"] == decoders
        assert [sample.shift for sample in got.samples] == undone(places, range(7, 120, 8))
        written.append({file.name: file.read_bytes() for file in got.save(tmp_path / str(decoders))})
    for files in written:
        for name in files.keys() - {"report.html", "report.json"}:
            assert files[name] == written[0][name], name


@pytest.mark.parametrize("method", ["median", "auto"])
@pytest.mark.parametrize("after", [1, 2, 7, 14])
def test_a_resumed_run_registers_to_the_same_sample(
    film: tuple[Path, list[tuple[int, int]]], after: int, method: Any, tmp_path: Path
) -> None:
    path, places = film
    config = Config(every=8, method=method, shake=True, decoders=1, device="cpu")

    def stop(progress: Any) -> None:
        if progress.samples >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(path, config, stop, checkpoint=tmp_path / "checkpoint")
    came: list[int] = []
    got = estimate(path, config, lambda progress: came.append(progress.samples), checkpoint=tmp_path / "checkpoint")
    want = estimate(path, config)
    assert summary(got) == summary(want)
    assert got.samples == want.samples
    assert [sample.shift for sample in got.samples] == undone(places, range(7, 120, 8))
    if after == 14:
        assert came[0] > 7  # it was no new run


def test_the_command_tells_the_shifts(
    film: tuple[Path, list[tuple[int, int]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, places = film
    code, _, err = outcome(capfd, "estimate", path, "--every", "30", "--shake", "-o", tmp_path)
    assert (code, err) == (0, "")
    told = report_of(tmp_path)
    want = [list(shift) for shift in undone(places, [29, 59, 89, 119])]
    assert [sample["shift"] for sample in told["samples"]] == want
    largest = max(math.hypot(*shift) for shift in want)
    assert told["shake"] == {"largest_px": round(largest, 2), "unregistered": 0}
    assert f"samples were moved by up to {round(largest, 2):g} pixels<" in (tmp_path / "report.html").read_text()
    assert outcome(capfd, "estimate", path, "--every", "30", "-o", tmp_path / "off")[0] == 0
    off = json.loads((tmp_path / "off" / "report.json").read_text())
    assert off["shake"] is None and "shift" not in off["samples"][0]
