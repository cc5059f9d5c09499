"""The synthetic scenes of the quality benchmark show what they say, and their truth is true."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import SCENES, Scene

LIT = 0.002  # a pixel that is covered by less than this is the empty place
SLEEPERS = ["asleep-40", "asleep-55", "asleep-70", "asleep-90", "camouflage", "shadows", "short"]


def watched(scene: Scene, numbers: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(H, W, 3) the mean of each pixel over the frames that show it empty, and (H, W) how many these are."""
    total = np.zeros((scene.height, scene.width, 3))
    seen = np.zeros((scene.height, scene.width), np.int64)
    for frame, covered in scene.rendered(numbers):
        empty = covered < LIT
        total += frame * empty[:, :, None]
        seen += empty
    return total / np.maximum(seen, 1)[:, :, None], seen


def shares(scene: Scene, step: int = 11) -> NDArray[np.float64]:
    """(H, W): the share of the frames in which each pixel is covered."""
    covers: Any = [covered > 0.5 for _, covered in scene.rendered(range(step - 1, scene.count, step))]
    share: NDArray[np.float64] = np.mean(covers, axis=0)
    return share


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_truth_is_the_mean_of_what_is_empty(name: str, seed: int) -> None:
    """Within seven standard errors of the noise at each of 230,000 values, and within 0.15 grey levels on the average.

    Light that changes all the time is looked at around its middle (drift) or has the mean of its gains (flicker).
    """
    scene = SCENES[name].variant(seed)
    numbers = [number for number in range(7, scene.count, 13) if scene.regime(number) == scene.main_regime]
    if scene.light == "drift":
        numbers = list(range(scene.count // 2 - 12, scene.count // 2 + 13))
    mean, seen = watched(scene, numbers)
    often = seen >= 8
    assert often.mean() > 0.4
    noise = 1.5 * scene.noise if scene.light == "day and night" else scene.noise
    unsure = 7 * noise / np.sqrt(np.maximum(seen, 1)) + 0.5  # the truth is rounded
    if scene.light in ("drift", "flicker"):  # at a pixel, a change of light and what walks by do not quite cancel out
        unsure = unsure + 5
    off = mean - scene.truth.astype(np.float64)
    assert (np.abs(off).max(axis=2) <= unsure)[often].all()
    assert abs(off[often].mean()) < (1.0 if scene.light == "flicker" else 0.15)


def test_the_same_parameters_give_the_same_frames() -> None:
    scene = SCENES["asleep-70"]
    alone = next(iter(scene.frames([321])))
    for first, second in zip(
        scene.frames(range(319, 323)), SCENES["asleep-70"].variant(1).frames(range(319, 323)), strict=True
    ):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(list(scene.frames([320, 321]))[1], alone)
    np.testing.assert_array_equal(scene.truth, SCENES["asleep-70"].variant(1).truth)


@pytest.mark.parametrize("name", SCENES)
def test_variants_are_other_instances(name: str) -> None:
    """Other places, not just other noise: over most of the picture the truths differ by more than 2 grey levels."""
    first, second = SCENES[name].truth.astype(int), SCENES[name].variant(2).truth.astype(int)
    assert first.shape == second.shape == (240, 320, 3)
    assert (np.abs(first - second).max(axis=2) > 2).mean() > 0.5


@pytest.mark.parametrize("name", SLEEPERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_animals_sleep_as_long_as_is_said(name: str, seed: int) -> None:
    """There is a place for each animal that is covered so often, and nearly none that is so much oftener."""
    scene = SCENES[name].variant(seed)
    share = shares(scene)
    assert (share >= scene.asleep - 0.02).any()
    count, _, stats, _ = cv2.connectedComponentsWithStats((share >= scene.asleep - 0.02).astype(np.uint8))
    beds = [stats[label] for label in range(1, count) if stats[label][cv2.CC_STAT_AREA] > 60]
    assert len(beds) == scene.animals
    assert (share > scene.asleep + 0.15).mean() < 0.002


@pytest.mark.parametrize("name", ["noise-2", "noise-6", "noise-14"])
def test_noise_has_the_stated_deviation(name: str) -> None:
    scene = SCENES[name]
    rendered = [(frame.astype(np.float64) - scene.truth, covered) for frame, covered in scene.rendered([50, 300, 550])]
    values = np.concatenate([off[covered < LIT].ravel() for off, covered in rendered])
    assert np.std(values) == pytest.approx(scene.noise, rel=0.03, abs=0.1)  # rounding adds 1/12 to the variance


@pytest.mark.parametrize("seed", [1, 2])
def test_the_crowd_covers_places_most_of_the_time(seed: int) -> None:
    assert (shares(SCENES["crowd"].variant(seed)) > 0.5).mean() > 0.005


@pytest.mark.parametrize(("name", "first"), [("light-step", 0.65), ("day-night-50", 0.5), ("day-night-70", 0.7)])
@pytest.mark.parametrize("seed", [1, 2])
def test_each_light_holds_as_long_as_is_said(name: str, first: float, seed: int) -> None:
    """In the frames themselves: those nearer to the truth of the first light are as many as stated."""
    scene = SCENES[name].variant(seed)
    levels = [scene.truth_in(regime).mean() for regime in (0, 1)]
    numbers = range(0, scene.count, 6)
    nearer = [abs(frame.mean() - levels[0]) < abs(frame.mean() - levels[1]) for frame in scene.frames(numbers)]
    expected = first if seed == 1 else 1 - first
    assert np.mean(nearer) == pytest.approx(expected, abs=0.02)
    assert scene.main_regime == int(expected < 0.5)
    np.testing.assert_array_equal(scene.truth, scene.truth_in(int(expected < 0.5)))


def test_the_night_is_grey_and_darker() -> None:
    scene = SCENES["day-night-50"]
    day, night = scene.frames([10, 290])
    assert (night.min(axis=2) == night.max(axis=2)).all()
    assert (day.min(axis=2) != day.max(axis=2)).mean() > 0.9
    assert night.mean() < 0.8 * day.mean()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_moved_object_is_where_it_stands_longer(seed: int) -> None:
    """The truth is like the first frames if it is moved late, and like the last ones if it is moved early."""
    scene = SCENES["moved"].variant(seed)
    shown = list(scene.frames([0, scene.count - 1]))
    boxes = [(np.abs(frame.astype(int) - scene.truth).max(axis=2) > 25).sum() for frame in shown]
    assert (boxes[0] < boxes[1]) == (seed % 2 == 1)
    assert 0.55 < np.mean([np.allclose(scene._box_at(n), scene._right_spot) for n in range(scene.count)]) < 0.62


def test_camouflaged_animals_hardly_differ_from_the_floor() -> None:
    off = {}
    for name in ("camouflage", "asleep-55"):
        scene = SCENES[name]
        frame, covered = next(iter(scene.rendered([300])))
        off[name] = float(np.abs(frame.astype(int) - scene.truth).mean(axis=2)[covered > 0.95].mean())
    assert 5 < off["camouflage"] < 0.4 * off["asleep-55"]


def test_plants_wave_over_a_part_of_the_picture() -> None:
    (first, covered), (second, covered_later) = SCENES["plants"].rendered([100, 108])
    waving, empty = covered > 0.5, np.maximum(covered, covered_later) < LIT
    assert 0.25 < waving.mean() < 0.5
    moving = np.abs(first.astype(int) - second).max(axis=2) > 12
    assert moving[waving].mean() > 0.2
    assert moving[empty].mean() < 0.001


def test_there_are_scenes_enough_of_every_kind() -> None:
    assert len(SCENES) >= 12
    assert len(SCENES["short"].sample_numbers) == 12
    assert {scene.light for scene in SCENES.values()} == {"steady", "drift", "step", "day and night", "flicker"}
    assert all(300 <= scene.count <= 600 and scene.name == name for name, scene in SCENES.items())
