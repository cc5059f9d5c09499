"""Chosen samples, a common light, support and modes on the GPU, against the CPU's specification, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import STANDIN
from numpy.typing import NDArray
from test_backends import scene

from gpu_bgstat import FrameSpec
from gpu_bgstat.backends import cpu, gpu, kernels, placement
from gpu_bgstat.backends.backend import Choice, Light
from gpu_bgstat.backends.cuda import driver_free_bytes, visible
from gpu_bgstat.backends.placement import Placement, placements
from gpu_bgstat.backends.plain import Plain
from gpu_bgstat.backends.reading import Patches, Reading

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("memory_comes_back")]
Samples = NDArray[Any]
KINDS = ["ring", "split", "slabs", "file"]


def plan(kind: str, frames: Samples) -> Placement:
    """Of this kind, even where there is but one device: it then has both parts."""
    first = visible()[0]
    free = [(first.index, first.free_bytes)] * (2 if kind == "split" else 1)
    return next(p for p in placements(FrameSpec.of(frames[0]), len(frames), free, None) if p.kind == kind)


@contextmanager
def store(frames: Samples, kind: str = "ring") -> Iterator[gpu.GpuStore]:
    with closing(gpu.GpuStore(FrameSpec.of(frames[0]), plan(kind, frames), kind)) as filled:
        for slot, frame in enumerate(frames):
            filled.put(slot, frame)
        yield filled


def some_light(frames: Samples, seed: int = 0) -> Light:
    """Ordinary gains and offsets, and one slot each of the extremes that `Light` allows."""
    rng = np.random.default_rng(seed)
    count, channels = len(frames), frames.shape[3] if frames.ndim == 4 else 1
    top = int(np.iinfo(frames.dtype).max)
    gains = rng.integers(50_000, 90_000, (count, channels))
    offsets = rng.integers(-top << 13, top << 13, (count, channels)) + (1 << 15)
    extremes = [(0, 0), (0, 9 << 16), (1 << 20, 0), (1 << 16, -(1 << 40)), (1 << 16, 1 << 40), (1 << 20, -top << 18)]
    for slot, (gain, offset) in zip(range(count), extremes, strict=False):
        gains[slot], offsets[slot] = gain, offset
    return Light(gains, offsets)


def some_choice(frames: Samples, patch: int, most_key: int = 1 << 32, seed: int = 0) -> Choice:
    """Random keys; counts 0, 1 and all are among the patches'."""
    rng = np.random.default_rng(seed)
    count, height, width = frames.shape[:3]
    shape = -(-height // patch), -(-width // patch)
    counts = rng.integers(0, count + 1, shape)
    counts.flat[::2] = rng.choice([0, 1, count], counts.flat[::2].shape)
    return Choice(patch, rng.integers(0, most_key, (count, *shape)).astype(np.uint32), counts.astype(np.uint32))


def assert_all(store: gpu.GpuStore, frames: Samples, patch: int, light: Light | None) -> None:
    """Every operation, once, against the specification."""
    count = len(frames)
    lit = frames if light is None else cpu.lit(frames, light)
    choice, top = some_choice(frames, patch), int(np.iinfo(frames.dtype).max)
    for slots in (None, [count - 2, 0, count // 2]):
        those = lit if slots is None else lit[slots]
        ranks = [len(those) // 2, 0, len(those) - 1]
        reduced = store.reduce(count, ranks, light, slots)
        np.testing.assert_array_equal(reduced.ranks, cpu.ranks(those, ranks))
        np.testing.assert_array_equal(reduced.variance, cpu.variance(those))
    exact(store.select(count, choice, light), cpu.middles(lit, choice))
    for tolerance in (0, top // 60):
        exact(store.support(count, lit[1], tolerance, light), cpu.support(lit, lit[1], tolerance))
    exact(store.modes(count, top // 40, light), cpu.modes(lit, top // 40))


def exact(got: Samples, want: Samples) -> None:
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


@pytest.mark.parametrize("lit", [False, True], ids=["as they are", "lit"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_wherever_the_samples_lie(kind: str, dtype: str, lit: bool) -> None:
    """In colour, of odd sides; chunks begin within rows, patches reach over chunks and over the parts of a split."""
    frames = scene((17, 37, 29, 3), dtype, "visited")
    with store(frames, kind) as filled:
        assert_all(filled, frames, 5, some_light(frames) if lit else None)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("size, patch", [((21, 50), 4), ((5, 1), 8), ((3, 130), 16), ((40, 6, 3), 4), ((8, 16, 3), 16)])
def test_every_operation_on_odd_shapes(size: tuple[int, ...], patch: int, dtype: str) -> None:
    frames = scene((7, *size), dtype, "noise")
    with store(frames) as filled:
        assert_all(filled, frames, patch, some_light(frames))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cupy_alone_gives_the_same(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Kernels", Plain)
    frames = scene((9, 14, 11, 3), dtype, "visited")
    with store(frames) as filled:
        assert_all(filled, frames, 5, some_light(frames))


@pytest.mark.parametrize("engine", [kernels.Kernels, Plain])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_of_equal_keys_the_lower_slot_comes_first(
    engine: type[Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few keys, then one: the first samples of each patch count."""
    monkeypatch.setattr(gpu, "Kernels", engine)
    frames = scene((21, 9, 13), dtype, "uniform")
    with store(frames) as filled:
        for most_key in (3, 1):
            choice = some_choice(frames, 4, most_key)
            exact(filled.select(21, choice), cpu.middles(frames, choice))
        exact(filled.select(21, replace(choice, counts=np.full_like(choice.counts, 1)))[0], frames[0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_none_or_all_count(dtype: str) -> None:
    frames = scene((12, 10, 40, 3), dtype, "noise")
    choice = some_choice(frames, 8)
    with store(frames) as filled:
        nobody = filled.select(12, replace(choice, counts=np.zeros_like(choice.counts)))
        everybody = filled.select(12, replace(choice, counts=np.full_like(choice.counts, 12)))
        exact(everybody, filled.reduce(12, [5, 6]).ranks)
    assert not nobody.any()


@pytest.mark.parametrize("dtype, count", [("uint8", 1030), ("uint16", 520)])
def test_more_samples_than_one_word_of_the_mask_has(dtype: str, count: int) -> None:
    """32 rows of each warp share a word; the statistics have 32 and 16 warps."""
    frames = scene((count, 5, 9), dtype, "uniform")
    choice = some_choice(frames, 4, 700)
    with store(frames) as filled:
        exact(filled.select(count, choice), cpu.middles(frames, choice))
        exact(filled.support(count, frames[0], 40), cpu.support(frames, frames[0], 40))


def test_fewer_samples_than_slots() -> None:
    """The estimate is asked for while the ring is filling: what lies in the other slots is not looked at."""
    frames = scene((11, 8, 20, 3), "uint8", "uniform")
    with store(frames) as filled:
        assert_all(filled, frames[:6], 4, some_light(frames[:6]))
        assert_all(filled, frames, 4, some_light(frames))


@pytest.mark.parametrize("kind", ["ring", "split", "slabs"])
def test_keys_that_do_not_fit_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no more memory than one line of values needs, a frame is reduced in many pieces."""
    frames = scene((9, 47, 31, 3), "uint8", "visited")
    monkeypatch.setattr(placement, "_MOST_WORK_BYTES", 0)
    shares = plan(kind, frames).shares
    assert all(share.values > 3 * share.values_for(4, 9) for share in shares)
    with store(frames, kind) as filled:
        for patch in (4, 16):
            choice = some_choice(frames, patch)
            exact(filled.select(9, choice), cpu.middles(frames, choice))
        exact(filled.support(9, frames[2], 3), cpu.support(frames, frames[2], 3))


@pytest.mark.parametrize("engine", [kernels.Kernels, Plain])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("content", ["visited", "uniform", "top"])
def test_modes_of_any_width(content: str, dtype: str, engine: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One level, some, all of them, and more; of equally dense intervals the lowest."""
    monkeypatch.setattr(gpu, "Kernels", engine)
    frames = scene((8, 6, 30), dtype, content)
    with store(frames) as filled:
        for width in (1, 2, 31, 1 << 8, 1 << 16, 1 << 20):
            exact(filled.modes(8, width), cpu.modes(frames, width))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_support_at_both_ends_of_the_levels(dtype: str) -> None:
    frames = scene((13, 4, 40), dtype, "uniform")
    top = int(np.iinfo(dtype).max)
    with store(frames) as filled:
        for level in (0, top):
            image = np.full_like(frames[0], level)
            for tolerance in (0, 1, top // 2, top, 1 << 20):
                exact(filled.support(13, image, tolerance), cpu.support(frames, image, tolerance))


def test_the_samples_stay_as_they_are() -> None:
    frames = scene((10, 12, 20, 3), "uint8", "noise")
    light = some_light(frames)
    with store(frames) as filled:
        assert_all(filled, frames, 4, light)
        filled.put(3, frames[4])
        frames[3] = frames[4]
        exact(filled.reduce(10, [4, 5]).ranks, cpu.ranks(frames, [4, 5]))


@pytest.mark.parametrize("engine", [kernels.Kernels, Plain])
def test_arrays_of_cupy_give_their_memory_back(engine: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles in a common light are arrays of their own; those that outlived their pool would be lost."""
    monkeypatch.setattr(gpu, "Kernels", engine)
    frames = scene((12, 30, 40, 3), "uint16", "noise")
    light, choice, device = some_light(frames), some_choice(frames, 8), visible()[0].index
    with store(frames) as filled:
        for round in range(2):
            filled.modes(12, 300, light)
            filled.select(12, choice, light)
            filled.support(12, frames[0], 5, light)
            if round == 0:
                free = driver_free_bytes(device)
        if STANDIN:  # elsewhere, other processes come and go
            assert driver_free_bytes(device) == free


def test_variants_are_compiled_only_when_asked_for() -> None:
    frames = scene((5, 6, 7), "uint8", "noise")
    kernels._loaded.clear()
    with store(frames) as filled:
        filled.reduce(5, [2])
        assert [key[2] for key in kernels._loaded] == ["statistics_u8"]
        filled.select(5, some_choice(frames, 4))
        assert sorted(key[2] for key in kernels._loaded) == ["chosen", "statistics_u8", "statistics_u8"]


SAMPLES, SHAPE = (128, 128), (5, 100)
PATCHES = Patches(keys=0, counts=0, mask=0, width=20, side=4, top=0, total=10)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda engine: engine.modes(SAMPLES, SHAPE, 0, 0, Reading()), "an interval of 0 levels"),
        (lambda engine: engine.support(SAMPLES, SHAPE, (0, -1), 0, Reading()), "a tolerance of -1 levels"),
        (lambda engine: engine.support(SAMPLES, SHAPE, (0, 1), 0, Reading(channels=2)), "channels=2"),
        (lambda engine: engine.modes(SAMPLES, SHAPE, 5, 0, Reading(first=-1)), "first=-1"),
        (lambda engine: engine.modes((64, 128), SHAPE, 5, 0, Reading()), "samples at 0x40"),
        (lambda engine: engine.middles(SAMPLES, SHAPE, PATCHES, 0, Reading(first=61)), "they reach beyond"),
        (lambda engine: engine.middles(SAMPLES, SHAPE, replace(PATCHES, top=1), 0, Reading()), "they reach beyond"),
    ],
)
def test_the_wrapper_checks_what_a_launch_does_not(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(kernels.Kernels(visible()[0].index, np.dtype(np.uint8)))
