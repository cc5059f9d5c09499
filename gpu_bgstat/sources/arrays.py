"""Frames that are in memory or in a NumPy file: stacks (T, H, W[, C]), .npy, .npz, and any iterable of frames."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile
from zlib import error as ZlibError  # noqa: N812

import numpy as np

from gpu_bgstat.errors import FrameError, SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
from gpu_bgstat.sources.mapped import at_random, copy_frame
from gpu_bgstat.sources.source import Source

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
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                name = _only(loaded, path)
                mapped = _mapped(path, f"{name}.npy")
                loaded = loaded[name] if mapped is None else mapped
    except (OSError, ValueError, EOFError, BadZipFile, ZlibError) as error:
        raise SourceError(f"{path} is no NumPy file that can be read ({error})") from error
    if not isinstance(loaded, np.ndarray):
        raise SourceError(f"{path} holds something else than an array: save a stack with numpy.savez")
    source = StackSource(at_random(loaded), str(path), path.suffix.lstrip(".").lower())
    source.files = [path]
    return source


def _only(archive: np.lib.npyio.NpzFile, path: Path) -> str:
    names = archive.files
    if len(names) != 1:
        listed = f" ({', '.join(names)})" if names else ""
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
        read_header = _HEADERS.get(np.lib.format.read_magic(file))
        if read_header is None:
            return None
        shape, by_columns, dtype = read_header(file)
        if dtype.hasobject:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if by_columns else "C")
