"""One test body on every backend: what the CPU and the GPU compute is what the oracle computes, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import estimate as expected
from oracle import sampled

from gpu_bgstat import Background, BackgroundEstimator, Config, FrameSpec, estimate
from gpu_bgstat.backends import cpu, placement, select
from gpu_bgstat.backends.backend import Store

Samples = NDArray[Any]
FIELDS = ("background", "variance", "stable", "heatmap")


def scene(shape: tuple[int, ...], dtype: str, content: str, seed: int = 0) -> Samples:
    """Frames (T, H, W[, 3])."""
    rng = np.random.default_rng(seed)
    top = int(np.iinfo(dtype).max)
    if content == "uniform":
        frames = rng.integers(0, top + 1, shape)
    elif content == "noise":
        frames = np.clip(rng.normal(top * 0.4, 3, shape), 0, top)
    elif content == "visited":
        frames = np.where(rng.random(shape) < 0.3, rng.integers(0, top // 4, shape), top - rng.integers(0, 5, shape))
    else:
        frames = np.full(shape, top)
    return frames.astype(dtype)


def assert_equal(got: Background, want: dict[str, Any]) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field), want[field], err_msg=field)
        assert getattr(got, field).dtype == want[field].dtype, field


@contextmanager
def store(device: str, frames: Samples) -> Iterator[Store]:
    """A store that these frames have been put into."""
    spec = FrameSpec.of(frames[0])
    with closing(select(device).store(len(frames), spec)) as filled:
        for slot, frame in enumerate(frames):
            filled.put(slot, frame)
        yield filled


@pytest.mark.parametrize("content", ["uniform", "noise", "visited", "extreme"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("count", [2, 3, 16, 17, 64, 65, 257])
def test_every_field_equals_the_oracle(device: str, count: int, dtype: str, content: str) -> None:
    """Both presets, grey and colour, odd sizes, and the threshold where the noise is."""
    for size, gray in product([(7, 19), (5, 13, 3)], [False, True]):
        frames = scene((count, *size), dtype, content)
        for preset in ("default", "cassette"):
            config = Config.preset(preset, every=1, method="median", gray=gray, threshold=9.0, device=device)
            got = estimate(frames, config)
            assert_equal(got, expected(list(frames), gray=gray, threshold=9.0, fill=config.fill))
            assert got.run.device.startswith(device)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(2, 80),
    height=st.integers(1, 12),
    width=st.integers(1, 40),
    colour=st.booleans(),
    dtype=st.sampled_from(["uint8", "uint16"]),
    content=st.sampled_from(["uniform", "noise", "visited", "extreme"]),
    every=st.integers(1, 3),
    limit=st.integers(2, 60),
    keep=st.sampled_from(["recent", "spread"]),
)
def test_any_shape_and_schedule(
    device: str,
    count: int,
    height: int,
    width: int,
    colour: bool,
    dtype: str,
    content: str,
    every: int,
    limit: int,
    keep: str,
) -> None:
    frames = scene((count, height, width, 3) if colour else (count, height, width), dtype, content, count)
    config = Config(every=every, max_samples=limit, keep=keep, method="median", device=device)
    indices = sampled(count, every, limit, keep)
    if len(indices) < 2:
        return
    got = estimate(frames, config)
    assert [sample.index for sample in got.samples] == indices
    assert_equal(got, expected([frames[k] for k in indices], gray=False, threshold=4.0, fill="median"))


@pytest.mark.parametrize("keep", ["recent", "spread"])
def test_a_ring_that_overflows_and_goes_on_after_finalize(device: str, keep: str) -> None:
    """The length is not known: the ring wraps around or is thinned, and each background is that of its samples."""
    frames = scene((90, 6, 11, 3), "uint8", "visited")
    with BackgroundEstimator(Config(every=1, max_samples=16, keep=keep, method="median", device=device)) as estimator:
        for number, frame in enumerate(frames, 1):
            estimator.collect(frame)
            if number in (2, 15, 16, 17, 40, 90):
                got = estimator.finalize()
                kept = [frames[sample.index] for sample in got.samples]
                assert 8 <= len(kept) <= 16 or number == 2
                assert_equal(got, expected(kept, gray=False, threshold=4.0, fill="median"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("count", [2, 61, 600])
def test_any_set_of_ranks(device: str, count: int, dtype: str) -> None:
    """Minimum, maximum, percentiles, all of them, none, twice, in any order."""
    frames = scene((count, 3, 47), dtype, "visited")
    middle = (count - 1) // 2
    with store(device, frames) as filled:
        for ranks in ([], [0], [count - 1, 0], [middle, middle], list(range(count)), [count // 10, 9 * count // 10]):
            reduced = filled.reduce(count, ranks)
            np.testing.assert_array_equal(reduced.ranks, cpu.ranks(frames, ranks))
            np.testing.assert_array_equal(reduced.variance, cpu.variance(frames))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_as_many_samples_as_there_may_be(device: str, dtype: str) -> None:
    """65,535 samples of the largest value, and one that is smaller: counts and sums at their limits."""
    frames = np.full((65535, 1, 3), np.iinfo(dtype).max, dtype)
    frames[7, 0, 1] = 0
    frames[::2, 0, 2] = 0
    with store(device, frames) as filled:
        reduced = filled.reduce(65535, [0, 32767, 65534])
    np.testing.assert_array_equal(reduced.ranks, np.sort(frames, axis=0)[[0, 32767, 65534]])
    zeros = (frames[:, 0] == 0).sum(axis=0).tolist()
    top = int(np.iinfo(dtype).max)
    want = [n * (65535 - n) * top**2 / 65535**2 for n in zeros]  # two values: p (1 - p) d**2; exact to float32
    np.testing.assert_array_equal(reduced.variance[0], np.array(want, np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("width", [127, 128, 129, 1000])
def test_results_in_many_chunks(device: str, width: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is one line of values, so that both lanes go round many times, and the last one is a tail."""
    monkeypatch.setattr(placement, "_MOST_RESULT_BYTES", 1)
    frames = scene((33, 3, width), dtype, "uniform")
    with store(device, frames) as filled:
        reduced = filled.reduce(33, [16, 3])
    np.testing.assert_array_equal(reduced.ranks, cpu.ranks(frames, [16, 3]))
    np.testing.assert_array_equal(reduced.variance, cpu.variance(frames))


def test_slots_move_and_are_overwritten(device: str) -> None:
    frames = scene((6, 5, 40), "uint8", "uniform")
    with store(device, frames) as filled:
        filled.move(5, 1)
        filled.put(0, frames[2])
        reduced = filled.reduce(4, [1, 2])
    now = frames[[2, 5, 2, 3]]
    np.testing.assert_array_equal(reduced.ranks, cpu.ranks(now, [1, 2]))
    np.testing.assert_array_equal(reduced.variance, cpu.variance(now))
