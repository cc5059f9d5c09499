"""Every knob: its bounds, its spellings, its one-line complaint; JSON in and out; the presets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_bgstat.config import PRESETS, Config, frame_number, position
from gpu_bgstat.errors import BgstatError, ConfigError


def test_the_default_is_what_design_says() -> None:
    config = Config()
    assert (config.every, config.max_samples, config.keep, config.threshold, config.fill, config.gray) == (
        100,
        600,
        "spread",
        4.0,
        "median",
        False,
    )


def test_the_cassette_is_what_it_documents() -> None:
    config = Config.preset("cassette")
    assert (config.every, config.max_samples, config.keep, config.threshold, config.fill, config.gray) == (
        100,
        600,
        "recent",
        4.0,
        "global",
        False,
    )


def test_explicit_settings_override_a_preset() -> None:
    config = Config.preset("cassette", every=7, fill="median")
    assert (config.every, config.fill, config.keep) == (7, "median", "recent")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"every": 0}, "every=0"),
        ({"every": 2.5}, "every=2.5"),
        ({"every": True}, "every=True"),
        ({"every": "ten"}, "every='ten'"),
        ({"max_samples": 1}, "max_samples=1"),
        ({"max_samples": 65_536}, "max_samples=65536"),
        ({"keep": "oldest"}, "keep='oldest'"),
        ({"threshold": -1}, "threshold=-1"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"threshold": float("inf")}, "threshold=inf"),
        ({"fill": "black"}, "fill='black'"),
        ({"depth": 12}, "depth=12"),
        ({"roi": "1,2,3"}, "roi="),
        ({"roi": (0, 0, 0, 5)}, "roi=0,0,0,5"),
        ({"roi": (-1, 0, 4, 5)}, "roi=-1,0,4,5"),
        ({"start": "yesterday"}, "start='yesterday'"),
        ({"start": -1}, "start=-1"),
        ({"end": True}, "end=True"),
        ({"duration": 0}, "duration=0"),
        ({"start": 10, "end": 10}, "end=10.0 is not after start=10.0"),
        ({"end": 0}, "end=0.0 is not after start=0"),
        ({"start": "9f", "end": "9f"}, "end=9f is not after start=9f"),
        ({"end": 3, "duration": 3}, "exclude each other"),
        ({"start": "9f", "duration": 3}, "start=9f is a frame number"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"exclude": "10:00"}, "'10:00' is no stretch"),
        ({"exclude": "1-2-3"}, "'1-2-3' is no stretch"),
        ({"exclude": "-5-10"}, "'-5-10' is no stretch"),
        ({"exclude": "a-b"}, "exclude='a-b'"),
        ({"exclude": "10-10"}, "10.0-10.0 ends before it has begun"),
        ({"exclude": ["1-2", "20f-10f"]}, "20f-10f ends before it has begun"),
        ({"exclude": [(1, 2, 3)]}, "(1, 2, 3) is no stretch"),
        ({"exclude": 5}, "exclude=5: must be stretches"),
        ({"exclude": None}, "exclude=None"),
        ({"evary": 3}, "evary=3: no such setting"),
    ],
)
def test_a_bad_value_is_one_clear_line(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**settings)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BgstatError)


def test_a_complaint_tells_the_unit() -> None:
    with pytest.raises(ConfigError, match="squared grey levels"):
        Config(threshold=-2)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ConfigError, match="use one of default, cassette"):
        Config.preset("fast")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90.0),
        ("90.5", 90.5),
        (90, 90.0),
        (np.float32(1.5), 1.5),
        ("1:30", 90.0),
        ("00:01:30.25", 90.25),
        ("10:00:00", 36_000.0),
        ("2700f", "2700f"),
    ],
)
def test_positions(text: Any, value: float | str) -> None:
    assert position(text) == value
    assert Config(start=text).start == value


@pytest.mark.parametrize(
    ("given_", "want"),
    [
        ("10:00-10:45", ((600.0, 645.0),)),
        ("90 - 120.5", ((90.0, 120.5),)),
        ((90, 120), ((90.0, 120.0),)),
        (("1:00", "2:00"), ((60.0, 120.0),)),
        (["2700f-2900f"], (("2700f", "2900f"),)),
        (["90-120", "2700f-2900f"], ((90.0, 120.0), ("2700f", "2900f"))),
        ([(90, 120), ("100f", 30)], ((90.0, 120.0), ("100f", 30.0))),
        ([], ()),
    ],
)
def test_stretches_to_exclude(given_: Any, want: Any) -> None:
    config = Config(exclude=given_)
    assert config.exclude == want
    assert Config.from_json(config.to_json()) == config


def test_frame_numbers() -> None:
    assert frame_number("2700f") == 2700
    assert frame_number(90.0) is None


def test_numpy_numbers_are_numbers() -> None:
    config = Config(every=np.int64(5), max_samples=np.uint16(9), roi=tuple(np.arange(1, 5)))
    assert (config.every, config.max_samples, config.roi) == (5, 9, (1, 2, 3, 4))


def test_a_region_as_the_command_writes_it() -> None:
    assert Config(roi="1, 2,30,40").roi == (1, 2, 30, 40)


def test_it_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().every = 3


@given(
    every=st.integers(1, 10_000),
    max_samples=st.integers(2, 65_535),
    keep=st.sampled_from(["recent", "spread"]),
    threshold=st.floats(0, 1e9),
    roi=st.none() | st.tuples(*[st.integers(1, 5000)] * 4),
    start=st.none() | st.floats(0, 1e5) | st.integers(0, 10**6).map("{}f".format),
    depth=st.sampled_from([None, 8, 16]),
    exclude=st.lists(
        st.tuples(st.floats(0, 1e5), st.floats(1, 1e5)).map(lambda pair: (pair[0], pair[0] + pair[1]))
        | st.tuples(st.integers(0, 10**6), st.integers(1, 99)).map(lambda pair: f"{pair[0]}f-{sum(pair)}f"),
        max_size=4,
    ),
)
def test_json_there_and_back(**settings: Any) -> None:
    config = Config(**settings)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("text", ["", "{", '{"every": 0}', '{"nothing": 1}', "[1]"])
def test_bad_json_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_json(text)
    assert "\n" not in str(caught.value)


def test_every_preset_is_valid() -> None:
    assert all(Config.preset(name) for name in PRESETS)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"start": "1:75"}, "must be seconds"),
        ({"start": "1:60:00"}, "must be seconds"),
        ({"roi": "0,0,10"}, "must be four numbers, X,Y,W,H"),
        ({"threshold": 1e39}, "threshold=1e\\+39"),
    ],
)
def test_values_that_look_right(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Config(**settings)
