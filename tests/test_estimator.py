"""setup, collect, finalize; the ring; and any shape, type, length and setting against the oracle."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import estimate as expected
from oracle import sampled

from gpu_bgstat import Background, BackgroundEstimator, Config, FrameSpec, estimate
from gpu_bgstat.errors import BgstatError, ConfigError, DeviceError, FrameError, TooFewSamplesError
from gpu_bgstat.frames import Frame, Timeline
from gpu_bgstat.schedule import Planned, plan

FIELDS = ("background", "variance", "stable", "heatmap")


def assert_equal(got: Background, want: dict[str, Any]) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field), want[field], err_msg=field)
        assert getattr(got, field).dtype == want[field].dtype, field


@st.composite
def stacks(draw: st.DrawFn) -> np.ndarray[Any, np.dtype[Any]]:
    """Frames of any odd size, type and distribution: constant, two-valued, narrow, extreme, anything."""
    dtype: np.dtype[Any] = np.dtype(draw(st.sampled_from(["uint8", "uint16"])))
    shape = (draw(st.integers(2, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    if draw(st.booleans()):
        shape = (*shape, 3)  # type: ignore[assignment]
    top = int(np.iinfo(dtype).max)
    values = draw(
        st.sampled_from(
            [st.integers(0, top), st.sampled_from([0, top]), st.integers(top - 3, top), st.just(top), st.integers(0, 2)]
        )
    )
    return draw(hnp.arrays(dtype, shape, elements=values))


@settings(max_examples=200, deadline=None)
@given(
    stack=stacks(),
    every=st.integers(1, 4),
    limit=st.integers(2, 12),
    preset=st.sampled_from(["default", "cassette"]),
    gray=st.booleans(),
    threshold=st.sampled_from([0.0, 0.1, 0.25, 4.0, 1e6]),
)
def test_any_stack_equals_the_oracle(
    stack: np.ndarray[Any, np.dtype[Any]], every: int, limit: int, preset: str, gray: bool, threshold: float
) -> None:
    config = Config.preset(preset, every=every, max_samples=limit, method="median", gray=gray, threshold=threshold)
    indices = sampled(len(stack), every, limit, config.keep)
    if len(indices) < 2:
        with pytest.raises(TooFewSamplesError):
            estimate(stack, config)
        return
    want = expected([stack[k] for k in indices], gray=gray, threshold=float(np.float32(threshold)), fill=config.fill)
    got = estimate(stack, config)
    assert [sample.index for sample in got.samples] == indices
    assert_equal(got, want)


@settings(max_examples=100, deadline=None)
@given(stack=stacks(), method=st.sampled_from(["still", "mode", "auto"]), data=st.data())
def test_any_stack_has_a_background_by_each_method(
    stack: np.ndarray[Any, np.dtype[Any]], method: Any, data: st.DataObject
) -> None:
    """It lies between its samples' extremes, and it is the same in whatever order they and their neighbours come."""
    config = Config(every=2, method=method)
    indices = sampled(len(stack), 2, 600, "spread")
    if len(indices) < 2:
        return
    want = estimate(stack, config)
    assert [sample.index for sample in want.samples] == indices
    some = stack[indices]
    assert (some.min(axis=0) <= want.background).all() and (want.background <= some.max(axis=0)).all()
    chosen = plan(Timeline(len(stack)), config)
    assert isinstance(chosen, Planned)
    with BackgroundEstimator(config, plan=chosen) as estimator:
        for index in data.draw(st.permutations(chosen.indices)):
            estimator.add(Frame(index, None, stack[index]))
        got = estimator.finalize()
    for field in (*FIELDS, "choice", "confidence"):
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field), err_msg=field)


@given(frames=st.integers(2, 300), every=st.integers(1, 5), limit=st.integers(2, 20))
def test_unknown_length_recent_keeps_the_newest(frames: int, every: int, limit: int) -> None:
    config = Config(every=every, max_samples=limit, keep="recent", method="median")
    due = sampled(frames, every, limit, "recent")
    with BackgroundEstimator(config) as estimator:
        for index in range(frames):
            estimator.collect(np.full((2, 3), index % 251, np.uint8))
        if len(due) < 2:
            return
        got = estimator.finalize()
    assert [sample.index for sample in got.samples] == due
    assert_equal(
        got,
        expected(
            [np.full((2, 3), k % 251, np.uint8) for k in due], gray=False, threshold=config.threshold, fill="median"
        ),
    )


class Simulated:
    """keep=spread for an unknown length, as docs/method.md has it: all that was seen, and an interval that doubles."""

    def __init__(self, every: int, limit: int) -> None:
        self.seen: list[int] = []
        self.interval, self.limit = every, limit
        self.was_full = False

    @property
    def samples(self) -> list[int]:
        """The last frame of each interval."""
        return self.seen[self.interval - 1 :: self.interval]

    def show(self, frame: int) -> None:
        self.seen.append(frame)
        if len(self.samples) > self.limit:
            self.interval *= 2
        self.was_full = self.was_full or len(self.samples) == self.limit


@settings(deadline=None)
@given(
    frames=st.integers(2, 600), every=st.integers(1, 4), limit=st.integers(2, 17), looks=st.sets(st.integers(1, 600))
)
def test_unknown_length_spread_doubles_its_interval(frames: int, every: int, limit: int, looks: set[int]) -> None:
    """A plain simulation, compared at any time; and what it is for: the samples span all that was seen, evenly."""
    simulated = Simulated(every, limit)
    with BackgroundEstimator(Config(every=every, max_samples=limit, method="median")) as estimator:
        for index in range(frames):
            estimator.collect(np.full((2, 3), index % 251, np.uint8))
            simulated.show(index)
            assert estimator.kept == len(simulated.samples) <= limit
            if simulated.was_full:
                assert estimator.kept >= limit / 2
            if index + 1 not in looks | {frames} or estimator.kept < 2:
                continue
            got = estimator.finalize()
            due = [sample.index for sample in got.samples]
            assert due == simulated.samples
            steps = np.diff([-1, *due])  # the first sample ends the first interval
            assert (steps == steps[0]).all() and steps[0] in [every * 2**k for k in range(12)]
            assert index - due[-1] < steps[0]
            np.testing.assert_array_equal(got.background, np.full((2, 3), np.median([k % 251 for k in due]), np.uint8))


def test_collecting_goes_on_after_a_finalize() -> None:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (20, 5, 7, 3), dtype=np.uint8)
    with BackgroundEstimator(Config(every=2, method="median")) as estimator:
        taken = [estimator.collect(frame) for frame in frames[:10]]
        first = estimator.finalize()
        for frame in frames[10:]:
            estimator.collect(frame)
        second = estimator.finalize()
    assert taken == [False, True] * 5
    assert_equal(first, expected(list(frames[1:10:2]), gray=False, threshold=4.0, fill="median"))
    assert_equal(second, expected(list(frames[1::2]), gray=False, threshold=4.0, fill="median"))
    assert second.run.frames_seen == 20
    assert second.run.sample_bytes == 10 * 5 * 7 * 3


def test_setup_beforehand_and_samples_with_their_times() -> None:
    with BackgroundEstimator(Config(every=1)) as estimator:
        estimator.setup(FrameSpec(4, 3, 1, np.dtype("uint16")))
        estimator.collect(np.full((3, 4), 1000, np.uint16), index=17, time_s=0.5)
        estimator.collect(np.full((3, 4), 2001, np.uint16), index=40, time_s=1.5)
        got = estimator.finalize()
        with pytest.raises(BgstatError, match="setup was called before"):
            estimator.setup(FrameSpec(4, 3, 1, np.dtype("uint16")))
    assert [(sample.index, sample.time_s, sample.brightness) for sample in got.samples] == [
        (17, 0.5, 1000.0),
        (40, 1.5, 2001.0),
    ]
    assert got.background.dtype == np.uint16
    assert (got.background == 1500).all()
    assert (got.variance == 500.5**2).all()


def test_a_region_is_cut_out_of_every_frame() -> None:
    stack = np.random.default_rng(1).integers(0, 256, (9, 12, 15, 3), dtype=np.uint8)
    got = estimate(stack, Config(every=1, method="median", roi=(4, 2, 5, 7)))
    assert_equal(got, expected(list(stack[:, 2:9, 4:9]), gray=False, threshold=4.0, fill="median"))


def test_frames_of_another_size_are_resized_and_told() -> None:
    import cv2

    rng = np.random.default_rng(5)
    small, large = rng.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8), rng.integers(0, 256, (11, 13, 3), dtype=np.uint8)
    got = estimate(iter([*small, large]), Config(every=1, method="median", roi=(1, 1, 5, 4)))
    resized = cv2.resize(large, (8, 6), interpolation=cv2.INTER_LINEAR)
    want = [frame[1:5, 1:6] for frame in (*small, resized)]
    assert_equal(got, expected(want, gray=False, threshold=4.0, fill="median"))
    assert got.run.resized == 1
    assert any("resized" in warning for warning in got.run.warnings)


@pytest.mark.parametrize(
    ("frame", "value"),
    [
        (np.full((2, 2), 300, np.int32), 255),
        (np.full((2, 2), -4.5, np.float64), 0),
        (np.full((2, 2), 7.9, np.float32), 7),
        (np.full((2, 2), -1, np.int8), 0),
    ],
)
def test_other_types_are_clipped_and_truncated_and_told(frame: np.ndarray[Any, Any], value: int) -> None:
    got = estimate(iter([frame, frame]), Config(every=1))
    assert got.background.dtype == np.uint8
    assert (got.background == value).all()
    assert any(str(frame.dtype) in warning for warning in got.run.warnings)


def test_depth_decides_the_sample_type() -> None:
    stack = np.full((2, 3, 3), 300, np.uint16)
    assert (estimate(stack, Config(every=1, depth=8)).background == 255).all()
    widened = estimate(stack.astype(np.uint8), Config(every=1, depth=16))
    assert widened.background.dtype == np.uint16
    assert (widened.background == 44).all()


def test_grey_and_colour_frames_may_mix() -> None:
    grey, color = np.full((2, 2), 90, np.uint8), np.full((2, 2, 4), 90, np.uint8)
    assert estimate(iter([grey, color]), Config(every=1)).background.shape == (2, 2)
    assert estimate(iter([color, grey]), Config(every=1)).background.shape == (2, 2, 3)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((2, 2), bool),
        np.zeros((2, 2), complex),
        np.zeros((2, 2), object),
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((0, 2), np.uint8),
        np.full((2, 2), np.nan),
    ],
)
def test_what_is_no_frame_is_refused_and_loses_nothing(frame: np.ndarray[Any, Any]) -> None:
    good = np.full((2, 2), 9, np.uint8)
    with BackgroundEstimator(Config(every=1)) as estimator:
        estimator.collect(good)
        with pytest.raises(FrameError):
            estimator.collect(frame)
        estimator.collect(good)
        assert [sample.index for sample in estimator.finalize().samples] == [0, 2]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_samples(count: int) -> None:
    with BackgroundEstimator(Config(every=1)) as estimator:
        for _ in range(count):
            estimator.collect(np.zeros((2, 2), np.uint8))
        with pytest.raises(TooFewSamplesError, match=f"{count}: lower every=1"):
            estimator.finalize()


def test_a_region_outside_the_frame() -> None:
    with pytest.raises(ConfigError, match=r"roi=4,0,7,5 reaches outside the frame of 10x5"):
        estimate(np.zeros((3, 5, 10), np.uint8), Config(every=1, roi=(4, 0, 7, 5)))


def test_a_gpu_asked_for_is_never_replaced_silently() -> None:
    with pytest.raises(DeviceError, match="device=gpu"):
        estimate(np.zeros((3, 5, 10), np.uint8), Config(every=1, device="gpu"))


def test_frames_beyond_memory_are_refused_before_the_first_sample() -> None:
    """Even one frame of 16,000 x 16,000 pixels needs results of more bytes than this."""
    stack = np.broadcast_to(np.zeros((), np.uint8), (65_535, 16_000, 16_000))
    with pytest.raises(ConfigError, match=r"2.0 GB of memory \(memory_limit\) are too little: .* raise the limit"):
        estimate(stack, Config(every=1, max_samples=65_535, memory_limit="2GB"))


def test_a_fork_before_setup_is_safe() -> None:
    """TractorLive runs its cassettes in a forked process."""
    estimator = BackgroundEstimator(Config(every=1))
    child = os.fork()
    if child == 0:
        estimator.collect(np.zeros((64, 64), np.uint8))
        estimator.collect(np.full((64, 64), 8, np.uint8))
        os._exit(int((estimator.finalize().background != 4).any()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("frame", [None, [[1, 2], [3, 4]], "frame"])
def test_what_is_no_array_is_no_frame(frame: Any) -> None:
    """None is what OpenCV's `read` gives at the end."""
    with (
        BackgroundEstimator(Config(every=1)) as estimator,
        pytest.raises(FrameError, match="is no frame: give an array"),
    ):
        estimator.collect(frame)


def test_a_closed_estimator_says_so() -> None:
    frame = np.zeros((4, 4), np.uint8)
    with BackgroundEstimator(Config(every=1)) as estimator:
        estimator.collect(frame)
    for use in (lambda: estimator.collect(frame), lambda: estimator.setup(FrameSpec.of(frame)), estimator.finalize):
        with pytest.raises(BgstatError, match="was closed and its samples are gone"):
            use()


def test_a_spec_checks_itself() -> None:
    spec = FrameSpec(4, 3, 3, np.uint8)  # type: ignore[arg-type]
    assert spec.bytes == 36 and spec == FrameSpec.of(np.zeros((3, 4, 3), np.uint8))
    for wrong in ((0, 4, 3, "u1"), (4, 4, 2, "u1"), (4, 4, 1, "f4")):
        with pytest.raises(
            FrameError,
            match=r"no size of a frame: sides are 1 pixel or more|a frame has 1 or 3 channels|1 or 3 channels",
        ):
            FrameSpec(*wrong[:3], np.dtype(wrong[3]))
