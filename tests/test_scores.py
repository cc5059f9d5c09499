"""The six scores: small cases worked by hand, plain loops, and figures of scikit-image."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import recording
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_bgstat.cli import main
from gpu_bgstat.errors import FrameError
from gpu_bgstat.scores import SCALE_WEIGHTS, clustered, ms_ssim, score, ssim_maps


def grey(*rows: list[int], dtype: type[np.uint8 | np.uint16] = np.uint8) -> NDArray[Any]:
    return np.array(rows, dtype)


def textured() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two pictures (180, 240) that any program can make again."""
    y, x = np.mgrid[0:180, 0:240]
    return ((x * 7 + y * 3) % 256).astype(np.uint8), ((x * 7 + y * 3 + (x * y) % 37) % 256).astype(np.uint8)


def test_age_peps_and_psnr_worked_by_hand() -> None:
    """Errors 0, 20, 21, 39: mean 20, two above 20, mean square (400 + 441 + 1521) / 4 = 590.5."""
    scores = score(grey([10, 30], [21, 0]), grey([10, 10], [0, 39]))
    assert scores.age == 20
    assert scores.peps == 0.5
    assert scores.psnr_db == pytest.approx(10 * math.log10(65025 / 590.5), abs=1e-12)
    assert scores.ms_ssim is None
    assert scores.cqm_db is None


def test_grey_is_opencvs() -> None:
    """Pure blue, green, red of 200 are 23, 117 and 60: 0.114, 0.587 and 0.299 of it, rounded."""
    colour = np.zeros((1, 3, 3), np.uint8)
    colour[0, [0, 1, 2], [0, 1, 2]] = 200
    assert score(colour, np.zeros_like(colour)).age == pytest.approx((23 + 117 + 60) / 3)


def test_clustered_worked_by_hand() -> None:
    """Of the cross only the middle has four wrong neighbours; the block's corner has just two, and both are wrong."""
    wrong = grey(
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ).astype(bool)
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(clustered(wrong))), strict=True)) == [(0, 0), (2, 4)]
    assert score(wrong.astype(np.uint8) * 21, np.zeros((5, 6), np.uint8)).pceps == pytest.approx(2 / 30)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_clustered_is_what_a_loop_finds(height: int, width: int, seed: int) -> None:
    wrong = np.random.default_rng(seed).random((height, width)) < 0.7
    expected = np.zeros_like(wrong)
    for y in range(height):
        for x in range(width):
            around = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            expected[y, x] = all(wrong[j, i] for j, i in around if 0 <= j < height and 0 <= i < width)
    np.testing.assert_array_equal(clustered(wrong), expected)


def test_cqm_worked_by_hand() -> None:
    """One pixel, R G B = 100 50 20 against 90 50 30.

    Y = ⌊220 / 4⌋ = 55 both; U = 50 against 40; V = −30 against −20 (as unsigned numbers, both would be 0).
    """
    one, other = np.array([[[20, 50, 100]]], np.uint8), np.array([[[30, 50, 90]]], np.uint8)
    chroma = 10 * math.log10(65025 / 100)
    assert score(one, other).cqm_db == pytest.approx(0.9449 * 99 + 0.0551 * chroma, abs=1e-9)


def test_the_luma_of_cqm_is_truncated() -> None:
    """R G B = 3 0 0 has Y = ⌊3 / 4⌋ = 0, as black has; U differs by 3, V by nothing."""
    one, black = np.array([[[0, 0, 3]]], np.uint8), np.zeros((1, 1, 3), np.uint8)
    expected = 0.9449 * 99 + 0.0551 * (10 * math.log10(65025 / 9) + 99) / 2
    assert score(one, black).cqm_db == pytest.approx(expected, abs=1e-9)


def test_ssim_is_that_of_scikit_image() -> None:
    """structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False) of scikit-image 0.26."""
    one, other = textured()
    luminance, structure = ssim_maps(one.astype(float), other.astype(float), 11)
    assert float((luminance * structure).mean()) == pytest.approx(0.510575566283702, abs=1e-12)
    assert score(one, other).psnr_db == pytest.approx(12.034237206628532, abs=1e-12)


@pytest.mark.parametrize(("height", "width", "side"), [(176, 180, 11), (175, 181, 10), (33, 47, 2)])
def test_ms_ssim_is_what_plain_sums_give(height: int, width: int, side: int) -> None:
    """Windows, scales and weights written out again, without filters; odd sizes repeat the last row."""
    rng = np.random.default_rng(height)
    truth: Any = cv2.GaussianBlur(rng.integers(0, 256, (height, width)).astype(np.float64), (0, 0), 2)
    estimate: Any = truth + rng.normal(0, 6, truth.shape)
    offsets = [number - (side - 1) / 2 for number in range(side)]
    window = np.array([[math.exp(-(a * a + b * b) / 4.5) for a in offsets] for b in offsets])
    window /= window.sum()
    product, one, other = 1.0, estimate, truth
    for scale, weight in enumerate(SCALE_WEIGHTS):
        cells = [np.lib.stride_tricks.sliding_window_view(picture, (side, side)) for picture in (one, other)]
        means = [(cell * window).sum(axis=(2, 3)) for cell in cells]
        off = [cell - mean[:, :, None, None] for cell, mean in zip(cells, means, strict=True)]
        variances = [(part**2 * window).sum(axis=(2, 3)) for part in off]
        covariance = (off[0] * off[1] * window).sum(axis=(2, 3))
        value = (2 * covariance + 58.5225) / (variances[0] + variances[1] + 58.5225)
        if scale == 4:
            value *= (2 * means[0] * means[1] + 6.5025) / (means[0] ** 2 + means[1] ** 2 + 6.5025)
        product *= float(value.mean()) ** weight
        one, other = (
            np.array(
                [
                    [picture[y : y + 2, x : x + 2].mean() for x in range(0, picture.shape[1], 2)]
                    for y in range(0, picture.shape[0], 2)
                ]
            )
            for picture in (one, other)
        )
    assert ms_ssim(estimate, truth) == pytest.approx(product, abs=1e-9)


def test_equal_pictures_have_perfect_scores() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 80, 3), np.uint8)
    scores = score(picture, picture)
    assert (scores.age, scores.peps, scores.pceps, scores.psnr_db) == (0, 0, 0, 99)
    assert scores.cqm_db == pytest.approx(99)
    assert scores.ms_ssim == pytest.approx(1)


def test_inverted_structure_is_no_similarity_at_all() -> None:
    picture = textured()[0]
    assert score(255 - picture, picture).ms_ssim == 0


@pytest.mark.parametrize(("sides", "there"), [((31, 200), False), ((32, 200), True)])
def test_ms_ssim_needs_32_pixels(sides: tuple[int, int], there: bool) -> None:
    picture = np.random.default_rng(1).integers(0, 256, sides, np.uint8)
    assert (score(picture, picture).ms_ssim is not None) == there


def test_16_bits_count_as_255() -> None:
    """Multiples of 257 are the levels of 8 bits exactly; what lies between is not rounded."""
    eight = [np.random.default_rng(seed).integers(0, 256, (40, 50), np.uint8) for seed in (1, 2)]
    sixteen = [picture.astype(np.uint16) * 257 for picture in eight]
    expected = score(*eight)
    assert score(*sixteen) == expected
    assert score(eight[0], sixteen[1]) == expected
    assert score(sixteen[0], eight[1]) == expected
    assert score(grey([128, 0], dtype=np.uint16), grey([0, 0], dtype=np.uint16)).age == pytest.approx(64 / 257)
    colours = [np.random.default_rng(seed).integers(0, 65536, (40, 50, 3), np.uint16) for seed in (3, 4)]
    coarse = [(picture // 257).astype(np.uint8) for picture in colours]
    assert score(*colours).cqm_db == pytest.approx(score(*coarse).cqm_db, abs=0.1)


def test_grey_against_colour_is_compared_in_grey() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    scores = score(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), colour)
    assert scores.age == 0
    assert scores.cqm_db is None
    assert score(np.dstack([colour, colour[:, :, 0]]), colour).cqm_db == pytest.approx(99)  # alpha is dropped


def test_what_cannot_be_compared_is_told() -> None:
    small, large = np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8)
    with pytest.raises(FrameError, match="estimate has 5x4 pixels, the truth 6x4: give pictures of one size"):
        score(small, large)
    with pytest.raises(FrameError, match="truth has the type float32"):
        score(small, small.astype(np.float32))


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_compares_a_folder_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimate, truth = textured()
    (tmp_path / "out").mkdir()
    cv2.imwrite(str(tmp_path / "out" / "background_est.png"), estimate)
    cv2.imwrite(str(tmp_path / "truth.png"), truth)
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "truth.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == score(estimate, truth).as_dict()
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "truth.png")]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["AGE", "pEPs", "pCEPs", "PSNR", "MS-SSIM", "CQM"]
    assert f"{score(estimate, truth).age:.3f}" in printed
    assert "–" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing.png", "missing.png is no file"),
        ("empty", "background_est.png is no file"),
        ("text.png", "text.png cannot be read as a picture"),
        ("half.png", "half.png cannot be read as a picture"),
        ("small.png", "the estimate has 9x7 pixels, the truth 240x180"),
    ],
)
def test_the_command_says_what_is_wrong(
    name: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "truth.png"), textured()[1])
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((7, 9), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes((tmp_path / "truth.png").read_bytes()[:-40])
    assert main(["compare", str(tmp_path / name), str(tmp_path / "truth.png")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert complaint in output.err
    assert output.err.count("\n") == 1


@pytest.mark.recordings
def test_hall_and_monitor_has_the_known_scores() -> None:
    """The temporal median of the SBI sequence: AGE 3.13, pEPs 1.07 %, as the recordings' README has it."""
    folder = recording("ground_truth/HallAndMonitor")
    frames: list[Any] = [cv2.imread(str(path)) for path in sorted((folder / "PNG").glob("*.png"))]
    truth: Any = cv2.imread(str(folder / "GT_HallAndMonitor.png"))
    scores = score(np.median(np.stack(frames), axis=0).astype(np.uint8), truth)
    assert scores.age == pytest.approx(3.13, abs=0.005)
    assert scores.peps == pytest.approx(0.0107, abs=5e-5)
