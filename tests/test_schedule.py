"""Which frames are sampled, against counting by hand."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_bgstat.config import Config
from gpu_bgstat.errors import ConfigError
from gpu_bgstat.frames import Timeline
from gpu_bgstat.schedule import Planned, Running, plan, spread


def test_spread_as_drawn_in_its_docstring() -> None:
    assert spread(10, 3) == [3, 6, 9]


@given(total=st.integers(0, 5000), limit=st.integers(1, 700))
def test_spread_is_even_and_ends_with_the_last(total: int, limit: int) -> None:
    got = spread(total, limit)
    assert len(got) == min(total, limit)
    if total:
        assert got[-1] == total - 1
        gaps = {b - a for a, b in zip([-1, *got], got, strict=False)}
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 1


@given(
    frames=st.integers(0, 3000),
    every=st.integers(1, 300),
    limit=st.integers(2, 50),
    start=st.integers(0, 3100),
    length=st.integers(1, 3000),
)
def test_recent_keeps_the_newest_of_the_range(frames: int, every: int, limit: int, start: int, length: int) -> None:
    config = Config(every=every, max_samples=limit, keep="recent", start=f"{start}f", end=f"{start + length}f")
    due = [k for k in range(start, min(frames, start + length)) if (k - start + 1) % every == 0]
    assert list(plan(Timeline(frames), config).samples or ()) == due[-limit:]


@given(
    times=st.lists(st.floats(0.001, 2.0), min_size=1, max_size=200),
    start=st.floats(0, 50),
    length=st.floats(0.01, 50),
    every=st.integers(1, 9),
)
def test_seconds_mean_presentation_times(times: list[float], start: float, length: float, every: int) -> None:
    """Variable frame rate; the plan made beforehand equals the one that judges frame by frame."""
    shown: Any = np.cumsum(times) - times[0]
    config = Config(every=every, max_samples=1000, method="median", start=start, end=start + length)
    inside = [k for k, t in enumerate(shown) if start <= t < start + length]
    want = [k for place, k in enumerate(inside, 1) if place % every == 0]
    planned = plan(Timeline(len(shown), shown), config)
    assert list(planned.indices or ()) == want
    running = Running(config)
    assert [k for k, t in enumerate(shown) if running.due(k, float(t))] == want


def test_duration_counts_from_the_first_frame_of_the_range() -> None:
    timeline = Timeline(100, np.linspace(0, 24.75, 100))
    planned = plan(timeline, Config(every=1, start=1.1, duration=2.0))
    assert planned.indices == tuple(range(5, 13))  # 1.25 s up to, not including, 3.25 s
    running = Running(Config(every=1, start=1.1, duration=2.0))
    assert [k for k in range(100) if running.due(k, k * 0.25)] == list(range(5, 13))
    assert running.over(13, 3.25)


@pytest.mark.parametrize("settings", [{"start": 1.0}, {"end": 5.0}, {"duration": 3.0}])
def test_seconds_without_times_are_refused(settings: dict[str, float]) -> None:
    config = Config(every=1, **settings)
    with pytest.raises(ConfigError, match="needs frame times"):
        plan(Timeline(10), config)
    running = Running(config)
    with pytest.raises(ConfigError, match="needs frame times"):
        for index in range(10):
            running.due(index, None)


def test_planned_answers_once_for_each_frame_in_order() -> None:
    planned = Planned([2, 5], stop=7)
    assert [k for k in range(9) if planned.due(k, None)] == [2, 5]
    assert [k for k in range(9) if planned.over(k, None)] == [7, 8]
    assert Planned([2, 5], stop=7).due(5, None), "frames may be left out"


def test_a_range_beyond_the_end_has_no_samples() -> None:
    assert plan(Timeline(10), Config(every=1, start="20f")).indices == ()
    times = np.arange(10) / 10
    assert plan(Timeline(10, times), Config(every=1, start=9, duration=1)).indices == ()


@given(
    frames=st.integers(0, 1500),
    every=st.integers(1, 9),
    limit=st.integers(2, 40),
    keep=st.sampled_from(["recent", "spread"]),
    start=st.integers(0, 200),
    excluded=st.lists(st.tuples(st.integers(0, 1600), st.integers(1, 500)), max_size=5),
    seconds=st.booleans(),
)
def test_excluded_frames_are_no_samples_and_the_rest_is_even(
    frames: int,
    every: int,
    limit: int,
    keep: Literal["recent", "spread"],
    start: int,
    excluded: list[tuple[int, int]],
    seconds: bool,
) -> None:
    """Planned and running, against counting by hand; 4 frames a second, whose times are exact."""
    times = np.arange(frames) / 4
    unit: Any = (lambda k: k / 4) if seconds else "{}f".format
    config = Config(
        every=every,
        max_samples=limit,
        keep=keep,
        method="median",
        start=f"{start}f",
        exclude=[(unit(begin), unit(begin + length)) for begin, length in excluded],
    )
    left = [
        k
        for k in range(start, frames)
        if (k - start + 1) % every == 0 and not any(begin <= k < begin + length for begin, length in excluded)
    ]
    planned = plan(Timeline(frames, times), config)
    want = left[-limit:] if keep == "recent" else [left[k] for k in spread(len(left), limit)]
    assert list(planned.indices or ()) == want

    running, ring = Running(config), list[int]()
    for k in range(frames):
        if not running.due(k, k / 4):
            continue
        if len(ring) == limit and keep == "spread":
            running.double()
            ring = [index for index in ring if running.survives(index)]
            if not running.survives(k):
                continue
        ring = [*ring, k][-limit:]
    stride = 1
    while keep == "spread" and len(left) // stride > limit:
        stride *= 2
    assert ring == left[stride - 1 :: stride][-limit:]


def test_no_keyframe_inside_an_excluded_stretch() -> None:
    timeline = Timeline(100, None, np.arange(0, 100, 5))
    planned = plan(timeline, Config(every=10, snap="keyframe", exclude=["30f-52f", "77f-80f"]))
    assert not [k for k in planned.indices or () if 30 <= k < 52 or 77 <= k < 80]
    assert len(planned.indices or ()) == 7  # 39 and 49 are left out; 29 and 79 move

    crowded = Timeline(100, None, np.array([0, 40, 45, 90]))
    assert plan(crowded, Config(every=10, snap="keyframe", exclude="30f-52f")).indices == (0, 90)


def test_excluded_seconds_need_times() -> None:
    config = Config(every=1, exclude="2-3")
    with pytest.raises(ConfigError, match=r"exclude=2\.0 s needs frame times.*2700f"):
        plan(Timeline(10), config)
    with pytest.raises(ConfigError, match=r"exclude=2\.0 s needs frame times"):
        Running(config).due(0, None)


def test_all_excluded_leaves_nothing() -> None:
    assert plan(Timeline(50), Config(every=5, exclude="0f-50f")).indices == ()
