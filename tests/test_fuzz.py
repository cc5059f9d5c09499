"""Every parser of ours under random input, a fixed number of cases: success, or a BgstatError of one line."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from clips import Clip
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpu_bgstat import BgstatError, Config
from gpu_bgstat.cli import _source
from gpu_bgstat.config import position
from gpu_bgstat.errors import ConfigError, SourceError, printable
from gpu_bgstat.frames import FrameSpec
from gpu_bgstat.media import addresses
from gpu_bgstat.media.mp4_tables import composition_offsets
from gpu_bgstat.schedule import Planned
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.arrays import load_stack
from gpu_bgstat.sources.chunked import divided
from gpu_bgstat.sources.images import _jpeg_whole, _png_whole
from gpu_bgstat.sources.picture_size import picture_size
from gpu_bgstat.sources.pipe import PIXEL_FORMATS, PipeSource
from gpu_bgstat.sources.tiff import _circular

fuzz = settings(
    max_examples=300,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",  # the gate tries the same cases each time
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(sorted(Config.model_fields)) | st.text(max_size=10)


def one_line(error: BgstatError) -> None:
    assert "\n" not in printable(str(error)) and len(str(error)) < 5000


# --- settings --------------------------------------------------------------------------------------------------------


@fuzz
@given(given=st.dictionaries(names, anything, max_size=6))
@example(given={"every": 10**5000})
@example(given={"start": "9" * 5000 + "f", "end": "3f"})
@example(given={"end": "9" * 400 + ":00:00"})
@example(given={"roi": ["9" * 5000, 0, 1, 1]})
@example(given={"a\nb": 1})
@example(given={"threshold": float("nan"), "device": "gpu:" + "1," * 3000})
def test_settings(given: dict[str, Any]) -> None:
    try:
        config = Config(**given)
    except ConfigError as error:
        one_line(error)
        assert "\n" not in str(error)
    else:
        assert Config.from_json(config.to_json()) == config


@fuzz
@given(
    text=st.text(max_size=60) | st.dictionaries(names, anything, max_size=6).map(json.dumps) | anything.map(json.dumps)
)
@example(text="[" * 100_000)
@example(text='{"every": ' + "9" * 5000 + "}")
@example(text='{"every": 5, "every": "x"}')
def test_settings_in_json(text: str) -> None:
    try:
        config = Config.from_json(text)
    except ConfigError as error:
        one_line(error)
    else:
        assert Config.from_json(config.to_json()) == config


places = st.from_regex(r"[0-9:.f eE+_-]{0,12}", fullmatch=True) | st.text(max_size=10) | st.integers() | st.floats()


@fuzz
@given(value=places)
@example(value="٣:٠٥")  # digits of another script
@example(value="1e308")
@example(value="9" * 400)
def test_positions(value: object) -> None:
    try:
        place = position(value)
    except ValueError as error:
        assert "must be seconds" in str(error) or "digits" in str(error)
    else:
        assert isinstance(place, str) or 0 <= place < float("inf")


@fuzz
@given(start=places, end=places)
def test_ranges(start: object, end: object) -> None:
    """What Config takes, a plan can be made of."""
    try:
        config = Config(start=start, end=end, every=1)
    except ConfigError as error:
        one_line(error)
        return
    stack = np.zeros((9, 2, 2), np.uint8)
    with closing(open_source(stack)) as source:
        from gpu_bgstat import schedule

        try:
            planned = schedule.plan(source.timeline, config)
        except ConfigError as error:
            one_line(error)
        else:
            assert isinstance(planned, Planned) and set(planned.indices) <= set(range(9))


@fuzz
@given(
    value=st.from_regex(r"[-0-9., ]{0,14}", fullmatch=True) | st.lists(st.integers(), max_size=6) | st.text(max_size=8)
)
def test_regions(value: object) -> None:
    try:
        config = Config(roi=value)
    except ConfigError as error:
        one_line(error)
    else:
        assert config.roi and min(config.roi[:2]) >= 0 and min(config.roi[2:]) >= 1


@fuzz
@given(size=st.from_regex(r"[0-9x×X²٣ -]{0,12}", fullmatch=True) | st.text(max_size=10))
@example(size="9" * 5000 + "x4")
@example(size="4x" + "9" * 18)
@example(size="99999x99999")
def test_sizes_of_raw_frames(size: str) -> None:
    class Piped:
        buffer = io.BytesIO(bytes(100))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", Piped)
        try:
            source = _source(["-"], size, "gray")
        except click.UsageError as error:
            assert len(str(error)) < 300
        except BgstatError as error:
            one_line(error)
        else:
            assert isinstance(source, PipeSource) and source.spec


@fuzz
@given(
    data=st.binary(max_size=200),
    width=st.integers(-3, 9) | st.integers(),
    height=st.integers(-3, 9) | st.integers(),
    form=st.sampled_from(sorted(PIXEL_FORMATS)),
)
def test_raw_frames(data: bytes, width: int, height: int, form: str) -> None:
    try:
        source = PipeSource(io.BytesIO(data), width, height, form)
        assert isinstance(source.spec, FrameSpec)
        if source.spec.bytes > 1000:
            return  # a frame of that size may really be asked for
        frames = list(source.read(Planned(range(300), 300)))
    except BgstatError as error:
        one_line(error)
    else:
        assert b"".join(frame.pixels.tobytes() for frame in frames) == data[: len(frames) * source.spec.bytes]


# --- files -----------------------------------------------------------------------------------------------------------


def saved(version: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(64, dtype=np.uint8).reshape(4, 4, 4), version)
    return file.getvalue()


def zipped(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, np.arange(64, dtype=np.uint8).reshape(4, 4, 4))
    return file.getvalue()


@st.composite
def harmed(draw: st.DrawFn, whole: bytes, most: int = 6) -> bytes:
    """A file with some bytes replaced, and perhaps cut."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, most))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


heads = st.builds(
    lambda descr, order, shape: (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(text := f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}".encode()))
        + text
        + bytes(64)
    ),
    st.sampled_from(
        ["'|u1'", "'<f8'", "'|O'", "'|V3'", "[('a', '|u1')]", "'nonsense'", "5", "('|u1', (2,))", "'<M8[s]'", "'|S0'"]
    ),
    st.sampled_from(["True", "False", "3"]),
    st.lists(st.integers(-5, 5) | st.integers(), max_size=5).map(tuple)
    | st.sampled_from(["None", "4", "(4.0, 4)", "(((("]),
)


@fuzz
@given(data=heads | st.sampled_from([(1, 0), (2, 0), (3, 0)]).map(saved).flatmap(harmed) | st.binary(max_size=100))
def test_numpy_files(data: bytes, tmp_path: Path) -> None:
    readable(data, tmp_path / "any.npy")


@fuzz
@given(data=st.booleans().map(zipped).flatmap(harmed))
def test_numpy_archives(data: bytes, tmp_path: Path) -> None:
    readable(data, tmp_path / "any.npz")


def readable(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    try:
        source = load_stack(path)
        assert source.timeline
        total = source.timeline.frames
        frames = list(source.read(Planned(range(min(total, 20)), total)))
    except BgstatError as error:
        assert "\n" not in str(error)
    else:
        assert len(frames) == min(total, 20)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The end of an MP4 file, from its moov box on."""
    clip = Clip("mp4", "mpeg4", b_frames=2, gop=12, frames=30, size=(32, 32))
    data = clip.write(tmp_path_factory.mktemp("mp4") / "clip.mp4").read_bytes()
    return data[data.index(b"moov") - 4 :]


@fuzz
@given(data=st.data())
def test_mp4_tables(data: st.DataObject, tables: bytes) -> None:
    assert composition_offsets(io.BytesIO(tables), 1, 30) is not None
    mutant = data.draw(harmed(tables, 4) | st.binary(max_size=60))
    offsets = composition_offsets(
        io.BytesIO(mutant), data.draw(st.integers(-1, 2)), data.draw(st.sampled_from([30, 0, 5]))
    )
    assert offsets is None or len(offsets) in (30, 0, 5)


def pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm")]


@fuzz
@given(data=st.sampled_from(pictures()).flatmap(harmed) | st.binary(max_size=80))
def test_pictures(data: bytes, tmp_path: Path) -> None:
    """The scanners answer for any bytes, and such a file is a frame or refused."""
    assert _png_whole(data) in (True, False) and _jpeg_whole(data) in (True, False)
    size = picture_size(data)
    assert size is None or len(size) == 2
    assert _circular(io.BytesIO(data)) in (True, False)
    path = tmp_path / "any.png"
    path.write_bytes(data or b"x")
    try:
        source = open_source(path)
    except BgstatError as error:
        assert "\n" not in str(error)
    else:
        assert source.spec


def test_scanners_know_whole_pictures() -> None:
    png, jpeg, *_ = pictures()
    assert _png_whole(png) and _jpeg_whole(jpeg)
    assert not _png_whole(png[:-1]) and not _jpeg_whole(jpeg[: len(jpeg) // 2])
    assert zlib.crc32(png)  # the fuzz above is of real files


# --- names -----------------------------------------------------------------------------------------------------------

texts = st.text(max_size=30) | st.from_regex(r"[a-zA-Z+]{0,6}://[^ ]{0,20}", fullmatch=True)


@fuzz
@given(text=texts)
@example(text="http://[::1")
@example(text="http://a]b/")
@example(text="https://user:pass@word@host/x?sig=1#f")
def test_addresses(text: str) -> None:
    assert addresses.is_url(text) == ("://" in text)
    try:
        addresses.is_live(text)
    except ValueError:
        with pytest.raises(SourceError):
            open_source(text)
    told = addresses.without_secrets(text)
    assert addresses.without_secrets(told) == told or "?" in text


@fuzz
@given(text=st.text(max_size=30).filter(lambda text: "://" not in text and not text.startswith(("camera:", "-"))))
@example(text="a\0b::c")
@example(text="::")
@example(text="**/" * 50)
@example(text="\udcff.png")
@example(text="\ud800.png")
@example(text="[")
def test_names(text: str, tmp_path: Path) -> None:
    """Names of nothing are refused, whatever is in them; `::` divides only what is there."""
    outer, inside = divided(tmp_path / text.lstrip("/")) if "\0" not in text else (Path("x"), "")
    assert isinstance(outer, Path) and isinstance(inside, str)
    try:
        open_source(str(tmp_path / "nowhere" / text.replace("..", "").lstrip("/")))
    except BgstatError as error:
        one_line(error)
    else:
        raise AssertionError(f"{text!r} was opened")
