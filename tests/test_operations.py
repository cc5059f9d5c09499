"""Chosen samples, a common light, support and modes: what a store finds is what `cpu.py` specifies, on each device."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_backends import scene, store

from gpu_bgstat import FrameSpec
from gpu_bgstat.backends import cpu
from gpu_bgstat.backends.backend import Choice, Light
from gpu_bgstat.backends.scratch import Layout, Scratch, opened

DTYPES = ["uint8", "uint16"]
SIZES = [(7, 19), (5, 13, 3), (16, 24, 3), (17, 41, 3), (1, 1)]


def choice_of(frames: Any, patch: int, seed: int, counts: str = "any") -> Choice:
    rng = np.random.default_rng(seed)
    grid = -(-frames.shape[1] // patch), -(-frames.shape[2] // patch)
    keys = rng.integers(0, 5 if seed % 2 else 1 << 32, (len(frames), *grid), dtype=np.uint32)
    if counts == "equal":
        wanted = np.full(grid, max(1, len(frames) // 4))
    elif counts == "mostly all":
        wanted = np.where(rng.random(grid) < 0.7, len(frames), rng.integers(0, len(frames) + 1, grid))
    else:
        wanted = rng.integers(0, len(frames) + 1, grid) * (rng.random(grid) < 0.7)
    return Choice(patch, keys, wanted.astype(np.uint32))


def light_of(frames: Any, seed: int) -> Light:
    rng = np.random.default_rng(seed)
    shape = len(frames), 1 if frames.ndim == 3 else 3
    top = int(np.iinfo(frames.dtype).max)
    gains = rng.choice([0, 65536, 1 << 20, 60000, 71234], shape)
    return Light(gains.astype(np.int64), rng.integers(-top * 65536, top * 65536, shape) // 4 + 32768)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [2, 3, 61, 130])
@pytest.mark.parametrize("patch", [4, 5, 8, 16])
def test_chosen_samples(device: str, patch: int, count: int, dtype: str) -> None:
    for seed, size in enumerate(SIZES):
        frames = scene((count, *size), dtype, "visited", seed)
        light = light_of(frames, seed)
        with store(device, frames) as filled:
            for counts in ("any", "equal", "mostly all"):
                choice = choice_of(frames, patch, seed, counts)
                np.testing.assert_array_equal(filled.select(count, choice), cpu.middles(frames, choice))
            np.testing.assert_array_equal(
                filled.select(count, choice, light), cpu.middles(cpu.lit(frames, light), choice)
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [2, 61, 300])
def test_a_common_light_and_some_slots(device: str, count: int, dtype: str) -> None:
    rng = np.random.default_rng(count)
    for seed, size in enumerate(SIZES):
        frames = scene((count, *size), dtype, "uniform", seed)
        light = light_of(frames, seed)
        slots = rng.permutation(count)[: max(1, count // 3)].tolist()
        lit = cpu.lit(frames, light)
        with store(device, frames) as filled:
            for given_light, given_slots, want in [
                (light, None, lit),
                (None, slots, frames[slots]),
                (light, slots, lit[slots]),
            ]:
                wanted = [0, len(want) // 2]
                got = filled.reduce(count, wanted, given_light, given_slots)
                np.testing.assert_array_equal(got.ranks, cpu.ranks(want, wanted))
                np.testing.assert_array_equal(got.variance, cpu.variance(want))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("content", ["uniform", "noise", "visited", "extreme"])
def test_support_and_modes(device: str, content: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    some = device == "cpu" or dtype == "uint8"  # on the stand-in, each step of a sort takes its time
    for seed, size in enumerate(SIZES if some else SIZES[1:2]):
        for count in (2, 3, 64, 131) if some else (3, 64):
            frames = scene((count, *size), dtype, content, seed)
            image = frames[rng.integers(count)]
            light = light_of(frames, seed)
            lit = cpu.lit(frames, light)
            with store(device, frames) as filled:
                for tolerance in (0, 2, 60, 300):
                    near = filled.support(count, image, tolerance)
                    np.testing.assert_array_equal(near, cpu.support(frames, image, tolerance))
                    assert near.dtype == np.uint16
                np.testing.assert_array_equal(filled.support(count, image, 9, light), cpu.support(lit, image, 9))
                for width in (1, 2, 9, 255):
                    np.testing.assert_array_equal(filled.modes(count, width), cpu.modes(frames, width))
                np.testing.assert_array_equal(filled.modes(count, 7, light), cpu.modes(lit, 7))


def test_only_the_first_slots_count(device: str) -> None:
    """A ring that is not full yet, or was thinned."""
    frames = scene((20, 9, 14, 3), "uint8", "uniform")
    choice, light = choice_of(frames, 4, 2, "equal"), light_of(frames, 2)
    some = Choice(4, choice.keys, np.minimum(choice.counts, 3))
    with store(device, frames) as filled:
        kept = frames[:7]
        short = Choice(4, some.keys[:7], some.counts)
        np.testing.assert_array_equal(filled.select(7, short), cpu.middles(kept, short))
        np.testing.assert_array_equal(filled.support(7, frames[0], 40), cpu.support(kept, frames[0], 40))
        np.testing.assert_array_equal(filled.modes(7, 30), cpu.modes(kept, 30))
        few = Light(light.gains[:7], light.offsets[:7])
        np.testing.assert_array_equal(filled.reduce(7, [3], few).ranks, cpu.ranks(cpu.lit(kept, few), [3]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 40),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    colour=st.booleans(),
    patch=st.integers(4, 17),
    seed=st.integers(0, 99),
)
def test_a_scratch_file_cut_anywhere(
    tmp_path: Path, count: int, height: int, width: int, colour: bool, patch: int, seed: int
) -> None:
    """Tiles of a file begin in the middle of rows, of patches and of pixels."""
    frames = scene((count, height, width, 3) if colour else (count, height, width), "uint8", "visited", seed)
    spec = FrameSpec.of(frames[0])
    layout = Layout(count, spec, tile_bytes=1)
    choice, light = choice_of(frames, patch, seed), light_of(frames, seed)
    with closing(cpu.ScratchStore(Scratch(opened(tmp_path / "samples"), "here", layout), spec)) as filled:
        for slot, frame in enumerate(frames):
            filled.put(slot, frame)
        lit = cpu.lit(frames, light)
        np.testing.assert_array_equal(filled.select(count, choice, light), cpu.middles(lit, choice))
        np.testing.assert_array_equal(filled.reduce(count, [0], light).ranks, cpu.ranks(lit, [0]))
        np.testing.assert_array_equal(filled.support(count, frames[0], 9, light), cpu.support(lit, frames[0], 9))
        np.testing.assert_array_equal(filled.modes(count, 9, light), cpu.modes(lit, 9))
