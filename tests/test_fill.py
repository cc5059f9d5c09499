"""What unstable pixels show, and how far the background is to be trusted, against plain NumPy and known scenes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from test_command import background_of, outcome

from gpu_bgstat import Background, Config, estimate
from gpu_bgstat.config import PRESETS

SHAPES = [(36, 48), (36, 48, 3)]


def truth_of(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A slope that brightens from the upper left to the lower right; each channel by itself."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    slope = 60.0 + 2 * x + y
    picture = slope if len(shape) == 2 else np.stack([slope, slope + 20, slope * 0.8], axis=2)
    return np.asarray(picture * (200 if dtype == "uint16" else 1)).astype(dtype)


def asleep(shape: tuple[int, ...], dtype: str, count: int = 40, share: float = 0.7) -> NDArray[Any]:
    """Samples (T, H, W[, 3]) of the slope with some noise; a dark animal sleeps in one place, and one at the edge."""
    truth = truth_of(shape, dtype).astype(np.float64)
    unit = 200 if dtype == "uint16" else 1
    samples = truth + unit * np.random.default_rng(5).standard_normal((count, *shape))
    samples[: round(share * count), 10:20, 15:27] = 20 * unit
    samples[: round(share * count), 28:, 40:] = 20 * unit
    return np.rint(samples).astype(dtype)


def where_asleep(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    place = np.zeros(shape[:2], bool)
    place[10:20, 15:27] = place[28:, 40:] = True
    return place


def of(samples: NDArray[Any], fill: Any, **settings: Any) -> Background:
    return estimate(
        samples,
        Config(**{"every": 1, "method": "median", "threshold": "auto", "fill": fill, "device": "cpu", **settings}),
    )


def densest(values: list[int], width: int) -> int:
    """The mode of one pixel, by counting."""
    counts = Counter(values)
    begin = max(sorted(counts), key=lambda low: sum(counts[value] for value in range(low, low + width)))
    inside = sorted(value for value in values if begin <= value < begin + width)
    return inside[(len(inside) - 1) // 2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mode_is_counted_for_each_unstable_pixel(shape: tuple[int, ...], dtype: str, device: str) -> None:
    samples = asleep(shape, dtype, share=0.4)
    samples[20:, 10:20, 15:27] += np.arange(20, dtype=dtype).reshape(20, *[1] * len(shape))  # a ramp of light beside it
    got, median = of(samples, "mode", device=device), of(samples, "median", device=device)
    assert not got.stable[where_asleep(shape)].any()
    want = median.background.copy()
    for place in np.argwhere(~got.stable):
        pixel = samples[(slice(None), *place)].reshape(len(samples), -1)
        want[tuple(place)] = (
            [densest(values, got.noise.width) for values in pixel.T.tolist()]
            if len(shape) == 3
            else (densest(pixel[:, 0].tolist(), got.noise.width))
        )
    np.testing.assert_array_equal(got.background, want)


def test_the_mode_sees_what_shows_most_often() -> None:
    """Dark animals for half of the time, a bright one besides: the median is the edge of one, the floor is the mode."""
    samples = asleep((36, 48), "uint8", share=0.0)
    for k, grey in enumerate((5, 14, 23, 32, 41, 240)):  # each 4 of 40 samples
        samples[4 * k : 4 * k + 4, 12:20, 12:30] = grey
    samples[24, 12:20, 12:30] = 50
    inside = np.s_[12:20, 12:30]
    truth = truth_of((36, 48), "uint8")[inside].astype(int)
    assert np.abs(of(samples, "mode").background[inside] - truth).mean() < 1.5
    assert np.abs(of(samples, "median").background[inside] - truth).mean() > 1.5


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_painting_restores_a_slope_under_an_animal_that_sleeps(shape: tuple[int, ...], dtype: str) -> None:
    """In its middle, and at the edge of the picture, whence it is seen from two sides only."""
    samples, truth, place = asleep(shape, dtype), truth_of(shape, dtype).astype(int), where_asleep(shape)
    unit = 200 if dtype == "uint16" else 1
    got, median = of(samples, "inpaint"), of(samples, "median")
    np.testing.assert_array_equal(got.stable, median.stable)
    np.testing.assert_array_equal(got.background[got.stable], median.background[got.stable])
    assert got.background.dtype == samples.dtype and got.background.shape == shape
    inner = np.s_[10:20, 15:27]
    assert np.abs(median.background[inner] - truth[inner]).mean() > 50 * unit
    assert np.abs(got.background[inner] - truth[inner]).mean() < 4 * unit
    edge = np.s_[28:, 40:]
    assert np.abs(median.background[edge] - truth[edge]).mean() > 50 * unit
    assert np.abs(got.background[edge] - truth[edge]).mean() < 15 * unit
    assert place.sum() > 0.9 * (~got.stable).sum()


@pytest.mark.parametrize("fill", ["median", "global", "mode", "inpaint"])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 40), (40, 1, 3), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_where_all_or_none_are_stable(fill: str, shape: tuple[int, ...], dtype: str) -> None:
    samples = np.random.default_rng(1).integers(0, 99, (9, *shape)).astype(dtype)
    median = np.median(samples, axis=0).astype(dtype)
    np.testing.assert_array_equal(of(samples, fill, threshold=1e9).background, median)
    got = of(samples, fill, threshold=0)
    assert not got.stable.any()
    if fill in ("median", "inpaint"):
        np.testing.assert_array_equal(got.background, median)
    if fill == "global":
        assert (got.background == np.median(median.reshape(-1, *shape[2:]), axis=0).astype(dtype)).all()


def test_a_line_of_pixels_is_painted() -> None:
    samples = np.full((9, 1, 30), 90, np.uint8)
    samples[:7, 0, 12:15] = 10
    got = of(samples, "inpaint").background[0].astype(int)
    assert np.abs(got - 90).max() <= 5  # OpenCV takes slopes from beyond the edge


def test_painting_that_takes_long_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gpu_bgstat")
    samples = np.zeros((2, 1100, 1100), np.uint8)
    samples[1, :, :1000] = 30
    of(samples, "inpaint", threshold=4)
    assert "painting 1.1 million unstable pixels: up to 2 s" in caplog.text


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 40, 300])
def test_confidence_is_the_share_of_samples_that_agree(
    count: int, shape: tuple[int, ...], dtype: str, device: str
) -> None:
    samples = asleep(shape, dtype, count)
    for fill in ("median", "inpaint", "global"):
        got = of(samples, fill, device=device)
        near = np.abs(samples.astype(np.int64) - got.background) <= got.noise.tolerance
        share = near.mean(axis=0) if len(shape) == 2 else near.mean(axis=0).min(axis=2)
        assert got.confidence.dtype == np.uint8 and got.confidence.shape == shape[:2]
        assert np.abs(got.confidence - 255 * share).max() <= 0.5 + 1e-9


def test_confidence_is_low_where_the_background_is_invented_and_high_where_it_was_seen() -> None:
    samples, place = asleep((36, 48), "uint8"), where_asleep((36, 48))
    got = of(samples, "inpaint")
    assert got.confidence[~place].min() > 240
    assert np.median(got.confidence[place]) < 0.35 * 255  # the floor is there for three tenths of the time
    assert np.median(of(samples, "median").confidence[place]) == pytest.approx(0.7 * 255, abs=1)


@pytest.mark.parametrize("fill", ["mode", "inpaint"])
def test_the_command(fill: str, film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(
        capfd, "estimate", film, "--every", "3", "--threshold", "auto", "--fill", fill, "-o", tmp_path
    )
    assert (code, err) == (0, "")
    got = estimate(film, Config(every=3, threshold="auto", fill=fill))
    np.testing.assert_array_equal(background_of(tmp_path), got.background)
    written = cv2.imread(str(tmp_path / "confidence.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, got.confidence)
    assert f"(fill={fill})" in (tmp_path / "report.html").read_text()
    assert Config.from_json(got.config.to_json()) == got.config


def test_no_preset_has_changed() -> None:
    assert PRESETS["default"] == {} and Config().threshold == 4.0 and Config().fill == "median"
