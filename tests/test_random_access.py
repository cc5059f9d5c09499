"""Stacks that can be read anywhere: the pixels are NumPy's, and no more is read than the sampled frames need."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from conftest import recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_bgstat import Config, estimate
from gpu_bgstat.cli import main
from gpu_bgstat.errors import ConfigError, FrameError, SourceError
from gpu_bgstat.frames import Frame, Image
from gpu_bgstat.schedule import Planned, Running
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.arrays import StackSource
from gpu_bgstat.sources.chunked import ChunkedSource
from gpu_bgstat.sources.source import Source

FRAMES, HEIGHT, WIDTH = 500, 256, 256
FRAME_BYTES = HEIGHT * WIDTH
SAMPLED = [3, 120, 255, 256, 498]
STACK = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
AROUND_BYTES = 2 * mmap.PAGESIZE  # the pages that a frame shares with its neighbours
HEAD_BYTES = 1 << 20  # what the kernel may read ahead at the head and the end of a file
SMALL = STACK[:24, :20, :30]
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 10, 14, 3), dtype=np.uint8)

needs_proc = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what is read by Linux's /proc")


def read_bytes() -> int:
    """All that this process has read from files so far, from the cache or not."""
    return int(Path("/proc/self/io").read_text().split()[1])


def resident_bytes(path: Path) -> int:
    """How much of a file the kernel holds in its cache."""
    size = path.stat().st_size
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ), np.uint8)
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    assert mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)) == 0
    return int((pages & 1).sum()) * mmap.PAGESIZE


def forget(path: Path) -> None:
    """Drops a file from the kernel's cache, so that what is resident afterwards has been read from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_bytes(path):
        pytest.skip("this file system keeps its files in memory")


def frames_at(source: Source, indices: list[int], stop: int = FRAMES) -> list[Frame]:
    return list(source.read(Planned(indices, stop)))


def equal(frames: list[Frame], stack: Image, indices: list[int]) -> bool:
    native = stack.astype(stack.dtype.newbyteorder("="))
    return [frame.index for frame in frames] == indices and all(
        frame.pixels.dtype == native.dtype and np.array_equal(frame.pixels, native[frame.index]) for frame in frames
    )


# --- which frames are met ------------------------------------------------------------------------------------------


@given(total=st.integers(1, 40), wanted=st.sets(st.integers(0, 60)), stop=st.integers(0, 60), joined=st.integers(0, 20))
def test_jumping_meets_what_walking_meets(total: int, wanted: set[int], stop: int, joined: int) -> None:
    """Indices, and the number of frames seen, of one stack and of two that are joined."""
    stack = np.arange(total, dtype=np.uint8).reshape(-1, 1, 1)
    more = np.arange(100, 101 + joined, dtype=np.uint8).reshape(-1, 1, 1)
    for given_, whole in ((StackSource(stack), stack), (_joined(stack, more), np.concatenate([stack, more]))):
        frames = list(given_.read(Planned(sorted(wanted), stop)))
        met = range(min(stop, len(whole)))
        assert [frame.index for frame in frames] == [index for index in met if index in wanted]
        assert all(frame.pixels[0, 0] == whole[frame.index, 0, 0] for frame in frames)
        assert given_.seen == len(met)


def _joined(*stacks: Image) -> Source:
    from gpu_bgstat.sources.joined import JoinedSource

    return JoinedSource([StackSource(stack) for stack in stacks])


def test_seen_grows_with_the_samples() -> None:
    source = StackSource(STACK)
    assert [source.seen for _ in source.read(Planned(SAMPLED, FRAMES))] == [index + 1 for index in SAMPLED]
    assert source.seen == FRAMES


def test_a_plan_that_judges_as_it_goes_is_asked_for_each_frame(tmp_path: Path) -> None:
    write_zarr(tmp_path / "stack.zarr", SMALL, (5, 20, 30))
    with closing(open_source(tmp_path / "stack.zarr")) as source:
        frames = list(source.read(Running(Config(every=5, end="18f", method="median"))))
    assert equal(frames, SMALL, [4, 9, 14])
    assert source.seen == 18


# --- NumPy ---------------------------------------------------------------------------------------------------------


@needs_proc
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_of_a_mapped_stack_only_the_samples_are_touched(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"stack.{suffix}"
    np.save(path, STACK) if suffix == "npy" else np.savez(path, STACK)
    forget(path)
    before = read_bytes()
    with closing(open_source(path)) as source:
        frames = frames_at(source, SAMPLED)
    assert read_bytes() - before < 100_000  # headers, and /proc itself
    assert resident_bytes(path) <= len(SAMPLED) * (FRAME_BYTES + AROUND_BYTES) + HEAD_BYTES
    assert equal(frames, STACK, SAMPLED)
    assert source.seen == FRAMES


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<f4"])
def test_a_mapped_member_of_an_npz(dtype: str, order: str, tmp_path: Path) -> None:
    stack = np.asarray(SMALL, dtype, order=order)  # type: ignore[call-overload]
    np.savez(tmp_path / "stack.npz", frames=stack)
    source = open_source(tmp_path / "stack.npz")
    assert isinstance(source, StackSource) and isinstance(source._stack, np.memmap)
    assert equal(frames_at(source, [0, 7, 23]), stack, [0, 7, 23])


# --- TIFF ----------------------------------------------------------------------------------------------------------


def write_pages(path: Path, stack: Image, byteorder: Any = None, bigtiff: bool = False, **options: Any) -> None:
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as writer:
        for page in stack:
            writer.write(page, photometric="minisblack", **options)


def write_tiff(path: Path, stack: Image, **options: Any) -> None:
    tifffile.imwrite(path, stack, photometric="minisblack", **options)


TIFFS: dict[str, Callable[[Path, Image], None]] = {
    "a packed stack": lambda path, stack: write_tiff(path, stack, compression="zlib"),
    "a packed stack with axes": lambda path, stack: write_tiff(
        path, stack, compression="zlib", metadata={"axes": "TYX"}
    ),
    "packed pages": lambda path, stack: write_pages(path, stack, compression="zlib"),
    "packed pages without metadata": lambda path, stack: write_pages(path, stack, compression="zlib", metadata=None),
    "pages without metadata": lambda path, stack: write_pages(path, stack, metadata=None),
    "pages of many strips": lambda path, stack: write_pages(path, stack, rowsperstrip=1, compression="zlib"),
    "a big-endian BigTIFF": lambda path, stack: write_pages(
        path, stack, byteorder=">", bigtiff=True, compression="zlib"
    ),
    "OME": lambda path, stack: write_tiff(path, stack, ome=True, compression="zlib"),
}


@needs_proc
@pytest.mark.parametrize("kind", TIFFS)
def test_of_a_tiff_only_the_sampled_pages_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To find the pages costs 1 KiB each at most, to look at some of them a little more."""
    path = tmp_path / "stack.tif"
    TIFFS[kind](path, STACK)
    open_source(path).close()  # loads what the libraries load at the first file
    decoded = []
    asarray = tifffile.TiffPage.asarray

    def noting(page: Any) -> Image:
        decoded.append(page.index)
        pixels: Image = asarray(page)
        return pixels

    monkeypatch.setattr(tifffile.TiffPage, "asarray", noting)
    monkeypatch.setattr(tifffile.TiffFrame, "asarray", noting)
    before = read_bytes()
    with closing(open_source(path)) as source:
        opened = read_bytes() - before
        frames = frames_at(source, SAMPLED)
    read = read_bytes() - before - opened
    assert equal(frames, STACK, SAMPLED)
    assert decoded == [0, *SAMPLED]
    assert source.seen == FRAMES and source.warnings == []
    page_bytes = path.stat().st_size / FRAMES
    assert opened <= FRAMES * 1024 + 60 * 8192 + page_bytes
    assert read <= len(SAMPLED) * (page_bytes + 8192)


@needs_proc
@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"bigtiff": True, "byteorder": ">"}])
def test_of_a_tiff_in_one_piece_only_the_samples_are_touched(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    write_tiff(path, STACK, **options)
    forget(path)
    with closing(open_source(path)) as source:
        opened = resident_bytes(path)  # the kernel reads ahead at a file's head, as far as the disk is set to
        frames = frames_at(source, SAMPLED)
    assert resident_bytes(path) - opened <= len(SAMPLED) * (FRAME_BYTES + AROUND_BYTES)
    assert equal(frames, STACK, SAMPLED)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("kind", TIFFS)
def test_every_page_of_a_long_tiff(kind: str, dtype: str, tmp_path: Path) -> None:
    """Against tifffile's own list of pages."""
    stack = STACK[:, :9, :11].astype(dtype)
    TIFFS[kind](tmp_path / "stack.tif", stack)
    with closing(open_source(tmp_path / "stack.tif")) as source:
        assert equal(frames_at(source, list(range(FRAMES))), stack, list(range(FRAMES)))


def test_colour_pages_one_by_one(tmp_path: Path) -> None:
    stack = np.random.default_rng(2).integers(0, 256, (300, 8, 9, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "stack.tif") as writer:
        for page in stack:
            writer.write(page, photometric="rgb", compression="zlib")
    with closing(open_source(tmp_path / "stack.tif")) as source:
        assert equal(frames_at(source, [0, 77, 299], 300), stack[..., ::-1], [0, 77, 299])


@pytest.mark.parametrize("every", [2, 150])
def test_pages_of_another_size_among_many(every: int, tmp_path: Path) -> None:
    """Thumbnails are left out where they are seen; one page among hundreds is a sample that is missing."""
    path = tmp_path / "mixed.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, page in enumerate(STACK[:300, :16, :16]):
            odd = number % every == 1 if every == 2 else number == every
            writer.write(page[:4, :4] if odd else page, compression="zlib", photometric="minisblack")
    with closing(open_source(path)) as source:
        assert source.timeline is not None
        frames = frames_at(source, list(range(source.timeline.frames)), source.timeline.frames)
    assert {frame.pixels.shape for frame in frames} == {(16, 16)}
    if every == 2:
        assert len(frames) == source.timeline.frames == 150 and source.warnings == []
    else:
        assert [frame.index for frame in frames] == [number for number in range(300) if number != 150]
        assert source.damaged == 1
        assert "page 150 cannot be read ((4, 4) uint8 is not like the first page's (16, 16))" in source.warnings[0]


def test_stacks_added_to_a_tiff_one_after_the_other(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "stack.tif") as writer:
        for begin in range(0, FRAMES, 100):
            writer.write(STACK[begin : begin + 100, :16, :16], compression="zlib", photometric="minisblack")
    with closing(open_source(tmp_path / "stack.tif")) as source:
        assert equal(frames_at(source, SAMPLED), STACK[:, :16, :16], SAMPLED)


def test_a_long_tiff_over_channels_is_refused(tmp_path: Path) -> None:
    stack = STACK[:, :8, :9].reshape(250, 2, 8, 9)
    write_tiff(tmp_path / "stack.tif", stack, compression="zlib", metadata={"axes": "TCYX"})
    with pytest.raises(SourceError, match="2 channels are no time points"):
        open_source(tmp_path / "stack.tif")


def test_a_long_tiff_that_ends_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    write_pages(path, STACK[:, :32, :32], compression="zlib")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with closing(open_source(path)) as source:
        assert source.timeline is not None
        there = source.timeline.frames
        frames = frames_at(source, list(range(there)), there)
    assert 280 < there < 320
    assert equal(frames, STACK[:, :32, :32], list(range(len(frames)))) and len(frames) >= there - 1
    assert source.damaged and source.warnings[0].startswith("damage: ")


# --- Zarr ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are asked for in any Zarr folder, metadata left out."""
    keys: list[str] = []
    get = zarr.storage.LocalStore.get

    async def noting(store: Any, key: str, *arguments: Any, **options: Any) -> Any:
        if "zarr" not in key and ".z" not in key:
            keys.append(key)
        return await get(store, key, *arguments, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", noting)
    return keys


def write_zarr(path: Path, stack: Image, chunks: tuple[int, ...], **options: Any) -> None:
    array = zarr.create_array(path, shape=stack.shape, dtype=stack.dtype, chunks=chunks, **options)
    array[:] = stack


@needs_proc
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [(1, 256, 256), (10, 256, 256), (10, 128, 100)])
def test_of_a_zarr_store_only_the_sampled_chunks_are_read(
    chunks: tuple[int, int, int], zarr_format: Literal[2, 3], tmp_path: Path, asked: list[str]
) -> None:
    """Each once: frames 255 and 256 lie in one chunk of ten."""
    path = tmp_path / "stack.zarr"
    write_zarr(path, STACK, chunks, zarr_format=zarr_format)
    open_source(path).close()
    before = read_bytes()
    with closing(open_source(path)) as source:
        assert asked == []
        frames = frames_at(source, SAMPLED)
    read = read_bytes() - before
    assert equal(frames, STACK, SAMPLED) and source.seen == FRAMES
    in_a_frame = -(-HEIGHT // chunks[1]) * -(-WIDTH // chunks[2])
    assert len(asked) == len(set(asked)) == in_a_frame * len({index // chunks[0] for index in SAMPLED})
    stored = sum(file.stat().st_size for file in path.rglob("*"))
    assert read <= stored * len(asked) / (in_a_frame * FRAMES / chunks[0]) + 100_000


@needs_proc
def test_of_a_shard_only_the_sampled_chunks_are_read(tmp_path: Path) -> None:
    """A shard of 100 frames holds chunks of one, and says where each of them lies."""
    path = tmp_path / "stack.zarr"
    write_zarr(path, STACK, (1, 256, 256), shards=(100, 256, 256))
    open_source(path).close()
    before = read_bytes()
    with closing(open_source(path)) as source:
        frames = frames_at(source, SAMPLED)
    assert equal(frames, STACK, SAMPLED)
    assert read_bytes() - before <= len(SAMPLED) * (FRAME_BYTES + 16 * 100 + 8192) + 100_000


def test_samples_of_a_long_chunk_are_read_in_bounded_groups(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 500 frames in one chunk: it is unpacked once for so many samples as may be held together."""
    monkeypatch.setattr("gpu_bgstat.sources.chunked._TOGETHER_BYTES", 4 * FRAME_BYTES)
    write_zarr(tmp_path / "stack.zarr", STACK, STACK.shape)
    wanted = list(range(10, 500, 50))
    with closing(open_source(tmp_path / "stack.zarr")) as source:
        frames = frames_at(source, wanted)
    assert equal(frames, STACK, wanted)
    assert len(asked) == -(-len(wanted) // 4)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f4"])
def test_kinds_of_zarr_stores(dtype: str, zarr_format: Literal[2, 3], tmp_path: Path) -> None:
    """A folder of any name, a zip file, an array in a group: chosen if it is the only one, or named."""
    stack = COLOUR.astype(dtype)
    if zarr_format == 3 and dtype == ">u2":
        stack = stack.astype("<u2")  # format 3 keeps the order with the codec, not with the type
    write_zarr(tmp_path / "plain", stack, (5, 10, 14, 3), zarr_format=zarr_format)
    with zarr.storage.ZipStore(tmp_path / "rec.zarr.zip", mode="w") as store:
        zipped = zarr.create_array(store, shape=stack.shape, dtype=stack.dtype, zarr_format=zarr_format)
        zipped[:] = stack
    group = zarr.create_group(tmp_path / "group.zarr", zarr_format=zarr_format)
    deep = group.create_group("a").create_array("frames", shape=stack.shape, dtype=stack.dtype)
    deep[:] = stack
    group.create_array("times", shape=(12,), dtype="f8")
    for name in ("plain", "rec.zarr.zip", "group.zarr", "group.zarr::a/frames", "group.zarr::/a", "group.zarr::a"):
        with closing(open_source(tmp_path / name)) as source:
            assert equal(frames_at(source, [0, 4, 5, 11], 12), stack, [0, 4, 5, 11]), name
            assert source.spec is not None and source.spec.shape == (10, 14, 3)
            assert source.container["format"] == "zarr"


def test_a_choice_of_zarr_arrays_is_named(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "two.zarr")
    for name in ("left", "right"):
        group.create_array(name, shape=SMALL.shape, dtype="u1")[:] = SMALL
    with pytest.raises(SourceError, match=r"2 arrays .*\(left, right\): name one, .*two\.zarr::left"):
        open_source(tmp_path / "two.zarr")
    with closing(open_source(f"{tmp_path}/two.zarr::right")) as source:
        assert equal(frames_at(source, [5], 24), SMALL, [5])
    with pytest.raises(SourceError, match=r"two\.zarr::middle is no Zarr array or group"):
        open_source(f"{tmp_path}/two.zarr::middle")


def ome_zarr(path: Path, stack: Image, axes: str | None, version: str = "0.4") -> None:
    """An image with a full and a half resolution."""
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
    for name, level in (("full", stack), ("half", stack[..., ::2, ::2])):
        group.create_array(name, shape=level.shape, dtype=level.dtype)[:] = level
    image: dict[str, Any] = {"version": version, "datasets": [{"path": "full"}, {"path": "half"}]}
    if axes:
        image["axes"] = [axis if version == "0.3" else {"name": axis} for axis in axes]
    group.attrs.update({"ome": {"multiscales": [image]}} if version == "0.5" else {"multiscales": [image]})


@pytest.mark.parametrize(
    ("axes", "shape", "version"),
    [
        ("tyx", (24, 20, 30), "0.4"),
        ("tyx", (24, 20, 30), "0.5"),
        ("zyx", (24, 20, 30), "0.3"),
        ("tczyx", (24, 1, 1, 20, 30), "0.5"),
        (None, (24, 1, 1, 20, 30), "0.1"),
        ("tczyx", (1, 1, 24, 20, 30), "0.4"),
    ],
)
def test_the_first_resolution_of_an_ome_zarr_image(
    axes: str | None, shape: tuple[int, ...], version: str, tmp_path: Path
) -> None:
    ome_zarr(tmp_path / "image.zarr", SMALL.reshape(shape), axes, version)
    with closing(open_source(tmp_path / "image.zarr")) as source:
        got = frames_at(source, [0, 9, 10, 23], 24)
    assert [frame.index for frame in got] == [0, 9, 10, 23]
    assert all(np.array_equal(frame.pixels.reshape(20, 30), SMALL[frame.index]) for frame in got)
    assert source.spec is not None and source.spec.shape == (20, 30)


def test_three_channels_of_an_ome_zarr_image_are_bgr(tmp_path: Path) -> None:
    """And a writer that converts whole files puts the image into a group of the root."""
    ome_zarr(tmp_path / "image.zarr" / "0", np.moveaxis(COLOUR, 3, 1), "tcyx")
    zarr.open_group(tmp_path / "image.zarr", mode="a", zarr_format=2)
    with closing(open_source(tmp_path / "image.zarr")) as source:
        assert equal(frames_at(source, [2, 11], 12), COLOUR, [2, 11])


@pytest.mark.parametrize(
    ("axes", "shape", "told"),
    [
        ("tcyx", (12, 2, 20, 30), "2 channels are no time points"),
        ("tzyx", (6, 4, 20, 30), "4 planes are no time points"),
        ("tczyx", (3, 2, 4, 20, 30), "2 channels and 4 planes are no time points"),
        ("cyx", (24, 20, 30), "it is one frame"),
        ("tyx", (1, 24, 20, 30), "each once"),
    ],
)
def test_an_ome_zarr_image_of_more_than_time_is_refused(
    axes: str, shape: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    ome_zarr(tmp_path / "image.zarr", SMALL.reshape(shape), axes)
    with pytest.raises(SourceError, match=told):
        open_source(tmp_path / "image.zarr")


def test_missing_and_damaged_zarr_chunks(tmp_path: Path) -> None:
    """A lost chunk reads as zeros by the format: never as a sample, unless other parts of the frame are there."""
    path = tmp_path / "stack.zarr"
    write_zarr(path, SMALL, (4, 20, 15))
    (path / "c/1/0/0").unlink()
    (path / "c/1/0/1").unlink()
    (path / "c/2/0/1").unlink()
    (path / "c/3/0/0").write_bytes(b"no chunk")
    with closing(open_source(path)) as source:
        frames = frames_at(source, [0, 5, 6, 9, 13, 20], 24)
    assert [frame.index for frame in frames] == [0, 9, 20]
    assert np.array_equal(frames[0].pixels, SMALL[0]) and np.array_equal(frames[2].pixels, SMALL[20])
    assert np.array_equal(frames[1].pixels[:, :15], SMALL[9, :, :15]) and not frames[1].pixels[:, 15:].any()
    assert source.damaged == 3 and source.seen == 24
    assert (
        source.warnings[0]
        == "damage: 2 frames from 5 to 6 cannot be read (never stored, or lost); their samples are missing"
    )
    assert source.warnings[1].startswith("damage: frame 13 cannot be read (")
    assert source.warnings[2].startswith("1 samples have parts that are not stored, and show the fill value there")


def test_folders_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "torn.zarr").mkdir()
    (tmp_path / "torn.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_ty')
    (tmp_path / "text.zarr.zip").write_text("no archive")
    for name in ("empty.zarr", "torn.zarr", "text.zarr.zip"):
        with pytest.raises(SourceError, match=rf"{name} is no Zarr array or group that can be read"):
            open_source(tmp_path / name)
    zarr.create_group(tmp_path / "none.zarr")
    with pytest.raises(SourceError, match="holds no array of numbers with 3 or 4 dimensions"):
        open_source(tmp_path / "none.zarr")


# --- HDF5 ----------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "in one piece": {},
    "frame by frame": {"chunks": (1, 256, 256), "compression": "gzip"},
    "ten frames": {"chunks": (10, 256, 256), "compression": "lzf"},
    "ten frames in parts": {"chunks": (10, 128, 100), "shuffle": True, "compression": "gzip", "fletcher32": True},
    "2 MB chunks": {"chunks": (32, 256, 256)},
}


@needs_proc
@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_an_hdf5_file_only_the_sampled_chunks_are_read(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "stack.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=STACK, **LAYOUTS[layout])
    open_source(path).close()
    before = read_bytes()
    with closing(open_source(path)) as source:
        opened = read_bytes() - before
        frames = frames_at(source, SAMPLED)
    read = read_bytes() - before - opened
    assert opened < 50_000
    assert equal(frames, STACK, SAMPLED) and source.seen == FRAMES
    length = LAYOUTS[layout].get("chunks", (1,))[0]
    chunk_bytes = path.stat().st_size * length / FRAMES
    index_bytes = 100_000 * (length < 32)  # the tree of chunks
    assert read <= len({index // length for index in SAMPLED}) * (chunk_bytes * 1.1 + 65536) + index_bytes


def test_a_choice_of_hdf5_datasets_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rec [1].hdf5"
    with h5py.File(path, "w") as file:
        file["entry/left"] = SMALL
        file["entry/right"] = SMALL[::-1]
        file["times"] = np.arange(24.0)
    with pytest.raises(SourceError, match=r"2 arrays .*\(/entry/left, /entry/right\): name one, .*::/entry/left"):
        open_source(path)
    for name in ("/entry/right", "entry/right"):
        with closing(open_source(f"{path}::{name}")) as source:
            assert equal(frames_at(source, [1, 20], 24), SMALL[::-1], [1, 20])
            assert source.name == f"{path}::/entry/right"
    with pytest.raises(SourceError, match=r"::/middle is not in the file, which holds entry, times"):
        open_source(f"{path}::/middle")
    with pytest.raises(SourceError, match=r"::/times has shape \(24,\): a stack is"):
        open_source(f"{path}::/times")


def test_an_hdf5_file_without_a_stack(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["flat"] = SMALL[0]
        file["masks"] = SMALL > 100
        file["kind"] = np.dtype("u1")
    with pytest.raises(SourceError, match=r"none\.h5 holds no array of numbers with 3 or 4 dimensions"):
        open_source(tmp_path / "none.h5")
    with pytest.raises(SourceError, match=r"/kind is a type, no dataset"):
        open_source(f"{tmp_path}/none.h5::/kind")
    with pytest.raises(FrameError, match="type bool is no frame"):
        open_source(f"{tmp_path}/none.h5::/masks")


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4"])
def test_types_and_colours_in_hdf5(dtype: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file.create_dataset("frames", data=COLOUR.astype(dtype), chunks=(5, 4, 4, 3))
        file.create_dataset("two", data=COLOUR[..., :2])
    with closing(open_source(f"{tmp_path}/stack.h5::frames")) as source:
        assert equal(frames_at(source, [0, 3, 4, 11], 12), COLOUR.astype(dtype), [0, 3, 4, 11])
    with pytest.raises(FrameError, match=r"shape \(10, 14, 2\) is no frame"):
        open_source(f"{tmp_path}/stack.h5::two")


def test_missing_and_damaged_hdf5_chunks(tmp_path: Path) -> None:
    """Chunks that were never written read as zeros: not as a sample, unless other parts of the frame were written."""
    path = tmp_path / "stack.h5"
    stack = SMALL.copy()
    stack[17] = 0  # black, and written
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", SMALL.shape, "u1", chunks=(4, 20, 15), compression="gzip")
        for first in (0, 12, 16, 20):
            frames[first : first + 4] = stack[first : first + 4]
        frames[8:12, :, :15] = stack[8:12, :, :15]
        chunk = frames.id.get_chunk_info_by_coord((12, 0, 0))
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 2 : chunk.byte_offset + 40] = bytes(38)
    path.write_bytes(data)
    with closing(open_source(path)) as source:
        got = frames_at(source, [0, 5, 6, 9, 13, 17, 20], 24)
    assert [frame.index for frame in got] == [0, 9, 17, 20]
    assert all(np.array_equal(frame.pixels, stack[frame.index]) for frame in got if frame.index != 9)
    assert np.array_equal(got[1].pixels[:, :15], stack[9, :, :15]) and not got[1].pixels[:, 15:].any()
    assert source.damaged == 3 and source.seen == 24
    assert (
        source.warnings[0]
        == "damage: 2 frames from 5 to 6 cannot be read (never stored, or lost); their samples are missing"
    )
    assert source.warnings[1].startswith("damage: frame 13 cannot be read (")
    assert source.warnings[2].startswith("1 samples have parts that are not stored")


def test_hdf5_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole, cut, text, made = (tmp_path / f"{name}.h5" for name in ("whole", "cut", "text", "made"))
    with h5py.File(whole, "w") as file:
        file["frames"] = SMALL
    cut.write_bytes(whole.read_bytes()[:9000])
    text.write_text("no recording")
    with h5py.File(made, "w") as file:
        file.create_dataset("frames", SMALL.shape, "u1")
    for path in (cut, text):
        with pytest.raises(SourceError, match=rf"{path.name} is no HDF5 file that can be read .*is it whole\?"):
            open_source(path)
    with pytest.raises(SourceError, match=r"made\.h5 was made, and no frame was ever written"):
        open_source(made)


def test_an_hdf5_filter_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((1, 20, 30))
        layout.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(SMALL.shape)
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, layout)
    with pytest.raises(SourceError, match=r"filter 32999 .*: pip install hdf5plugin"):
        open_source(tmp_path / "stack.h5")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_random_damage_raises_nothing_else(kind: str, seed: int, tmp_path: Path) -> None:
    """Frames or SourceError, never another error."""
    rng = np.random.default_rng(seed)
    path = tmp_path / f"stack.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("frames", data=SMALL, chunks=(3, 10, 30), compression="gzip" if seed % 2 else None)
        files = [path]
    else:
        write_zarr(path, SMALL, (3, 10, 30), zarr_format=2 + seed % 2)
        files = [file for file in path.rglob("*") if file.is_file()]
    for _ in range(6):
        file_path = files[int(rng.integers(len(files)))]
        data = bytearray(file_path.read_bytes())
        at = int(rng.integers(0, max(1, min(len(data), 3000) - 4)))
        data[at : at + 4] = rng.bytes(4)
        file_path.write_bytes(data)
    try:
        source = open_source(path)
    except (SourceError, FrameError) as error:
        assert str(path) in str(error) or isinstance(error, FrameError)
        return
    with closing(source):
        assert source.timeline is not None
        for frame in frames_at(source, list(range(min(24, source.timeline.frames)))):
            assert frame.pixels.ndim in (2, 3)


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("library", "name"), [("h5py", "rec.h5"), ("zarr", "rec.zarr.zip")])
def test_without_the_library_the_message_says_what_to_install(
    library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"something")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SourceError, match=rf"needs {library}.*: pip install 'gpu-bgstat\[(hdf5|zarr)\]'"):
        open_source(tmp_path / name)


def test_an_old_zarr_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rec.zarr").mkdir()
    monkeypatch.delattr(zarr.storage, "WrapperStore")
    with pytest.raises(SourceError, match=r"needs zarr 3, and 3\..* is here: pip install 'gpu-bgstat\[zarr\]'"):
        open_source(tmp_path / "rec.zarr")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_indices_and_any_chunking_give_numpys_pixels(data: st.DataObject, tmp_path: Path) -> None:
    shape: tuple[int, ...] = tuple(data.draw(st.integers(1, most), label="size") for most in (30, 7, 9))
    shape += data.draw(st.sampled_from([(), (1,), (3,), (4,)]), label="channels")
    dtype = data.draw(st.sampled_from(["u1", "u2", ">u2", "i4", "f4"]), label="type")
    chunks = tuple(data.draw(st.integers(1, size), label="chunk") for size in shape)
    indices = sorted(data.draw(st.sets(st.integers(0, shape[0] - 1)), label="indices"))
    stack = (np.arange(np.prod(shape)).reshape(shape) % 250 + 1).astype(dtype)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    path.mkdir()
    with h5py.File(path / "stack.h5", "w") as file:
        file.create_dataset("frames", data=stack, chunks=data.draw(st.sampled_from([chunks, None]), label="chunked"))
    write_zarr(path / "stack.zarr", stack, chunks, zarr_format=2)
    for name in ("stack.h5", "stack.zarr"):
        with closing(open_source(path / name)) as source:
            assert isinstance(source, ChunkedSource)
            assert equal(frames_at(source, indices), stack, indices)
            assert source.seen == shape[0] and not source.warnings


@pytest.fixture(scope="module")
def calcium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A real recording of 1000 pages, and the same in other files."""
    path = recording("stacks/imageio_calcium_imaging.tif")
    folder = tmp_path_factory.mktemp("calcium")
    stack = tifffile.imread(path)
    np.save(folder / "rec.npy", stack)
    write_zarr(folder / "rec.zarr", stack, (64, 16, 30))
    with h5py.File(folder / "rec.h5", "w") as file:
        file.create_dataset("frames", data=stack, chunks=(64, 16, 30), compression="gzip")
    yield {"tif": path, **{suffix: folder / f"rec.{suffix}" for suffix in ("npy", "zarr", "h5")}}


@pytest.mark.recordings
def test_one_recording_in_four_kinds_of_files(calcium: dict[str, Path]) -> None:
    """The same median, the same variance, the same samples, and the same count of frames."""
    stack = tifffile.imread(calcium["tif"])
    config = Config(every=7, max_samples=50, method="median", start="20f", end="980f")
    for path in calcium.values():
        background = estimate(path, config)
        indices = [sample.index for sample in background.samples]
        assert len(indices) == 50 and background.run.frames_seen == 980 and background.run.warnings == ()
        assert np.array_equal(background.background, np.median(stack[indices], axis=0).astype(np.uint16))


@pytest.mark.recordings
@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_a_range_needs_frame_numbers(calcium: dict[str, Path], kind: str) -> None:
    with pytest.raises(ConfigError, match=r"start=1\.5 s needs frame times.*use a frame number"):
        estimate(calcium[kind], Config(start=1.5))


def test_stores_and_files_are_joined(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", SMALL, (7, 20, 30))
    for name in ("b", "c"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"], file["y"] = SMALL, SMALL[::-1]
    whole = np.concatenate([SMALL, SMALL[::-1], SMALL])
    parts = [tmp_path / "a.zarr", f"{tmp_path}/b.h5::/y", f"{tmp_path}/c.h5::/x"]
    with closing(open_source([str(part) for part in parts])) as source:
        wanted = [0, 23, 24, 40, 48, 71]
        assert equal(frames_at(source, wanted, 72), whole, wanted)
        assert source.seen == 72


def test_the_command_takes_a_name_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("rec.h5", "w") as file:
        file["left"], file["right"] = SMALL, SMALL[::-1]
    assert main(["estimate", "rec.h5::/left", "--every", "1", "-o", "out", "--quiet"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "rec.h5::/left" in json.dumps(report)
    assert main(["estimate", "rec.h5", "--every", "1", "-o", "out2", "--quiet"]) == 1


def test_a_name_inside_another_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", SMALL)
    with pytest.raises(SourceError, match="only HDF5 files and Zarr stores hold arrays with names"):
        open_source(f"{tmp_path}/stack.npy::frames")
    with pytest.raises(SourceError, match="does not exist"):
        open_source(f"{tmp_path}/nowhere.h5::frames")
