"""What is remembered of samples besides their pixels: means of patches, and motion against a neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_bgstat import BackgroundEstimator, Config, FrameSpec
from gpu_bgstat.coarse import EIGHTHS, CoarseView, patch_side
from gpu_bgstat.errors import FrameError
from gpu_bgstat.frames import Frame, Sample, Timeline
from gpu_bgstat.neighbours import lag_frames
from gpu_bgstat.schedule import Planned, Running, plan

SIZES = [(17, 41), (16, 24, 3), (33, 7, 3)]


def seen(frames: Any, pairs: list[tuple[int, int]], order: list[int] | None = None) -> CoarseView:
    """A view of these frames; the first of each pair is a sample."""
    samples = {sample for sample, _ in pairs}
    view = CoarseView(FrameSpec.of(frames[0]), len(samples))
    for index in order or range(len(frames)):
        view.see(index, frames[index], [pair for pair in pairs if index in pair], sampled=index in samples)
    return view


def patches(picture: Any, side: int) -> Any:
    """Means of patches in float64, cut ones filled up with their last pixels."""
    rows, columns = (-(-length // side) for length in picture.shape[:2])
    wider = ((0, rows * side - picture.shape[0]), (0, columns * side - picture.shape[1]))
    filled = np.pad(picture, wider + ((0, 0),) * (picture.ndim - 2), mode="edge").astype(float)
    return filled.reshape(rows, side, columns, side, *picture.shape[2:]).mean(axis=(1, 3))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("size", SIZES)
def test_means_and_motion_are_those_of_numpy(size: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(len(size))
    frames = rng.integers(60, 90, (2, *size)).astype(dtype)
    view = seen(frames, [(1, 0)])
    got = view.of([Sample(1, None, 0.0)])
    want = patches(frames[1], got.patch)
    np.testing.assert_allclose(got.thumbnails[0].reshape(want.shape), want, atol=0.5001)
    if len(size) == 2:  # in colour, OpenCV makes it grey first; the noise has one light, so that nothing is scaled
        difference = np.abs(frames[1].astype(int) - frames[0])
        np.testing.assert_allclose(got.motions[0], patches(difference, got.patch) * EIGHTHS, atol=EIGHTHS)
    assert got.known.all()


def test_light_that_changes_is_no_motion() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(40, 180, (64, 80)).astype(np.float64)
    frames = np.stack([scene * 1.2, scene]).round().astype(np.uint8)
    frames[1, 40:56, 40:56] = 200  # this has moved
    motion = seen(frames, [(1, 0)]).of([Sample(1, None, 0.0)]).motions[0]
    side = 64 // motion.shape[0]
    moved = np.zeros(motion.shape, bool)
    moved[40 // side : 56 // side, 40 // side : 56 // side] = True
    assert motion[~moved].max() <= EIGHTHS < 20 * EIGHTHS < motion[moved].min()


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 4))
def test_the_order_of_arrival_does_not_matter(order: list[int], lag: int) -> None:
    rng = np.random.default_rng(lag)
    frames = rng.integers(0, 256, (8, 9, 10, 3)).astype(np.uint8)
    pairs = [(sample, sample - lag if sample >= lag else sample + lag) for sample in range(8)]
    samples = [Sample(index, None, 0.0) for index in range(8)]
    want, got = seen(frames, pairs).of(samples), seen(frames, pairs, order).of(samples)
    np.testing.assert_array_equal(got.thumbnails, want.thumbnails)
    np.testing.assert_array_equal(got.motions, want.motions)
    assert got.known.all()


def test_a_neighbour_that_never_comes() -> None:
    frames = np.zeros((2, 16, 16), np.uint8)
    view = seen(frames, [(1, 5)])
    assert view.awaited() == {1}
    got = view.of([Sample(1, None, 0.0)])
    assert not got.known.any() and (got.motions == 255).all()


def test_few_frames_wait_for_partners_that_were_lost() -> None:
    view = CoarseView(FrameSpec(32, 32, 1, np.dtype("uint8")), 1000)
    for index in range(1000):
        view.see(index, np.zeros((32, 32), np.uint8), [(index, index + 5000)], sampled=True)
    assert len(view._held) <= 18


def test_one_reader_is_far_behind_the_others() -> None:
    """Its frame waits on, however many pairs the others bring meanwhile."""
    view = CoarseView(FrameSpec(32, 32, 1, np.dtype("uint8")), 1000, 0, 2)
    view.see(3, np.zeros((32, 32), np.uint8), [(9, 3)], sampled=False)
    for sample in range(109, 1109, 10):
        for index in (sample - 6, sample):
            view.see(index, np.zeros((32, 32), np.uint8), [(sample, sample - 6)], sampled=index == sample)
    assert len(view._held) == 1
    view.see(9, np.zeros((32, 32), np.uint8), [(9, 3)], sampled=True)
    assert not view.awaited() and not view._held


def test_text_for_a_journal_comes_back() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 65536, (3, 20, 30, 3)).astype(np.uint16)
    view, other = seen(frames, [(1, 0), (2, 7)]), CoarseView(FrameSpec.of(frames[0]), 2)
    samples = [Sample(1, None, 0.0), Sample(2, None, 0.0)]
    for sample in samples:
        other.recall(sample.index, view.to_text(sample.index))
    for got, want in zip(vars(other.of(samples)).values(), vars(view.of(samples)).values(), strict=True):
        np.testing.assert_array_equal(got, want)
    for text in ("", "?", "AAAA", view.to_text(1)):
        with pytest.raises(FrameError, match="what is remembered of sample 1"):
            CoarseView(FrameSpec(9, 9, 1, np.dtype("uint8")), 2).recall(1, text)


def test_memory_is_bounded() -> None:
    for size, slots in (((320, 240), 600), ((3840, 2160), 600), ((7680, 4320), 600), ((640, 480), 65535)):
        spec = FrameSpec(*size, 3, np.dtype("uint8"))
        side = patch_side(spec, slots)
        assert slots * -(-spec.width // side) * -(-spec.height // side) <= 1 << 25
    assert patch_side(FrameSpec(640, 480, 3, np.dtype("uint8")), 600) == 8
    assert patch_side(FrameSpec(3840, 2160, 3, np.dtype("uint8")), 600) == 16


# --- which frames are neighbours -----------------------------------------------------------------------------------


def timeline(frames: int, keyframes: list[int] | None = None, rate: float = 30) -> Timeline:
    known = None if keyframes is None else np.array(keyframes)
    return Timeline(frames, np.arange(frames) / rate, known)


def neighbours(chosen: Planned | Running) -> dict[int, int]:
    assert isinstance(chosen, Planned)
    return {sample: frame for index in chosen.indices for sample, frame in chosen.pairs(index)}


def test_a_neighbour_lies_on_the_way_from_the_keyframe() -> None:
    chosen = plan(timeline(120, [0, 40, 80]), Config(every=41, lag_s=0.2))
    assert neighbours(chosen) == {40: 46, 81: 87}  # the keyframes 40 and 80 lie between a sample and what is before
    chosen = plan(timeline(120, [0, 40, 80]), Config(every=30, lag_s=0.2))
    assert neighbours(chosen) == {29: 23, 59: 53, 89: 83, 119: 113}


def test_neighbours_stay_within_the_range() -> None:
    for start, end in ((10, 50), (0, 120), (33, 37)):
        chosen = plan(timeline(120), Config(every=3, start=f"{start}f", end=f"{end}f"))
        assert isinstance(chosen, Planned)
        assert all(start <= index < end for index in chosen.indices)
        for sample, frame in neighbours(chosen).items():
            assert abs(sample - frame) == 6


@pytest.mark.parametrize(("rate", "lag_s", "want"), [(30, 0.2, 6), (25, 0.2, 5), (1, 0.2, 1), (500, 0.2, 100)])
def test_a_lag_in_frames(rate: float, lag_s: float, want: int) -> None:
    assert lag_frames(timeline(100, rate=rate), lag_s) == want
    assert lag_frames(Timeline(100), 0.2) == 6


@pytest.mark.parametrize("config", [Config(method="median"), Config(method="mode"), Config(snap="keyframe")])
def test_without_need_no_frame_is_read_along(config: Config) -> None:
    chosen = plan(timeline(1000, [0, 500]), config)
    assert isinstance(chosen, Planned) and chosen.indices == chosen.samples


def test_what_is_left_to_read_has_its_neighbours() -> None:
    chosen = plan(timeline(100), Config(every=10))
    assert isinstance(chosen, Planned)
    rest = chosen.without({9, 19, 29})
    assert rest.samples == chosen.samples[3:] and rest.indices == tuple(
        sorted((*rest.samples, 33, 43, 53, 63, 73, 83, 93))
    )


@pytest.mark.parametrize("every", [1, 2, 7, 20])
def test_frames_without_a_known_length(every: int) -> None:
    """Each sample but the first ones has its neighbour, thinned or not."""
    rng = np.random.default_rng(0)
    with BackgroundEstimator(Config(every=every, max_samples=8, device="cpu")) as estimator:
        taken = [
            index for index in range(200) if estimator.collect(rng.integers(0, 256, (12, 12), dtype=np.uint8), index)
        ]
        background = estimator.finalize()
        assert [sample.index for sample in background.samples if sample.index not in taken] == []
        awaiting = estimator.awaiting & {sample.index for sample in background.samples}
    assert all(index < 6 for index in awaiting)


@pytest.mark.parametrize(("lag_s", "frames"), [(0.2, 6), (0.5, 15), (0.001, 1)])
def test_a_lag_where_no_rate_is_known(lag_s: float, frames: int) -> None:
    running = Running(Config(every=50, lag_s=lag_s))
    assert [index for index in range(100) if running.due(index, None)] == [49 - frames, 49, 99 - frames, 99]


def test_a_frame_that_only_tells_what_moves_is_no_sample() -> None:
    with BackgroundEstimator(Config(every=10, device="cpu")) as estimator:
        assert not estimator.add(Frame(3, None, np.zeros((8, 8), np.uint8)))
        assert estimator.add(Frame(9, None, np.zeros((8, 8), np.uint8)))
        assert estimator.kept == 1


def test_a_neighbour_that_waits_for_the_first_sample_is_kept_as_it_was() -> None:
    """With shake, it waits; whoever shows the frames may do so in one buffer."""
    frames = np.random.default_rng(0).integers(0, 256, (10, 48, 64)).astype(np.uint8)
    reused, motions = np.empty_like(frames[0]), []
    for buffer in (None, reused):
        with BackgroundEstimator(Config(every=10, shake=True, device="cpu")) as estimator:
            for frame in frames:
                if buffer is not None:
                    np.copyto(buffer, frame)
                estimator.collect(frame if buffer is None else buffer)
            motions.append(estimator.coarse(estimator.slots[0]))
    assert motions[0] == motions[1]
