"""Hostile input: files that claim more than they hold, pipes and devices instead of files, names of any bytes.

Each runs in a process of its own with a limit on its memory, and must end in time with one clear line.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from clips import Clip

from gpu_bgstat.errors import FrameError
from gpu_bgstat.frames import MAX_PIXELS, FrameSpec, check_size
from gpu_bgstat.sources.picture_size import picture_size

MEMORY_BYTES = 3 << 30  # of addresses, most of them libraries and the stacks of threads
LIMIT_S = 30
SMALL = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def command(*arguments: str | bytes, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a run with limited memory; one that does not end in time fails the test."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-m", "gpu_bgstat", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=limited,  # noqa: PLW1509 (no threads here)
    ) as process:
        try:
            _, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    return process.returncode, err.decode(errors="replace")


def refused(path: str | bytes, folder: Path, *parts: str) -> str:
    """The one line that says why this source is none."""
    code, err = command("estimate", path, "--every", "1", "--device", "cpu", "-o", "out", folder=folder)
    assert code == 1, err
    line = [line for line in err.splitlines() if not line.startswith("device: ")]
    assert line[-1].startswith("gpu-bgstat: ") and "Traceback" not in err, err
    for part in parts:
        assert part in line[-1], line[-1]
    assert not (folder / "out").exists()
    return line[-1]


# --- pictures and videos that claim to be huge -----------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encoded(suffix: str, pixels: Any = SMALL) -> bytearray:
    found, data = cv2.imencode(suffix, pixels)
    if not found:
        pytest.skip(f"this OpenCV writes no {suffix}")
    return bytearray(data.tobytes())


def jpeg(width: int, height: int) -> bytes:
    data = encoded(".jpg")
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    data = encoded(".bmp")
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    """The extended header has three bytes a side."""
    inner = bytes(encoded(".webp"))[12:]
    body = b"VP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(body) + len(inner)) + b"WEBP" + body + inner


def pgm(width: int, height: int) -> bytes:
    return f"P5\n# a bomb\n{width} {height}\n255\n".encode() + bytes(100)


def tiff(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(3):
            writer.write(SMALL[..., 0], photometric="minisblack", compression="zlib", metadata=None)
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        pages: Any = file.pages
        places = [
            (page.tags[tag].valueoffset, number) for page in pages for tag, number in ((256, width), (257, height))
        ]
    for place, number in places:
        data[place - 6 : place + 4] = struct.pack("<HII", 4, 1, number)  # a long instead of a short
    return bytes(data)


BOMBS: dict[str, Callable[[int, int], bytes]] = {
    "bomb.png": png,
    "bomb.jpg": jpeg,
    "bomb.bmp": bmp,
    "bomb.webp": webp,
    "bomb.pgm": pgm,
    "bomb.tif": tiff,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_claims_to_be_huge(name: str, tmp_path: Path) -> None:
    """Refused by its header, before anything is allocated."""
    data = BOMBS[name](100_000, 100_000)
    size = picture_size(data)
    assert size == ((65_535, 65_535) if name.endswith("jpg") else (100_000, 100_000))
    (tmp_path / name).write_bytes(data)
    refused(name, tmp_path, name, f"{size[0]}x{size[1]} is no size of a frame", "268,435,456 pixels")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".ppm", ".tiff", ".jp2", ".hdr"])
def test_the_size_in_a_header_is_that_of_the_pixels(suffix: str) -> None:
    for height, width in ((12, 16), (77, 33), (1, 300)):
        pixels = np.full((height, width, 3), 100, np.float32 if suffix == ".hdr" else np.uint8)
        assert picture_size(bytes(encoded(suffix, pixels))) == (width, height)


def test_a_bomb_among_pictures_is_damage(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(".png"))
    (tmp_path / "2.png").write_bytes(png(100_000, 100_000))
    code, err = command("estimate", ".", "--every", "1", "--device", "cpu", "-o", "../out", folder=tmp_path)
    assert code == 0, err
    assert "damage: 2.png (frame 2) cannot be read (2.png: 100000x100000 is no size of a frame" in err


def test_the_largest_frame() -> None:
    check_size(1 << 14, 1 << 14)
    assert FrameSpec(1 << 14, 1 << 14, 3, np.dtype("u1")).values == 3 * MAX_PIXELS
    for size in ((1 << 14, (1 << 14) + 1), (MAX_PIXELS + 1, 1), (-5, -5), (-5, 5), (0, 5), (1 << 40, 1 << 40)):
        with pytest.raises(FrameError, match="is no size of a frame"):
            FrameSpec(*size, 1, np.dtype("u1"))


def test_a_video_whose_header_claims_to_be_huge(tmp_path: Path) -> None:
    """Raw video has just the container's word for its size."""
    path = Clip("avi", "rawvideo", frames=8, size=(64, 48)).write(tmp_path / "bomb.avi")
    data = path.read_bytes()
    assert data.count(struct.pack("<II", 64, 48)) >= 1
    path.write_bytes(data.replace(struct.pack("<II", 64, 48), struct.pack("<II", 100_000, 100_000)))
    refused(path.name, tmp_path, "bomb.avi")


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_video_whose_pictures_claim_to_be_huge(suffix: str, tmp_path: Path) -> None:
    path = Clip(suffix, "mjpeg", pixel_format="yuvj420p", frames=8, size=(64, 48)).write(tmp_path / f"bomb.{suffix}")
    small, huge = (b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", *size) for size in ((48, 64), (65_535, 65_535)))
    data = path.read_bytes()
    assert data.count(small) == 8
    path.write_bytes(data.replace(small, huge))
    refused(path.name, tmp_path, path.name)


# --- TIFF of a million pages -----------------------------------------------------------------------------------------


def million_pages(path: Path, pages: int) -> None:
    """Real pages of 2x2 pixels, each with its directory, one behind the other."""
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 2)]
    tags.append((279, 4, 4))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    one = struct.pack("<H", len(tags)) + entries
    record = np.dtype([("tags", f"V{len(one)}"), ("next", "<u4")])
    directories = np.zeros(pages, record)
    directories["tags"] = np.void(one)
    begins = 12 + np.arange(1, pages + 1, dtype=np.int64) * record.itemsize
    directories["next"] = np.where(np.arange(pages) < pages - 1, begins, 0)
    path.write_bytes(struct.pack("<4sI4B", b"II*\0", 12, 1, 2, 3, 4) + directories.tobytes())


def test_a_tiff_of_a_million_pages(tmp_path: Path) -> None:
    million_pages(tmp_path / "pages.tif", 1_000_000)
    started = time.monotonic()
    arguments = ["plan", "pages.tif", "--every", "1000", "--device", "cpu"]
    code, err = command(*arguments, folder=tmp_path)
    assert code == 0 or "is no TIFF" in err, err
    assert time.monotonic() - started < LIMIT_S


@pytest.mark.parametrize("loop", [1, 3, 300])
def test_a_tiff_whose_pages_go_round_in_a_circle(loop: int, tmp_path: Path) -> None:
    path = tmp_path / "circle.tif"
    million_pages(path, loop)
    data = bytearray(path.read_bytes())
    data[-4:] = struct.pack("<I", 12)
    path.write_bytes(data)
    code, err = command("estimate", "circle.tif", "--every", "1", "--device", "cpu", "-o", "out", folder=tmp_path)
    assert code in (0, 1) and "Traceback" not in err


# --- arrays ----------------------------------------------------------------------------------------------------------


def npy(shape: str, descr: str = "'|u1'", body: bytes = bytes(64)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


HEADERS = {
    "giant": npy("(1000000, 100000, 100000)"),
    "negative": npy("(-4, -4, 4)"),
    "minus one": npy("(-1, 4, 4)"),
    "beyond 64 bits": npy("(99999999999999999999, 4, 4)"),
    "overflowing to 0": npy("(4294967296, 4294967296, 4)"),
    "nested": npy("(" * 3000),
    "objects": npy("(4, 4)", "'|O'"),
    "a field": npy("(4, 4)", "[('a', '<u1', (99999999999,))]"),
    "a long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b"{",
    "version 9": b"\x93NUMPY\x09\x00" + bytes(100),
}


@pytest.mark.parametrize("archive", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_numpy_headers_that_lie(archive: int | None, tmp_path: Path) -> None:
    """Each in this process: nothing large is even tried."""
    from gpu_bgstat.errors import SourceError
    from gpu_bgstat.sources import open_source

    for name, data in HEADERS.items():
        path = tmp_path / f"{name}.{'npy' if archive is None else 'npz'}"
        if archive is None:
            path.write_bytes(data)
        else:
            with zipfile.ZipFile(path, "w", archive) as zipped:
                zipped.writestr("arr.npy", data)
        with pytest.raises(SourceError, match="is no NumPy file that can be read") as caught:
            open_source(path)
        assert "\n" not in str(caught.value)


def test_a_sparse_file_with_a_long_header(tmp_path: Path) -> None:
    """Five GB that take no room on the disk: NumPy would read the header into memory."""
    with (tmp_path / "long.npy").open("wb") as file:
        file.write(HEADERS["a long header"])
        file.truncate(5 << 30)
    refused("long.npy", tmp_path, "claims to have 4294967295 bytes")


def test_a_zip_bomb(tmp_path: Path) -> None:
    """A terabyte by its header; and one that unpacks to more than it says."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("arr.npy", npy("(10000, 100, 100)", body=bytes(100_000_000)))
        zipped.filelist[0].file_size = 1 << 40
    refused("bomb.npz", tmp_path, "bomb.npz unpacks to 1099.5 GB", "save it with numpy.savez")
    with zipfile.ZipFile(tmp_path / "less.npz", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("arr.npy", npy("(10000, 100, 100)", body=bytes(100_000_000)))
        zipped.filelist[0].file_size = 1000
    refused("less.npz", tmp_path, "less.npz is no NumPy file that can be read")


def test_zarr_and_hdf5_that_claim_to_be_huge(tmp_path: Path) -> None:
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file.create_dataset("x", (5, 10**5, 10**5), "u1", chunks=(1, 10, 10))
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file.create_dataset("x", (10**6, 10**4, 10**4), "u1")
    zarr.create_array(tmp_path / "wide.zarr", shape=(5, 10**5, 10**5), chunks=(1, 10, 10), dtype="u1")
    zarr.create_array(tmp_path / "chunk.zarr", shape=(10**6, 100, 100), chunks=(10**6, 100, 100), dtype="u1")
    zarr.create_array(tmp_path / "long.zarr", shape=(10**5, 10, 10), chunks=(1, 10, 10), dtype="u1")
    for name in ("long.zarr", "chunk.zarr"):
        metadata = tmp_path / name / "zarr.json"
        told = json.loads(metadata.read_text())
        told["shape"][0] = 10**30 if name == "long.zarr" else 10**9
        if name == "chunk.zarr":
            told["chunk_grid"]["configuration"]["chunk_shape"][0] = 10**9
        metadata.write_text(json.dumps(told))
    refused("wide.h5", tmp_path, "100000x100000 is no size of a frame")
    refused("bare.h5", tmp_path, "no frame was ever written")
    refused("wide.zarr", tmp_path, "100000x100000 is no size of a frame")
    refused("chunk.zarr", tmp_path, "has chunks of 10000.0 GB each")
    refused("long.zarr", tmp_path, "long.zarr")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_numbers_that_are_none(value: float, kind: str, tmp_path: Path) -> None:
    """In the middle of a stack, in any of its formats."""
    from gpu_bgstat import Config, estimate

    stack = np.zeros((5, 4, 6), kind)
    stack[3, 2, 1] = value
    np.save(tmp_path / "stack.npy", stack)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    for name in ("stack.npy", "stack.tif"):
        with pytest.raises(FrameError, match="holds values that are no numbers: replace them first"):
            estimate(tmp_path / name, Config(every=1, device="cpu"))


# --- what is no file -------------------------------------------------------------------------------------------------

ENDINGS = ["mp4", "png", "tif", "npy", "npz", "h5", "zarr.zip"]


def test_pipes_and_devices_instead_of_files(tmp_path: Path) -> None:
    """Nothing waits for a pipe, and nothing reads a device that never ends."""
    names = []
    for ending in ENDINGS:
        os.mkfifo(tmp_path / f"pipe.{ending}")
        (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
        names += [f"pipe.{ending}", f"zero.{ending}"]
    script = (
        "import sys\nfrom gpu_bgstat.errors import SourceError\nfrom gpu_bgstat.sources import open_source\n"
        "for name in sys.argv[1:]:\n  for given in (name, [name, name]):\n"
        "    try: open_source(given)\n    except SourceError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(names) and not done.stderr
    assert all("no file" in line for line in lines), lines


def test_pipes_among_pictures(tmp_path: Path) -> None:
    """In a folder they are no pictures; named by a glob they are refused."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(".png"))
    os.mkfifo(tmp_path / "3.png")
    (tmp_path / "4.png").symlink_to("/dev/zero")
    (tmp_path / "5.png").symlink_to("5.png")
    code, err = command("estimate", ".", "--every", "1", "--device", "cpu", "-o", "../out", folder=tmp_path)
    assert code == 0, err
    refused("*.png", tmp_path, "3.png is no file")


def test_a_picture_that_becomes_a_pipe(tmp_path: Path) -> None:
    """Between opening and reading."""
    from gpu_bgstat.schedule import Planned
    from gpu_bgstat.sources import open_source

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(".png"))
    source = open_source(tmp_path)
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    assert [frame.index for frame in source.read(Planned(range(3), 3))] == [0, 2]
    assert source.damaged == 1


def test_pipes_within_a_zarr_store(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    os.makedirs(tmp_path / "meta.zarr")  # noqa: PTH103
    os.mkfifo(tmp_path / "meta.zarr" / "zarr.json")
    refused("meta.zarr", tmp_path, "zarr.json is no file")
    array = zarr.create_array(tmp_path / "rec.zarr", shape=(4, 8, 8), chunks=(1, 8, 8), dtype="u1")
    array[:] = 7
    chunk = next(path for path in (tmp_path / "rec.zarr" / "c").rglob("*") if path.is_file())
    chunk.unlink()
    os.mkfifo(chunk)
    code, err = command("estimate", "rec.zarr", "--every", "1", "--device", "cpu", "-o", "out", folder=tmp_path)
    assert code == 0 and "is no file" in err, err


def test_symlink_loops(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    refused("a.mp4", tmp_path, "a.mp4 cannot be opened (Too many levels of symbolic links)")
    deep = tmp_path / "deep"
    deep.mkdir()
    for number in range(3):
        (deep / f"{number}.png").write_bytes(encoded(".png"))
        (deep / f"again{number}").symlink_to(".")
    code, err = command(
        "estimate", "deep/**/*.png", "--every", "1", "--device", "cpu", "-o", "out", "--json", folder=tmp_path
    )
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["frames"]["seen"] == 3


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = [
    b"\xff\xfe.npy",
    b"a\nb.npy",
    b"-o.npy",
    b"--every.npy",
    b"\x1b[31mred.npy",
    "\u202egnp.npy".encode(),
    b"a b'\"$&;.npy",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_of_any_bytes(name: bytes, tmp_path: Path) -> None:
    """They are read like any other, and what is told of them obeys no terminal."""
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:  # noqa: PTH123
        np.save(file, np.random.default_rng(1).integers(0, 256, (4, 6, 8), dtype=np.uint8))
    code, err = command("estimate", "--every", "1", "--device", "cpu", "-o", "out", "--", name, folder=tmp_path)
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["frames"]["sampled"]
    assert (tmp_path / "out" / "report.html").stat().st_size
    code, err = command("estimate", "--", b"no" + name, folder=tmp_path)
    assert code == 1 and err.count("\n") == 1 and "\x1b" not in err
    assert "does not exist" in err or "no file matches" in err  # of those with brackets in it
