"""Every recording, the median of both presets, grey and colour: the estimate equals the oracle, bit for bit."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import recording
from oracle import estimate as expected
from oracle import read, sampled

from gpu_bgstat import Config, estimate
from gpu_bgstat.cli import main
from gpu_bgstat.demo import error_against

PICTURES = ["background_est.png", "background_var.png", "stable_mask.png"]
ANIMALS = [
    "dlc_openfield_m3v1mp4.mp4",
    "ethoscope_arena_10x2_sortTubes.mp4",
    "eztrack_Freezing_calibration.wmv",
    "freeclimber_w1118_m_2_1.avi",
    "freeclimber_w1118_m_2_1.h264",
    "freeclimber_w1118_m_2_1.mov",
    "freeclimber_w1118_m_2_1.mp4",
    "idtrackerai_test_A.avi",
    "idtrackerai_test_B.avi",
    "sleap_flies_20190128_113421.120s.mp4",
    "tracktor_mouse_video.mp4",
    "tracktorlive_ant.mp4",
]
NAMES = [
    *(f"animals/{name}" for name in ANIMALS),
    "people/opencv_vtest.avi",
    "people/bgslib_video.avi",
    "ground_truth/HallAndMonitor/PNG",
    "stacks/imageio_calcium_imaging.tif",
    "stacks/trackpy_stuck.tif",
    "stacks/larval_multi",
]
EVERY = {
    "animals/tracktor_mouse_video.mp4": 100,
    "animals/eztrack_Freezing_calibration.wmv": 7,
    "stacks/larval_multi": 1,
    "stacks/trackpy_stuck.tif": 1,
}
LIMIT = 30


@pytest.mark.recordings
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_oracle(name: str) -> None:
    """Indices, background, variance, stable mask and heat map; `max_samples` is small enough to bite."""
    every = EVERY.get(name, 29)
    total, frames = read(recording(name), every)
    for preset, gray in product(["default", "cassette"], [False, True]):
        limit = min(LIMIT, max(2, len(frames) - 1))
        config = Config.preset(preset, every=every, max_samples=limit, method="median", gray=gray)
        indices = sampled(total, every, config.max_samples, config.keep)
        want = expected([frames[k] for k in indices], gray=gray, threshold=config.threshold, fill=config.fill)
        got = estimate(recording(name), config)
        assert [sample.index for sample in got.samples] == indices
        assert got.run.frames_seen == total
        for field, array in want.items():
            np.testing.assert_array_equal(getattr(got, field), array, err_msg=f"{name} {preset} gray={gray} {field}")
            assert getattr(got, field).dtype == array.dtype


@pytest.mark.recordings
def test_the_command_on_the_mouse(tmp_path: Path) -> None:
    """The cassette's preset untouched, through the command and the files that it writes."""
    mouse = recording("animals/tracktor_mouse_video.mp4")
    assert main(["estimate", str(mouse), "-o", str(tmp_path), "--preset", "cassette", "--quiet"]) == 0
    total, frames = read(mouse, 100)
    indices = sampled(total, 100, 600, "recent")
    want = expected([frames[k] for k in indices], gray=False, threshold=4.0, fill="global")
    written = {name: cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED) for name in PICTURES}
    np.testing.assert_array_equal(written["background_est.png"], want["background"])
    np.testing.assert_array_equal(written["background_var.png"], want["heatmap"])
    np.testing.assert_array_equal(written["stable_mask.png"], want["stable"] * np.uint8(255))
    np.testing.assert_array_equal(np.load(tmp_path / "variance.npy"), want["variance"])


@pytest.mark.recordings
def test_the_published_background_of_hall_and_monitor() -> None:
    """The figures that the recordings' README states for the median: AGE 3.13, pEPs 1.07 %."""
    truth = np.asarray(cv2.imread(str(recording("ground_truth/HallAndMonitor/GT_HallAndMonitor.png"))))
    got = estimate(recording("ground_truth/HallAndMonitor/PNG"), Config(every=1, method="median")).background
    age, wrong = error_against(got, truth)
    assert age == pytest.approx(3.13, abs=0.01)
    assert 100 * wrong == pytest.approx(1.07, abs=0.01)
