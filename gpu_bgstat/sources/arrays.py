"""Frames that are in memory or in a NumPy file: stacks (T, H, W[, C]), .npy, .npz, and any iterable of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError  # noqa: N812

import numpy as np

from gpu_bgstat.errors import FrameError, SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Image, Plan, Timeline
from gpu_bgstat.sources.source import Source


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
        for index, frame in enumerate(self._stack):
            if plan.over(index, None):
                return
            self.seen += 1
            if plan.due(index, None):
                yield Frame(index, None, np.array(frame, dtype=frame.dtype.newbyteorder("=")))


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
    """The stack in a .npy file (mapped, not read) or an .npz file with one array; raises SourceError."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                loaded = _only(loaded, path)
    except (OSError, ValueError, EOFError, BadZipFile, ZlibError) as error:
        raise SourceError(f"{path} is no NumPy file that can be read ({error})") from error
    if not isinstance(loaded, np.ndarray):
        raise SourceError(f"{path} holds something else than an array: save a stack with numpy.savez")
    return StackSource(loaded, str(path), path.suffix.lstrip(".").lower())


def _only(archive: np.lib.npyio.NpzFile, path: Path) -> Any:
    names = archive.files
    if len(names) != 1:
        listed = f" ({', '.join(names)})" if names else ""
        raise SourceError(f"{path} holds {len(names)} arrays{listed}: save just one")
    return archive[names[0]]
