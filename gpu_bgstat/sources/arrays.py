"""Frames that are in memory or in a NumPy file: stacks (T, H, W[, C]), .npy, .npz, and any iterable of frames."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterable, Iterator, Sized
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile
from zlib import error as ZlibError  # noqa: N812

import numpy as np

from gpu_bgstat.backends.memory import free_host_bytes, size_text
from gpu_bgstat.errors import FrameError, SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
from gpu_bgstat.sources.mapped import at_random, copy_frame
from gpu_bgstat.sources.source import Source

_MAGIC = b"\x93NUMPY"
_MOST_HEADER_BYTES = 10_000  # NumPy's own limit for headers that are not trusted
_LISTED = 8  # at most so many names stand in an error
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    BadZipFile,
    ZlibError,
    LZMAError,
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class StackSource(Source):
    """One array of frames: (T, H, W) is grey, (T, H, W, 3) BGR."""

    def __init__(self, stack: Image, name: str = "array", format_name: str = "array") -> None:
        super().__init__(name)
        if stack.ndim not in (3, 4):
            raise SourceError(f"{name} has shape {stack.shape}: a stack is (T, H, W) or (T, H, W, C)")
        if not len(stack):
            raise SourceError(f"{name} has shape {stack.shape}: it holds no frame")
        self._stack = stack
        self.spec = FrameSpec.of(stack[0])
        self.timeline = Timeline(len(stack))
        self.container = {"format": format_name, "codec": str(stack.dtype)}
        self.container |= {"width": self.spec.width, "height": self.spec.height}

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        for index in self.due(plan, len(self._stack)):
            yield Frame(index, None, copy_frame(self._stack, index))


class IterableSource(Source):
    """Frames one after the other from Python; its length is known only if it has one."""

    def __init__(self, frames: Iterable[Image]) -> None:
        super().__init__("frames from Python")
        self._frames = frames
        self.timeline = Timeline(len(frames)) if isinstance(frames, Sized) else None
        self.container = {"format": "iterable"}

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        for index, frame in enumerate(self._frames):
            if plan.over(index, None):
                return
            self.seen += 1
            if plan.due(index, None):
                yield Frame(index, None, _array(frame, index))


def _array(frame: Image, index: int) -> Image:
    try:
        return np.array(frame)
    except ValueError as error:  # rows of different length
        raise FrameError(f"frame {index} is no array: give (H, W), or (H, W, 3) in BGR order") from error


def load_stack(path: Path) -> StackSource:
    """The stack in a .npy file, or in an .npz file with one array; raises SourceError.

    It is mapped, not read, unless it is compressed (`numpy.savez_compressed`): then all of it is unpacked into memory.
    """
    try:
        if _is_array(path):
            stack = _map(path, 0)
        else:  # NumPy would leave a file open that it cannot read
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                name = _only(archive, path)
                mapped = _mapped(path, f"{name}.npy")
                stack = _unpacked(archive, name, path) if mapped is None else mapped
    except _DAMAGE as error:
        raise SourceError(f"{path} is no NumPy file that can be read ({error})") from error
    source = StackSource(at_random(stack), str(path), path.suffix.lstrip(".").lower())
    source.files = [path]
    return source


def _only(archive: np.lib.npyio.NpzFile, path: Path) -> str:
    names = archive.files
    if len(names) != 1:
        listed = f" ({', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''})" if names else ""
        raise SourceError(f"{path} holds {len(names)} arrays{listed}: save just one")
    return names[0]


def _mapped(path: Path, member: str) -> Image | None:
    """An array that stands in the archive as it is, mapped; None if it is compressed, or no plain array."""
    with ZipFile(path) as archive, path.open("rb") as file:
        info = archive.NameToInfo.get(member)
        if info is None or info.compress_type != ZIP_STORED:
            return None
        file.seek(info.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
        file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
        begin = file.tell()
    return _map(path, begin, info.file_size)


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _map(path: Path, begin: int, limit: int | None = None) -> Image:
    """The array that begins at this byte, mapped; at most `limit` bytes belong to it. Raises ValueError."""
    with path.open("rb") as file:
        file.seek(begin)
        shape, by_columns, dtype = _header(file)
        at = file.tell()
    there = path.stat().st_size - at if limit is None else limit - (at - begin)
    _check_shape(shape, dtype, there)
    return np.memmap(path, dtype, "r", at, shape, "F" if by_columns else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type; raises ValueError. NumPy would first read as much as the header claims to be long."""
    version = np.lib.format.read_magic(file)
    size = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"its header claims to have {length} bytes")
    text = file.read(length)
    if version == (3, 0):  # differs from 2.0 just by its encoding, and only names of fields need that
        version, text = (2, 0), text.decode("utf-8").encode("latin-1", errors="replace")
        size = len(text).to_bytes(4, "little")
    if version not in _HEADERS:
        raise ValueError(f"its format {version[0]}.{version[1]} is unknown")
    try:
        shape, by_columns, dtype = _HEADERS[version](io.BytesIO(size + text))
    except (TokenError, MemoryError, RecursionError, TypeError, LookupError, AttributeError, Warning) as error:
        raise ValueError(f"its header is broken ({type(error).__name__})") from error
    return shape, by_columns, dtype


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], there: int) -> None:
    """Raises ValueError if so many bytes cannot be an array of this shape."""
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded: save numbers")
    if any(not 0 <= length < 1 << 63 for length in shape):
        raise ValueError(f"shape {shape} cannot be")
    need = math.prod(shape) * dtype.itemsize
    if need > there:
        raise ValueError(f"shape {shape} needs {need} bytes, and {there} are there")


def _unpacked(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> Image:
    """A compressed array; raises SourceError if it would not fit into memory, ValueError on damage."""
    with ZipFile(path) as zipped:
        info = zipped.NameToInfo.get(f"{name}.npy") or zipped.getinfo(name)
        free = free_host_bytes()
        if free is not None and info.file_size > free // 2:
            raise SourceError(
                f"{path} unpacks to {size_text(info.file_size)}, and {size_text(free)} of memory are free: "
                "save it with numpy.savez, which is read without unpacking"
            )
        with zipped.open(info) as member:
            shape, _, dtype = _header(member)
            _check_shape(shape, dtype, info.file_size - member.tell())
    unpacked: Image = archive[name]
    return unpacked
