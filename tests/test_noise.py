"""The sensor's noise and the automatic threshold, judged by scenes whose noise is known, and by real empty ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import recording
from numpy.typing import NDArray

from gpu_bgstat import Background, Config, estimate
from gpu_bgstat.frames import Noise

HEIGHT, WIDTH = 120, 160
RAMP = np.tile(np.linspace(40, 200, WIDTH), (HEIGHT, 1))  # (H, W) grey levels
AUTO = Config(every=1, method="median", max_samples=1000, threshold="auto", device="cpu")


def filmed(
    count: int,
    noise: NDArray[Any] | float,
    *,
    covered: float = 0.5,
    dtype: str = "uint8",
    scale: float = 1.0,
    scene: NDArray[Any] = RAMP,
) -> NDArray[Any]:
    """Samples (T, H, W); animals, 60 levels darker, visit each pixel of the left part in a fifth of them."""
    rng = np.random.default_rng(count)
    samples = scene + noise * rng.standard_normal((count, *scene.shape))
    visited = rng.random((count, *scene.shape)) < 0.2
    visited[:, :, round(covered * WIDTH) :] = False
    samples = (samples - 60 * visited) * scale
    return np.rint(samples).clip(0, np.iinfo(dtype).max).astype(dtype)


def free(background: Background, covered: float = 0.5) -> float:
    """The share of stable pixels where no animal ever is."""
    return float(background.stable[:, round(covered * WIDTH) :].mean())


@pytest.mark.parametrize("covered", [0.0, 0.5])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("count", [2, 3, 10, 100, 600])
def test_the_noise_is_found_beside_animals_on_half_of_the_arena(count: int, sigma: float, covered: float) -> None:
    got = estimate(filmed(count, sigma, covered=covered), AUTO)
    truth = np.sqrt(sigma**2 + 1 / 12)  # rounding adds a twelfth
    assert got.noise.sigma == pytest.approx(truth, rel=0.2)
    assert free(got, covered) >= 0.997
    if covered and count >= 100:
        assert not got.stable[:, : WIDTH // 2].any()  # 60 levels in a fifth of the samples: a variance of 576


def test_photon_noise_counts_where_it_is_largest() -> None:
    got = estimate(filmed(300, np.sqrt(0.05 * RAMP)), AUTO)
    assert got.noise.variances[0] == pytest.approx(0.05 * RAMP.max() + 1 / 12, rel=0.15)
    assert free(got) >= 0.997


@pytest.mark.parametrize("count", [2, 30])
def test_sixteen_bits(count: int) -> None:
    got = estimate(filmed(count, 1.0, dtype="uint16", scale=200.0), AUTO)
    assert got.noise.sigma == pytest.approx(200, rel=0.15)
    assert free(got) >= 0.997
    assert got.noise.tolerance == np.ceil(3 * got.noise.sigma)


def test_each_channel_has_its_own() -> None:
    got = estimate(np.stack([filmed(100, sigma) for sigma in (1.0, 2.0, 4.0)], axis=3), AUTO)
    assert np.sqrt(got.noise.variances) == pytest.approx([1.04, 2.02, 4.01], rel=0.15)
    assert free(got) >= 0.997
    for channel, threshold in enumerate(got.thresholds):  # each is just above what noise alone does in its channel
        quiet = got.variance[:, WIDTH // 2 :, channel]
        assert np.quantile(quiet, 0.99) < threshold < 2 * np.median(quiet)


@pytest.mark.parametrize("count", [2, 40])
def test_a_rendered_film_has_only_the_noise_of_rounding(count: int) -> None:
    got = estimate(filmed(count, 0.0), AUTO)
    assert got.thresholds == (0.25,)
    assert (got.noise.sigma, got.noise.tolerance, got.noise.width) == (0.0, 2, 5)
    visited = np.ptp(filmed(count, 0.0), axis=0) > 0
    np.testing.assert_array_equal(got.stable, ~visited)


def test_levels_that_toggle_are_stable() -> None:
    """A constant light between two levels: the variance of rounding is a quarter at most."""
    toggling = np.zeros((7, 9, 9), np.uint8) + 90
    toggling[::2, 3:5] += 1
    assert estimate(toggling, AUTO).stable.all()


def test_clipped_pixels_are_not_asked() -> None:
    """Three quarters of the arena are white: their noise is cut off, and that of the rest counts."""
    scene = np.where(np.arange(WIDTH) < WIDTH * 3 // 4, 259.0, RAMP)
    got = estimate(filmed(100, 3.0, covered=0.0, scene=scene), AUTO)
    assert got.noise.sigma == pytest.approx(3.0, rel=0.1)
    assert got.stable.mean() >= 0.997


def test_blocks_that_the_codec_copies_do_not_hide_the_noise_of_the_others() -> None:
    """40 % of 8 x 8 blocks never vary, another 20 % half as much as the rest."""
    rng = np.random.default_rng(1)
    kind = rng.random((HEIGHT // 8, WIDTH // 8)).repeat(8, axis=0).repeat(8, axis=1)
    got = estimate(filmed(100, np.select([kind < 0.4, kind < 0.6], [0.0, 1.0], 2.0), covered=0.0), AUTO)
    assert got.noise.sigma == pytest.approx(2.0, rel=0.2)
    assert got.stable.mean() >= 0.997


@pytest.mark.recordings
def test_an_empty_chamber_is_stable_everywhere() -> None:
    """Nothing moves, and compressed noise alone makes most pixels unstable at the usual threshold."""
    path = recording("animals/eztrack_Freezing_calibration.wmv")
    assert estimate(path, Config(every=5, threshold="auto", device="cpu")).stable.mean() >= 0.99
    assert estimate(path, Config(every=5, device="cpu")).stable.mean() < 0.5


def test_the_tolerance_and_the_width_follow_from_the_noise() -> None:
    noise = Noise((1.0, 4.0, 2.25), (0.0, 0.0, 0.0))
    assert (noise.sigma, noise.tolerance, noise.width) == (2.0, 6, 9)


def test_the_report_tells_the_thresholds(tmp_path: Path) -> None:
    got = estimate(filmed(20, 1.0), AUTO)
    got.save(tmp_path)
    assert f"variance at most {got.thresholds[0]:.3g} squared" in (tmp_path / "report.html").read_text()
    fixed = estimate(filmed(20, 1.0), AUTO.model_copy(update={"threshold": 9.0}))
    assert fixed.thresholds == (9.0,)
    assert fixed.noise == got.noise
