"""What is odd about samples is told, with its place; and what is merely life in a recording is not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from conftest import recording

from gpu_bgstat.arena import Arena
from gpu_bgstat.config import Config
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.frames import Image, Sample
from gpu_bgstat.oddities import Look, Watch, checksum
from gpu_bgstat.pipeline import estimate

STILL = list(Arena(width=160, height=120, animals=2, asleep=0.2).frames(60))


def told(frames: Sequence[Image], every_s: float | None = 1.0, seed: int | None = None) -> list[str]:
    """What is said of these samples; with a seed, they arrive in a random order."""
    watch, order = Watch(), list(range(len(frames)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    for k in order:
        watch.see(k * 10, frames[k], False)
    return watch.told([Sample(k * 10, None if every_s is None else k * every_s, 0.0) for k in range(len(frames))])


def shifted(frame: Image, x: float, y: float, degrees: float = 0.0, zoom: float = 1.0) -> Image:
    height, width = frame.shape[:2]
    warp = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom) + np.array([[0, 0, x], [0, 0, y]])
    return np.asarray(cv2.warpAffine(frame, warp, (width, height), borderMode=cv2.BORDER_REFLECT))


def test_animals_light_and_noise_are_nothing_odd() -> None:
    assert told(STILL) == []
    assert told([np.asarray(cv2.convertScaleAbs(f, alpha=1 - k / 80)) for k, f in enumerate(STILL)]) == []
    assert told([f if k < 30 else np.asarray(cv2.convertScaleAbs(f, alpha=0.4)) for k, f in enumerate(STILL)]) == []


@pytest.mark.parametrize("percent", [2, 5])
def test_a_camera_that_moved_is_told_with_its_place(percent: int) -> None:
    frames = [*STILL[:30], *(shifted(frame, percent * 1.6, 0) for frame in STILL[30:])]
    (warning,) = told(frames)
    pixels, at = warning.split("about ")[1].split()[0], warning.split(" at ")[1].split()[0]
    assert abs(float(pixels) - percent * 1.6) <= 1
    assert abs(float(at) - 30) <= 1


def test_black_samples_are_told_and_dark_ones_with_structure_are_not() -> None:
    frames = list(STILL)
    frames[20:23] = [np.full_like(frame, 3) for frame in frames[20:23]]
    (warning,) = told(frames, 1.5)
    assert warning.startswith("3 samples are black: 30.0 s to 33.0 s")
    assert told([np.asarray(frame // 12) for frame in STILL]) == []


def test_a_frozen_stretch_is_told_and_a_few_equal_samples_are_not() -> None:
    frames = list(STILL)
    frames[10:20] = [frames[10]] * 10
    (warning,) = told(frames, 60.0)
    assert "frozen, 10 samples" in warning and "0:10:00 to 0:19:00" in warning
    (warning,) = told(frames, None)
    assert "frame 100 to frame 190" in warning
    frames = list(STILL)
    frames[10:14] = [frames[10]] * 4
    assert told(frames) == []


def test_the_order_of_arrival_does_not_matter() -> None:
    frames = list(STILL)
    frames[5:12] = [frames[5]] * 7
    frames[20] = np.zeros_like(frames[20])
    frames[30:] = [shifted(frame, 8, 0) for frame in frames[30:]]
    want = told(frames)
    assert len(want) == 3
    assert all(told(frames, seed=seed) == want for seed in range(3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_look_goes_through_json(dtype: type) -> None:
    look = Look.at(STILL[0].astype(dtype) * dtype(1), True)
    again = Look.from_json(look.to_json())
    assert np.array_equal(again.thumbnail, look.thumbnail)
    assert {k: v for k, v in vars(again).items() if k != "thumbnail"} == {
        k: v for k, v in vars(look).items() if k != "thumbnail"
    }


@pytest.mark.parametrize("shape", [(5, 7), (480, 640, 3), (301, 211, 3)])
def test_every_byte_counts_in_the_checksum(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 255, shape, np.uint8)
    seen = {checksum(pixels)}
    for place in rng.choice(pixels.size, 30, replace=False):
        other = pixels.copy()
        other.flat[place] += 1
        seen.add(checksum(other))
    seen |= {checksum(np.roll(pixels, 1, axis=0)), checksum(np.ascontiguousarray(pixels[::-1]))}
    assert len(seen) == 33
    if len(shape) == 3:  # a mark that moves down by a whole row of an otherwise even picture
        marks = np.zeros((2, *shape), np.uint8)
        marks[0, 10, 20] = marks[1, 11, 20] = 200
        assert checksum(marks[0]) != checksum(marks[1])


def test_a_size_that_changes_is_told_of_the_samples_that_are_left() -> None:
    large = [np.asarray(cv2.resize(frame, (200, 150))) for frame in STILL]
    with BackgroundEstimator(Config(every=1, max_samples=10, keep="recent", device="cpu")) as estimator:
        for k in range(30):
            estimator.collect(large[k] if k in (3, 22, 23, 24) else STILL[k], time_s=float(k))
        run = estimator.finalize().run
    assert run.resized == 3
    assert run.warnings == ("3 samples had another size than the first and were resized to it: 22.0 s to 24.0 s",)


def test_thinned_samples_are_forgotten() -> None:
    with BackgroundEstimator(Config(every=1, max_samples=8, device="cpu")) as estimator:
        for k in range(40):
            estimator.collect(np.zeros_like(STILL[0]) if k == 0 else STILL[k])
        run = estimator.finalize().run
    assert run.warnings == ()


@pytest.mark.parametrize(
    "name",
    ["people/opencv_vtest.avi", "animals/idtrackerai_test_A.avi", "animals/eztrack_Freezing_calibration.wmv"],
)
def test_real_recordings_of_fixed_cameras_are_silent(name: str) -> None:
    run = estimate(recording(name), Config(every=9, max_samples=30, device="cpu")).run
    assert not [text for text in run.warnings if "moved" in text or "frozen" in text or "black" in text]


def test_the_black_beginning_of_a_real_recording_is_told() -> None:
    run = estimate(recording("animals/tracktorlive_ant.mp4"), Config(every=2, end="80f", device="cpu")).run
    assert any(text.startswith("5 samples are black: 0.0 s to 0.3 s") for text in run.warnings)


@pytest.mark.parametrize("shape", [(2160, 3840, 3), (5, 4000), (4000, 5), (1, 1)])
@pytest.mark.parametrize("samples", [600, 65_535])
def test_thumbnails_of_many_samples_take_bounded_memory(shape: tuple[int, ...], samples: int) -> None:
    watch = Watch(samples)
    look = watch.see(0, np.zeros(shape, np.uint8), False)
    assert 1 <= look.thumbnail.nbytes <= (1 << 26) // samples
    assert watch.look(0) is look
