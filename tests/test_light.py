"""A common light and regimes of light, from thumbnails of scenes whose light is known because it was put there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpu_bgstat.arena import Arena
from gpu_bgstat.backends import cpu
from gpu_bgstat.light import gain
from gpu_bgstat.light.regimes import MOST, regimes, stretches

Array = np.ndarray[Any, np.dtype[Any]]
PATCH = 8
ONE = 1 << 16
TYPES: Any = st.sampled_from([np.dtype("uint8"), np.dtype("uint16")])


@functools.cache
def film() -> tuple[Array, Array]:
    """The empty arena (144, 192, 3), and 60 samples of it with animals that sleep half of their time, float64."""
    arena = Arena(width=192, height=144, animals=3, asleep=0.5, noise=1.0)
    frames = [frame for number, frame in enumerate(arena.frames(600)) if number % 10 == 9]
    return arena.truth().astype(np.float64), np.stack(frames).astype(np.float64)


def under(light: Array, offset: Array | float = 0.0, dtype: str = "uint8") -> Array:
    """The samples with a factor and an offset each, (T, 3) or (T, 1)."""
    _, frames = film()
    offsets = np.broadcast_to(offset, (len(frames), 3))
    lit = frames * light[:, None, None, :] + offsets[:, None, None, :]
    samples: Array = np.clip(np.rint(lit), 0, np.iinfo(dtype).max).astype(dtype)
    return samples


def thumbnails(samples: Array) -> Array:
    """(T, H, W, 3) -> (T, H/8, W/8, 3): the mean of each patch, rounded."""
    count, height, width, channels = samples.shape
    patches = samples.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    means: Array = np.rint(patches.mean(axis=(2, 4))).astype(samples.dtype)
    return means


def matched(samples: Array) -> tuple[gain.Match, Array]:
    small = thumbnails(samples)
    match = gain.match(small, gain.reference(small))
    return match, cpu.lit(samples, match.light)


def median_error(samples: Array, truth: Array) -> float:
    return float(np.abs(np.median(samples, axis=0) - truth).mean())


# --- a common light ------------------------------------------------------------------------------------------------


def test_known_gains_and_offsets_are_found_in_spite_of_animals() -> None:
    """Each channel has its own; three of five samples keep the light that the truth was rendered in."""
    rng = np.random.default_rng(1)
    truth, frames = film()
    factor, offset = rng.uniform(0.5, 0.9, (60, 3)), rng.uniform(-15, 15, (60, 3))
    factor[12:48], offset[12:48] = 1, 0
    samples = under(factor, offset)
    match, common = matched(samples)
    assert match.matched.all()
    np.testing.assert_allclose(match.light.gains / ONE, 1 / factor, atol=0.01)
    for level in (60, 200):  # where the scene lies, half a level is the rounding of a thumbnail
        got = match.light.gains / ONE * (factor * level + offset) + match.light.offsets / ONE - 0.5
        np.testing.assert_allclose(got, level, atol=1.0)
    ideal = median_error(frames, truth)
    assert median_error(common, truth) <= ideal + 0.1
    assert median_error(samples, truth) >= ideal + 0.3  # or there was nothing to win


def test_constant_light_changes_nothing() -> None:
    """Not by a bit: noise and animals alone are no reason to touch a sample."""
    match, common = matched(under(np.ones((60, 1))))
    assert match.matched.all() and (match.light.gains == ONE).all() and (match.light.offsets == ONE // 2).all()
    assert np.array_equal(common, under(np.ones((60, 1))))


def test_the_reference_is_the_light_of_most_samples() -> None:
    """Of three lights none holds for half of the samples; the first holds for most, and is neither end nor middle."""
    factor = np.repeat([0.9, 0.5, 1.15], [25, 18, 17])[:, None]
    small = thumbnails(under(factor))
    empty = np.median(thumbnails(under(np.full((60, 1), 0.9))), axis=0)
    assert np.abs(gain.reference(small) - empty).mean() < 1.0
    match, _ = matched(under(factor))
    assert (match.light.gains[:25] == ONE).all()
    others = np.broadcast_to(0.9 / factor[25:], (35, 3))
    np.testing.assert_allclose(match.light.gains[25:] / ONE, others, atol=0.02)


def test_a_thing_that_was_moved_has_no_say() -> None:
    """A bright cover over a fifth of the picture, from the middle on, under light that changes."""
    rng = np.random.default_rng(2)
    factor = rng.uniform(0.7, 1.0, (60, 1))
    factor[:40] = 1
    samples = under(factor)
    samples[30:, :72, :76] = 230
    match, _ = matched(samples)
    assert match.matched.all()
    np.testing.assert_allclose(match.light.gains / ONE, np.broadcast_to(1 / factor, (60, 3)), atol=0.02)


def test_a_dark_surround_does_not_outvote_the_arena() -> None:
    """Seven eighths of the picture are flat and black as night; the light shows on the rest."""
    rng = np.random.default_rng(3)
    _, frames = film()
    scene = np.full((60, 144, 192, 3), 12.0)
    scene[:, 48:96, 64:136] = frames[:, 48:96, 64:136]
    factor = rng.uniform(0.6, 1.2, (60, 1, 1, 1))
    factor[:35] = 1
    samples = np.clip(np.rint(scene * factor + rng.normal(0, 1, scene.shape)), 0, 255).astype(np.uint8)
    match, _ = matched(samples)
    assert match.matched.all()
    np.testing.assert_allclose(match.light.gains / ONE, np.broadcast_to(1 / factor[:, 0, 0], (60, 3)), atol=0.03)


def test_clipped_patches_do_not_count() -> None:
    """Much of the floor of some samples is overexposed to white; the rest tells how much light there is."""
    factor = np.where(np.arange(60) % 4 == 0, 1.45, 1.0)[:, None]
    samples = under(factor)
    assert (samples[0] == 255).mean() > 0.1
    match, _ = matched(samples)
    assert match.matched.all()
    np.testing.assert_allclose(match.light.gains / ONE, np.broadcast_to(1 / factor, (60, 3)), atol=0.02)


def test_samples_without_the_scene_are_told_and_left_alone() -> None:
    """Black ones, and noise at the level of an infrared camera whose lamp went out."""
    rng = np.random.default_rng(4)
    samples = under(np.ones((60, 1)))
    samples[7] = 0
    samples[20:23] = np.clip(rng.normal(22, 3, samples[20:23].shape), 0, 255)
    samples[40] = 255
    match, common = matched(samples)
    assert np.flatnonzero(~match.matched).tolist() == [7, 20, 21, 22, 40]
    assert np.array_equal(common, samples)


def test_a_scene_without_contrast_is_matched_by_an_offset() -> None:
    rng = np.random.default_rng(5)
    offset = np.where(np.arange(60) < 40, 0, 17)[:, None, None, None]
    samples = np.clip(np.rint(rng.normal(120, 1.5, (60, 144, 192, 3)) + offset), 0, 255).astype(np.uint8)
    match, common = matched(samples)
    assert match.matched.all() and (match.light.gains == ONE).all()
    np.testing.assert_allclose(match.light.offsets / ONE - 0.5, np.broadcast_to(-offset[:, 0, 0], (60, 3)), atol=1)
    assert np.abs(common.mean(axis=(1, 2, 3)) - 120).max() < 1


def test_sixteen_bits_of_a_twelve_bit_camera() -> None:
    rng = np.random.default_rng(6)
    factor = rng.uniform(0.5, 1.2, (60, 1))
    factor[10:45] = 1
    samples = under(16 * factor, dtype="uint16")
    match, common = matched(samples)
    assert match.matched.all() and (match.light.gains[10:45] == ONE).all()
    np.testing.assert_allclose(match.light.gains / ONE, np.broadcast_to(1 / factor, (60, 3)), atol=0.01)
    assert np.abs(np.median(common, axis=0) / 16 - film()[0]).mean() < 0.5


@settings(deadline=None, max_examples=60)
@given(
    small=hnp.arrays(
        TYPES,
        st.tuples(st.integers(2, 12), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3])),
    ),
    seed=st.integers(0, 99),
)
def test_any_thumbnails_give_lights_within_the_contract_in_any_order(small: Array, seed: int) -> None:
    match = gain.match(small, gain.reference(small))
    assert match.light.gains.shape == match.light.offsets.shape == (len(small), small.shape[-1])
    assert match.light.gains.min() >= ONE // 8 and match.light.gains.max() <= 8 * ONE
    assert np.abs(match.light.offsets).max() <= 1 << 40
    order = np.random.default_rng(seed).permutation(len(small))
    again = gain.match(small[order], gain.reference(small))
    np.testing.assert_array_equal(again.light.gains, match.light.gains[order])
    np.testing.assert_array_equal(again.light.offsets, match.light.offsets[order])
    np.testing.assert_array_equal(again.matched, match.matched[order])


# --- regimes of light ----------------------------------------------------------------------------------------------


def scene(count: int, light: Callable[[int, Array], Array], seed: int = 0, asleep: bool = False) -> Array:
    """Thumbnails (count, 15, 20, 3) of a random scene: two dark animals of 3 x 3 patches, and noise.

    light   what becomes of the empty scene at sample t
    asleep  the first animal stays in one place for 40 samples at a time
    """
    rng = np.random.default_rng(seed)
    empty = rng.integers(30, 200, (15, 20, 3)).astype(float)
    out = np.empty((count, 15, 20, 3))
    for t in range(count):
        out[t] = light(t, empty.copy())
        for animal in range(2):
            y, x = int(rng.integers(0, 12)), int(rng.integers(0, 17))
            if asleep and animal == 0:
                y, x = (2, 2) if t // 40 % 2 else (9, 12)
            out[t, y : y + 3, x : x + 3] = 30
        out[t] += rng.normal(0, 0.5, out[t].shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def labels(found: Array) -> list[tuple[int, int]]:
    """(regime, samples) of each stretch"""
    return [(stretch.regime, stretch.last - stretch.first + 1) for stretch in stretches(found)]


@pytest.mark.parametrize("count", [30, 100, 600])
def test_day_and_night(count: int) -> None:
    day = count * 7 // 10
    found = regimes(scene(count, lambda t, empty: empty * (1 if t < day else 0.3)))
    assert labels(found) == [(1, day), (2, count - day)]


@pytest.mark.parametrize("count", [100, 600])
def test_dawn_belongs_to_neither(count: int) -> None:
    def light(t: int, empty: Array) -> Array:
        return empty * np.interp(t / count, [0.6, 0.66], [1, 0.3])

    (day, days), (none, dawn), (night, nights) = labels(regimes(scene(count, light)))
    assert (day, none, night) == (1, 0, 2) and days >= 0.58 * count and nights >= 0.32 * count
    assert 0.03 * count <= dawn <= 0.06 * count


@pytest.mark.parametrize("count", [60, 100, 600])
def test_three_lights_that_come_again(count: int) -> None:
    found = regimes(scene(count, lambda t, empty: empty * (1, 0.6, 0.25)[t * 6 // count % 3]))
    assert np.bincount(found)[0] == 0
    assert [regime for regime, _ in labels(found)] == [1, 2, 3, 1, 2, 3] or found.max() == 3
    for light in range(3):
        members = found[np.arange(count) * 6 // count % 3 == light]
        assert len(set(members.tolist())) == 1


def test_a_lamp_over_a_third_of_the_picture() -> None:
    def light(t: int, empty: Array) -> Array:
        if t // 20 % 2:
            empty[:10, :10] += 40
        return empty

    assert labels(regimes(scene(120, light))) == [(1, 20), (2, 20)] * 3


def test_the_infrared_of_the_night_is_as_bright_as_the_day() -> None:
    """But it has no colour."""

    def light(t: int, empty: Array) -> Array:
        return empty if t % 100 < 60 else np.repeat(empty.mean(axis=2, keepdims=True) * 0.5 + 55, 3, axis=2)

    assert labels(regimes(scene(200, light))) == [(1, 60), (2, 40)] * 2


@pytest.mark.parametrize("count", [12, 30, 100, 600])
@pytest.mark.parametrize(
    "light",
    {
        "constant": lambda t, count, rng: 1.0,
        "drift": lambda t, count, rng: 0.5 + 0.6 * t / count,
        "slow wave": lambda t, count, rng: 0.7 + 0.5 * np.sin(2 * np.pi * t / count),
        "flicker": lambda t, count, rng: 1 + 0.12 * np.sin(1.7 * t),
        "two levels by chance": lambda t, count, rng: rng.choice([0.94, 1.06]),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_makes_no_regime(light: tuple[str, Callable[[int, int, np.random.Generator], float]], count: int) -> None:
    rng = np.random.default_rng(8)
    assert labels(regimes(scene(count, lambda t, empty: empty * light[1](t, count, rng)))) == [(1, count)]


@pytest.mark.parametrize("count", [12, 30, 100, 600])
def test_any_level_by_chance_makes_no_regime(count: int) -> None:
    rng = np.random.default_rng(8)
    found = regimes(scene(count, lambda t, empty: empty * rng.uniform(0.5, 1.2)))
    assert found.max() == 1 and np.count_nonzero(found == 0) <= count / 10


@pytest.mark.parametrize("count", [30, 100, 600])
def test_an_animal_that_sleeps_here_and_there_is_no_regime(count: int) -> None:
    assert labels(regimes(scene(count, lambda t, empty: empty, asleep=True))) == [(1, count)]


def test_a_few_black_samples_belong_to_none() -> None:
    assert labels(regimes(scene(100, lambda t, empty: empty * (t >= 5)))) == [(0, 5), (1, 95)]


def test_at_most_eight_regimes() -> None:
    """Eleven lights in turn are there."""
    found = regimes(scene(440, lambda t, empty: empty * 0 + 10 + 22 * (t // 40)))
    assert found.max() == MOST


def test_sixteen_bits_have_the_same_regimes() -> None:
    def light(t: int, empty: Array) -> Array:
        return empty * (1 if t < 60 else 0.4)

    assert labels(regimes(scene(100, light).astype(np.uint16) * 16)) == [(1, 60), (2, 40)]


@settings(deadline=None, max_examples=60)
@given(
    small=hnp.arrays(
        TYPES,
        st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3])),
        elements=st.sampled_from([0, 20, 90, 200, 255]),
    )
)
def test_any_thumbnails_give_regimes_by_size(small: Array) -> None:
    found = regimes(small)
    sizes = np.bincount(found)[1:]
    assert len(found) == len(small) and len(sizes) <= MOST
    assert (sizes >= min(2, len(small))).all() and (np.diff(sizes) <= 0).all()
    assert [
        t for stretch in stretches(found) for t in [stretch.regime] * (stretch.last - stretch.first + 1)
    ] == found.tolist()
