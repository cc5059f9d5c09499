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
from gpu_bgstat.fill import fill_inpaint
from gpu_bgstat.finalize import finalize

SHAPES = [(36, 48), (36, 48, 3)]
PLACES = np.s_[10:20, 15:27], np.s_[28:, 40:]  # in the middle, and at the edge


def truth_of(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A slope that brightens from the upper left to the lower right; each channel by itself."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    slope = 90.0 + 2 * x + y
    picture = slope if len(shape) == 2 else np.stack([slope, slope + 10, slope * 0.95], axis=2)
    return np.asarray(picture * (200 if dtype == "uint16" else 1)).astype(dtype)


def crowded(shape: tuple[int, ...], dtype: str, count: int = 40, empty: int = 0) -> NDArray[Any]:
    """Samples (T, H, W[, 3]) of the slope and noise; dark animals, each of another grey, take turns in two places.

    empty  samples at the end without any of them
    """
    unit = 200 if dtype == "uint16" else 1
    samples = truth_of(shape, dtype) + unit * np.random.default_rng(5).standard_normal((count, *shape))
    for sample in range(count - empty):
        for place in PLACES:
            samples[sample][place] = (4 + 9 * (sample % 8)) * unit
    return np.rint(samples).astype(dtype)


def where_crowded(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    places = np.zeros(shape[:2], bool)
    for place in PLACES:
        places[place] = True
    return places


def of(samples: NDArray[Any], fill: Any, **settings: Any) -> Background:
    return estimate(samples, Config(**{"every": 1, "method": "median", "fill": fill, "device": "cpu", **settings}))


def densest(values: list[int], width: int) -> int:
    """The mode of one pixel, by counting."""
    counts = Counter(values)
    begin = max(sorted(counts), key=lambda low: sum(counts[value] for value in range(low, low + width)))
    inside = sorted(value for value in values if begin <= value < begin + width)
    return inside[(len(inside) - 1) // 2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mode_is_counted_for_each_unsure_pixel(shape: tuple[int, ...], dtype: str, device: str) -> None:
    samples = crowded(shape, dtype, empty=10)
    got, median = of(samples, "mode", device=device), of(samples, "median", device=device)
    unsure = ~median.stable & (median.confidence < 64)
    np.testing.assert_array_equal(unsure, where_crowded(shape))
    want = median.background.copy()
    for row, column in np.argwhere(unsure):
        pixel = samples[:, row, column].reshape(len(samples), -1)
        want[row, column] = np.squeeze([densest(values, got.noise.width) for values in pixel.T.tolist()])
    np.testing.assert_array_equal(got.background, want)
    truth = truth_of(shape, dtype).astype(int)
    unit = 200 if dtype == "uint16" else 1
    assert np.abs(got.background - truth)[unsure].mean() < 1.5 * unit  # the floor, although it shows for a quarter only
    assert np.abs(median.background - truth)[unsure].mean() > 50 * unit


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_painting_restores_a_slope_under_a_crowd(shape: tuple[int, ...], dtype: str) -> None:
    """In its middle, and at the edge of the picture, whence it is seen from two sides only."""
    samples, truth = crowded(shape, dtype), truth_of(shape, dtype).astype(int)
    unit = 200 if dtype == "uint16" else 1
    got, median = of(samples, "inpaint"), of(samples, "median")
    elsewhere = ~where_crowded(shape)
    np.testing.assert_array_equal(got.stable, median.stable)
    np.testing.assert_array_equal(got.background[elsewhere], median.background[elsewhere])
    assert got.background.dtype == samples.dtype and got.background.shape == shape
    for place, most in zip(PLACES, (3, 8), strict=True):
        assert np.abs(median.background[place] - truth[place]).mean() > 50 * unit
        assert np.abs(got.background[place] - truth[place]).mean() < most * unit


@pytest.mark.parametrize("fill", ["mode", "inpaint"])
def test_what_many_samples_show_is_kept_however_unstable(fill: str) -> None:
    """An animal that comes and goes: the median is right, and a fill could only make it worse."""
    samples = crowded((36, 48), "uint8", empty=24)
    got, median = of(samples, fill, threshold="auto"), of(samples, "median", threshold="auto")
    assert not got.stable[where_crowded((36, 48))].any()
    np.testing.assert_array_equal(got.background, median.background)


def test_one_colour_goes_into_all_that_is_unstable() -> None:
    samples = crowded((36, 48, 3), "uint8", empty=24)
    got, median = of(samples, "global", threshold="auto"), of(samples, "median", threshold="auto").background
    want = np.median(median[got.stable], axis=0).astype(np.uint8)
    assert (got.background[~got.stable] == want).all()
    np.testing.assert_array_equal(got.background[got.stable], median[got.stable])


@pytest.mark.parametrize("fill", ["mode", "inpaint"])
def test_what_evidence_speaks_for_is_not_filled(fill: str) -> None:
    """`auto` may know that a background is right which few samples show."""
    background, few = np.full((9, 9), 100, np.uint8), np.zeros((9, 9), np.uint16)
    few[:, 5:] = 20
    variance = np.full((9, 9), 50, np.float32)
    choice = np.zeros((9, 9), np.uint8)
    choice[3:6, :3] = 2

    class Samples:
        def __len__(self) -> int:
            return 20

        def modes(self, width: int) -> NDArray[Any]:
            return np.full((9, 9), 7, np.uint8)

        def support(self, image: NDArray[Any], tolerance: int) -> NDArray[np.uint16]:
            return few

    background[:, 3:5] = 30
    got = finalize(background, variance, Config(fill=fill), Samples(), choice).background
    assert (got[choice > 0] == 100).all() and (got[:, 5:] == 100).all()
    assert (got[:, 3:5] != 30).all()


@pytest.mark.parametrize("fill", ["median", "global", "mode", "inpaint"])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 40), (40, 1, 3), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_where_all_or_none_are_unsure(fill: str, shape: tuple[int, ...], dtype: str) -> None:
    samples = np.arange(9).reshape(9, *[1] * len(shape)) * np.full(shape, 11)
    samples = samples.astype(dtype)  # a variance of 807, and no two samples alike
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
    samples[:, 0, 12:15] = 9 * np.arange(9)[:, None]
    got = of(samples, "inpaint").background[0].astype(int)
    assert np.abs(got - 90).max() <= 1


def test_painting_that_takes_long_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gpu_bgstat")
    picture, holes = np.full((1200, 1200), 90, np.uint8), np.zeros((1200, 1200), bool)
    holes[50:-50, 50:-50] = True
    painted = fill_inpaint(picture, holes, lambda: picture)
    assert (painted == 90).all()  # however wide the hole is
    assert "painting 1.2 million pixels: up to 2 s" in caplog.text


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 40, 300])
def test_confidence_is_the_share_of_samples_that_agree(
    count: int, shape: tuple[int, ...], dtype: str, device: str
) -> None:
    samples = crowded(shape, dtype, count, empty=count // 4)
    for fill in ("median", "inpaint", "global"):
        got = of(samples, fill, device=device)
        near = np.abs(samples.astype(np.int64) - got.background) <= got.noise.tolerance
        share = near.mean(axis=0) if len(shape) == 2 else near.mean(axis=0).min(axis=2)
        assert got.confidence.dtype == np.uint8 and got.confidence.shape == shape[:2]
        assert np.abs(got.confidence - 255 * share).max() <= 0.5 + 1e-9


def test_confidence_is_low_where_the_background_is_invented_and_high_where_it_was_seen() -> None:
    places = where_crowded((36, 48))
    samples = crowded((36, 48), "uint8", empty=8)
    got = of(samples, "inpaint")
    assert got.confidence[~places].min() > 240
    assert got.confidence[places].max() <= round(0.2 * 255)  # the floor is there for a fifth of the time
    samples[:28, 10:20, 15:27] = 20  # asleep for seven tenths
    assert np.median(of(samples, "median").confidence[10:20, 15:27]) == pytest.approx(0.7 * 255, abs=1)


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
