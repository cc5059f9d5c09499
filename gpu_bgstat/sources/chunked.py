"""Stacks that a library stores in chunks (Zarr, HDF5): the chunks of sampled frames are read, each of them once.

chunks of 4 frames   |....|....|....|
due                  |..x.|....|x.xx|      two reads: frame 2; frames 8, 10 and 11 together
"""

from __future__ import annotations

import lzma
import math
import os
import struct
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gpu_bgstat.backends.memory import free_host_bytes, size_text
from gpu_bgstat.errors import FrameError, SourceError
from gpu_bgstat.frames import MAX_FRAMES, Frame, FrameSpec, Image, Plan, Timeline, check_size
from gpu_bgstat.sources.source import Source

# what the libraries and the decoders below them raise on damaged files
DAMAGE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    BadZipFile,
)

_TOGETHER_BYTES = 64 << 20  # sampled frames of one chunk are read together up to here
_LISTED = 8  # at most so many arrays are named in an error


class ChunkedSource(Source):
    """One array: `axes` says what each of its dimensions is, T, Y, X, C (BGR), or another letter of length 1.

    Frames whose chunks are not stored at all, or cannot be unpacked, are damage. Both formats read a chunk that is not
    stored as a fill value, mostly 0: a frame that is partly so is a sample, and a warning counts them.
    """

    def __init__(self, name: str, array: Any, axes: str, codec: str, array_name: str) -> None:
        super().__init__(name)
        self._patchy: set[int] = set()  # frames met with some of their chunks not stored
        self._recalled: set[int] = set()  # those of a reading that was interrupted
        self._axes = axes
        sizes = dict(zip(axes, array.shape, strict=True))
        self._frame_shape = tuple(sizes[axis] for axis in "YXC" if axis in sizes)
        self._dtype: np.dtype[Any] = array.dtype
        if not 0 < sizes["T"] <= MAX_FRAMES:
            raise SourceError(f"{name} has shape {array.shape}: it holds no frame, or more than any recording")
        try:
            check_size(sizes["X"], sizes["Y"])
        except FrameError as error:
            raise SourceError(f"{name}: {error}") from error
        self.spec = FrameSpec.of(np.broadcast_to(np.zeros((), self._dtype), self._frame_shape))
        self.timeline = Timeline(sizes["T"])
        chunks = array.chunks
        _check_chunks(name, chunks, self._dtype.itemsize)
        self._chunk_frames = chunks[axes.index("T")] if chunks else 1
        self.container = {"format": codec, "codec": str(self._dtype), "array": array_name, "chunks": chunks}
        self.container |= {"width": self.spec.width, "height": self.spec.height}

    @abstractmethod
    def _fetch(self, indices: list[int]) -> tuple[Image, float]:
        """These frames of one chunk, with the array's axes, and which share of their chunks is not stored."""

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        for indices in self._groups(plan):
            try:
                block, absent = self._fetch(indices)
            except DAMAGE as error:
                self._miss(indices, _reason(error))
                continue
            if absent == 1:
                self._miss(indices, "never stored, or lost")
                continue
            self._patchy.update(indices if absent else [])
            for index, pixels in zip(indices, self._upright(block), strict=True):
                yield Frame(index, None, np.array(pixels, dtype=self._dtype.newbyteorder("=")))
        if self._patchy:
            self.warnings.append(
                f"{len(self._patchy)} samples have parts that are not stored, and show the fill value there: "
                f"is {self.name} whole?"
            )

    def begin(self) -> None:
        super().begin()
        self._patchy, self._recalled = self._recalled, set()

    def state(self) -> dict[str, Any]:
        return {"patchy": sorted(self._patchy)}

    def recall(self, state: dict[str, Any]) -> None:
        self._recalled = set(state.get("patchy", []))

    def _groups(self, plan: Plan) -> Iterator[list[int]]:
        """Frames that are due, those of one chunk together; one by one where the plan judges as it goes."""
        frame_bytes = int(np.prod(self._frame_shape)) * self._dtype.itemsize
        most = 1 if plan.indices is None else max(1, _TOGETHER_BYTES // frame_bytes)
        frames = self.timeline.frames if self.timeline else 0
        group: list[int] = []
        for index in self.due(plan, frames):
            if group and index // self._chunk_frames != group[0] // self._chunk_frames:
                yield group
                group = []
            group.append(index)
            if len(group) == most:
                yield group
                group = []
        if group:
            yield group

    def _upright(self, block: Image) -> Image:
        """Frames (n, H, W[, C]) of a block with the array's axes."""
        order = [self._axes.index(axis) for axis in "TYXC" if axis in self._axes]
        order += [place for place in range(len(self._axes)) if place not in order]
        return block.transpose(order).reshape(-1, *self._frame_shape)

    def _miss(self, indices: list[int], reason: str) -> None:
        self.damaged += len(indices)
        which, theirs = f"frame {indices[0]}", "its sample is missing"
        if len(indices) > 1:
            which = f"{len(indices)} frames from {indices[0]} to {indices[-1]}"
            theirs = "their samples are missing"
        self.warnings.append(f"damage: {which} cannot be read ({reason}); {theirs}")


def _check_chunks(name: str, chunks: tuple[int, ...] | None, item_bytes: int) -> None:
    """A chunk is unpacked whole, whatever is wanted of it."""
    need, free = math.prod(chunks or (0,)) * item_bytes, free_host_bytes()
    if free is not None and need > free // 2:
        raise SourceError(
            f"{name} has chunks of {size_text(need)} each, and {size_text(free)} of memory are free: "
            "store it in smaller ones"
        )


def divided(path: Path) -> tuple[Path, str]:
    """A file or store, and the name of the array in it, empty if none is given: `rec.h5::/entry/frames`."""
    outer, _, inside = str(path).partition("::")
    if not inside or os.path.lexists(path) or not os.path.lexists(outer):
        return path, ""
    return Path(outer), inside.strip("/")


def axes_of(name: str, array: Any) -> str:
    """TYX or TYXC; raises SourceError if it is no stack."""
    if len(array.shape) not in (3, 4):
        raise SourceError(f"{name} has shape {tuple(array.shape)}: a stack is (T, H, W) or (T, H, W, C)")
    return "TYXC"[: len(array.shape)]


def only(name: str, candidates: Sequence[str]) -> str:
    """The one array that can be a stack; raises SourceError if there is none, or a choice."""
    if not candidates:
        raise SourceError(
            f"{name} holds no array of numbers with 3 or 4 dimensions: a stack is (T, H, W) or (T, H, W, C)"
        )
    if len(candidates) > 1:
        listed = ", ".join(sorted(candidates)[:_LISTED]) + (", …" if len(candidates) > _LISTED else "")
        file, _, _ = name.partition("::")
        raise SourceError(
            f"{name} holds {len(candidates)} arrays that can be a stack ({listed}): name one, {file}::{min(candidates)}"
        )
    return candidates[0]


def may_be_stack(array: Any) -> bool:
    return len(array.shape) in (3, 4) and np.dtype(array.dtype).kind in "uif"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
