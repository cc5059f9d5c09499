"""What a pixel's background is: still samples, modes, and the choice between two states. Truths are exact here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_bgstat import Background, BackgroundEstimator, Config, estimate
from gpu_bgstat.backends import cpu
from gpu_bgstat.methods import METHODS

Frames = NDArray[np.uint8]
HEIGHT, WIDTH, COUNT = 96, 128, 120


def floor(seed: int = 0, channels: int = 3) -> Any:
    """A textured floor (H, W, C), float64."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 12, (HEIGHT // 16, WIDTH // 16, channels))
    fine = rng.normal(0, 5, (HEIGHT, WIDTH, channels))
    return 140 + np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)) + fine


def noisy(scenes: Any, sigma: float = 2.0, seed: int = 1) -> Frames:
    rng = np.random.default_rng(seed)
    frames: Frames = (scenes + rng.normal(0, sigma, scenes.shape)).round().clip(0, 255).astype(np.uint8)
    return frames


def animal(frame: Any, x: int, y: int, level: float = 60) -> None:
    frame[y : y + 24, x : x + 24] = level + 10 * np.sin(np.arange(24))[:, None, None]


def recording(asleep: float, where: str = "start", level: float = 60) -> tuple[Frames, Frames]:
    """Frames with an animal that sleeps for so long in one place and walks otherwise; the floor."""
    truth = floor()
    frames = np.repeat(truth[None], COUNT, axis=0)
    sleeping = round(asleep * COUNT)
    begin = {"start": 0, "middle": (COUNT - sleeping) // 2, "end": COUNT - sleeping}[where]
    for number, frame in enumerate(frames):
        if begin <= number < begin + sleeping:
            animal(frame, 40, 30, level)
        else:
            turn = (number - begin) % COUNT
            animal(frame, 2 + 7 * turn % (WIDTH - 28), 2 + 5 * turn % (HEIGHT - 28), level)
    return noisy(frames), truth.round().clip(0, 255).astype(np.uint8)


def error(got: Background, truth: Any) -> float:
    """The mean absolute error, in levels."""
    return float(np.abs(got.background.astype(float) - truth).mean())


def config(**settings: Any) -> Config:
    return Config(**{"every": 1, "device": "cpu", **settings})


@pytest.mark.parametrize("where", ["start", "middle", "end"])
@pytest.mark.parametrize("asleep", [0.2, 0.4, 0.55, 0.7, 0.85])
def test_a_sleeping_animal_is_left_out(asleep: float, where: str) -> None:
    frames, truth = recording(asleep, where)
    got = estimate(frames, config())
    assert error(got, truth) < 0.6
    place = np.s_[30:54, 40:64]
    if asleep > 0.5:
        assert error(estimate(frames, config(method="median")), truth) > 3
        assert (got.choice[place] == 2).mean() > 0.8
    assert (got.choice == 2).mean() < 0.1


def test_an_object_that_was_shifted_belongs_to_where_it_lay_longer() -> None:
    """It does not walk by itself: nothing more moves elsewhere when it has left."""
    truth = floor()
    frames = np.repeat(truth[None], COUNT, axis=0)
    for number, frame in enumerate(frames):
        animal(frame, *((20, 20) if number < 0.6 * COUNT else (80, 60)))
    animal(truth, 20, 20)
    got = estimate(noisy(frames), config())
    assert error(got, truth) < 0.6


def test_one_that_nothing_is_known_of_but_samples_far_apart() -> None:
    """Keyframes alone: no neighbours are read, and what changes from sample to sample is what moves."""
    frames, truth = recording(0.7)
    with BackgroundEstimator(config(snap="keyframe")) as estimator:
        for frame in frames:
            estimator.collect(frame)
        assert error(estimator.finalize(), truth) < 0.6


def test_the_shorter_of_two_lights_is_not_taken_for_being_quieter() -> None:
    """By night there is less noise, and less moves."""
    day, night = floor(), floor() / 3
    frames = np.concatenate([noisy(np.repeat(day[None], 70, axis=0), 4), noisy(np.repeat(night[None], 50, axis=0), 1)])
    for method in ("still", "auto"):
        assert error(estimate(frames, config(method=method)), day) < 1
        assert error(estimate(frames[::-1].copy(), config(method=method)), day) < 1


def test_flicker_does_not_choose_the_samples() -> None:
    """Of a lamp's wave, the samples where it turns move least."""
    wave = 1 + 0.05 * np.sin(np.arange(COUNT) * 2 * np.pi / 11)
    frames = noisy(floor()[None] * wave[:, None, None, None])
    for method in ("still", "auto"):
        assert error(estimate(frames, config(method=method)), floor()) < 1.5


def test_still_leaves_out_what_passes_more_than_half_of_the_time() -> None:
    truth = floor()
    frames = np.repeat(truth[None], COUNT, axis=0)
    for number, frame in enumerate(frames):
        if number % 10 < 6:
            for x in range(0, WIDTH - 24, 30):
                animal(frame, x + number % 5 * 4, 40, 30 + 20 * (number % 5))
    frames = noisy(frames)
    assert error(estimate(frames, config(method="median")), truth) > 3
    assert error(estimate(frames, config(method="still", lag_s=0.04)), truth) < 1


def test_where_nothing_moves_every_sample_counts() -> None:
    """Then `still` and `auto` are the plain median, to the bit."""
    frames = noisy(np.repeat(floor()[None], 90, axis=0), 3)
    want = estimate(frames, config(method="median"))
    for method in ("still", "auto"):
        got = estimate(frames, config(method=method))
        np.testing.assert_array_equal(got.background, want.background)
        np.testing.assert_array_equal(got.variance, want.variance)
        assert not got.choice.any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_mode_is_the_densest_interval(dtype: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 120, (41, 9, 13, 3)).astype(dtype)
    frames[:17] = 200 + rng.integers(0, 5, (17, 9, 13, 3))
    scale = 257 if dtype == "uint16" else 1
    frames *= np.dtype(dtype).type(scale)
    got = estimate(frames, config(method="mode"))
    np.testing.assert_array_equal(got.background, cpu.modes(frames, 9 * scale))
    assert (got.background >= 200 * scale).all()


@pytest.mark.parametrize("asleep", [0.4, 0.7])
def test_sixteen_bits_are_as_good_as_eight(asleep: float) -> None:
    """Whatever part of the range is used: 12 bits here."""
    frames, truth = recording(asleep)
    got = estimate(frames.astype(np.uint16) * 16, config())
    assert got.background.dtype == np.uint16
    assert error(got, truth.astype(float) * 16) < 16 * 0.6


def test_eight_bits_in_sixteen_are_as_good_as_eight() -> None:
    """Everything moves by more than motion counts up to: the stillest quarter of the samples is taken all the same."""
    frames = np.random.default_rng(0).integers(100, 256, (40, 24, 32)).astype(np.uint16)
    got = estimate(frames, config(method="still"))
    assert got.background.min() >= 100
    assert abs(float(got.background.mean()) - float(np.median(frames, axis=0).mean())) < 5


def test_grey_and_a_region_and_two_samples() -> None:
    frames, truth = recording(0.7)
    grey = cv2.cvtColor(truth, cv2.COLOR_BGR2GRAY)
    got = estimate(frames, config(gray=True, roi=(5, 7, 101, 83)))
    assert error(got, grey[7:90, 5:106]) < 0.8
    for few in (2, 3, 4, 7):
        for method in METHODS:
            assert estimate(frames[:few], config(method=method)).background.shape == frames[0].shape


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (5, 300)])
def test_small_frames(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, *size)).astype(np.uint8)
    for method in METHODS:
        assert estimate(frames, config(method=method)).background.shape == size


def test_the_same_bits_whatever_order_frames_come_in(tmp_path: Path) -> None:
    """Stretches of a video are decoded side by side."""
    frames, _ = recording(0.7)
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 12
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "bgr24")))
        container.mux(stream.encode())
    want = estimate(film, config(decoders=1, every=3))
    for decoders in (2, 5):
        got = estimate(film, config(decoders=decoders, every=3))
        for field in ("background", "variance", "choice", "confidence"):
            np.testing.assert_array_equal(getattr(got, field), getattr(want, field))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_gpu_gives_the_same_bits(method: str, dtype: str) -> None:
    frames, _ = recording(0.7)
    small = frames[::4, :64, :77].astype(dtype)
    want, got = (estimate(small, config(method=method, device=device)) for device in ("cpu", "gpu"))
    for field in ("background", "variance", "choice", "confidence", "stable"):
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field), err_msg=field)
    assert got.run.device.startswith("gpu")
