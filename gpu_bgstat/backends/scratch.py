"""Samples in a file: for rings that memory cannot hold, and for those that must outlive the process.

    file   [tile 0: sample 0 │ sample 1 │ … ][tile 1: sample 0 │ sample 1 │ … ] …

A tile has some values of all samples, one row a sample, so that the reductions read it from end to end, and a new
sample is written in few long pieces. Rows begin at whole pages. Reading is by memory maps of one tile at a time: the
system may drop those pages whenever it needs them. Writing is by calls, since a full disk is an error there, and kills
the process in a map. What was written goes on to the disk while more is collected, so that little memory is dirty.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np

from gpu_bgstat.errors import ScratchError
from gpu_bgstat.frames import FrameSpec, Image

TILE_BYTES = 1 << 26  # of all samples together: 107 kB a sample where there are 600; two must fit into what is cached
_PAGE = mmap.ALLOCATIONGRANULARITY
_DIRTY_BYTES = 1 << 26  # written and not yet on their way to the disk; as much again may be on its way
_sync = getattr(os, "fdatasync", os.fsync)


class Layout:
    """Where the values of each sample lie in the file."""

    def __init__(self, slots: int, spec: FrameSpec, tile_bytes: int = TILE_BYTES) -> None:
        self.slots = slots
        self.values = spec.values
        self.dtype = spec.dtype
        rows = max(1, math.ceil(spec.bytes * slots / tile_bytes))  # tiles of even width
        self.row_bytes = _whole_pages(math.ceil(spec.values / rows) * spec.dtype.itemsize)
        self.tile_values = self.row_bytes // spec.dtype.itemsize
        self.tiles = math.ceil(spec.values / self.tile_values)

    @property
    def bytes(self) -> int:
        return self.tiles * self.slots * self.row_bytes

    def part(self, tile: int) -> slice:
        """The values of a tile."""
        return slice(tile * self.tile_values, min((tile + 1) * self.tile_values, self.values))

    def at(self, tile: int, slot: int) -> int:
        """Where a sample's row of a tile begins in the file."""
        return (tile * self.slots + slot) * self.row_bytes


class Scratch:
    """`slots` samples of one spec in an open file, which it owns. Reading may go on in several threads."""

    def __init__(self, file: FileIO, where: str, layout: Layout) -> None:
        """`where` names the folder in messages. The file is grown to its size; no disk space is taken by that."""
        self.layout = layout
        self.where = where
        self._file = file
        self._dirty = 0
        self._syncing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bgstat-sync")
        try:
            if os.fstat(file.fileno()).st_size != layout.bytes:
                file.truncate(layout.bytes)
        except OSError as error:
            self.close()
            raise self._failure("made", error) from error

    def put(self, slot: int, frame: Image) -> None:
        """Writes a sample; raises ScratchError if the disk is full or fails."""
        row = frame.reshape(-1)
        for tile in range(self.layout.tiles):
            self._write(self.layout.at(tile, slot), row[self.layout.part(tile)])
        self._wrote(row.nbytes)

    def move(self, source: int, target: int) -> None:
        """Copies one slot over another."""
        for tile in range(self.layout.tiles):
            self._file.seek(self.layout.at(tile, source))
            data = self._file.read(self.layout.row_bytes)
            self._write(self.layout.at(tile, target), np.frombuffer(data, np.uint8))
        self._wrote(self.layout.tiles * self.layout.row_bytes)

    def _write(self, at: int, row: Image) -> None:
        left = row.view(np.uint8).data
        try:
            self._file.seek(at)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failure("written", error) from error

    def _wrote(self, size: int) -> None:
        """Sends what is dirty on to the disk, beside the work that follows."""
        self._dirty += size
        if self._dirty >= _DIRTY_BYTES:
            self._wait()
            self._dirty = 0
            self._syncing = self._thread.submit(_sync, self._file.fileno())

    def _wait(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is None:
            return
        try:
            syncing.result()
        except OSError as error:
            raise self._failure("written", error) from error

    def sync(self) -> None:
        """Returns when all that was put lies on the disk."""
        self._wait()
        try:
            _sync(self._file.fileno())
        except OSError as error:
            raise self._failure("written", error) from error
        self._dirty = 0

    def strips(self, count: int) -> Iterator[tuple[slice, Image]]:
        """(values, block (count, V)) of each tile over slots 0 .. count-1; the next one is fetched meanwhile."""
        ahead = self._map(0, count)
        for tile in range(self.layout.tiles):
            block, ahead = ahead, self._map(tile + 1, count) if tile + 1 < self.layout.tiles else ahead
            yield self.layout.part(tile), block

    def read(self, count: int, values: range, target: Image) -> None:
        """Copies these values of slots 0 .. count-1 into `target` (count, len(values))."""
        width = self.layout.tile_values
        for tile in range(values.start // width, (values.stop - 1) // width + 1):
            part = self.layout.part(tile)
            start, stop = max(values.start, part.start), min(values.stop, part.stop)
            block = self._map(tile, count, ahead=start == part.start)
            np.copyto(
                target[:, start - values.start : stop - values.start], block[:, start - part.start : stop - part.start]
            )

    def _map(self, tile: int, count: int, ahead: bool = True) -> Image:
        """A tile's rows 0 .. count-1; the map goes when nobody refers to the array any more."""
        layout, part = self.layout, self.layout.part(tile)
        try:
            mapped = mmap.mmap(
                self._file.fileno(), count * layout.row_bytes, access=mmap.ACCESS_READ, offset=layout.at(tile, 0)
            )
            if ahead and hasattr(mmap, "MADV_WILLNEED"):
                mapped.madvise(mmap.MADV_WILLNEED)
        except (OSError, ValueError) as error:  # ValueError: somebody cut the file
            raise self._failure("read", error) from error
        rows: Image = np.frombuffer(mapped, layout.dtype).reshape(count, layout.tile_values)
        return rows[:, : part.stop - part.start]

    def _failure(self, what: str, error: Exception) -> ScratchError:
        reason = getattr(error, "strerror", None) or error
        return ScratchError(
            f"the samples' file in {self.where} cannot be {what} ({reason}): make room there, or give another folder "
            "with scratch (--scratch)"
        )

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._file.close()


def _whole_pages(size: int) -> int:
    return max(1, math.ceil(size / _PAGE)) * _PAGE


def opened(path: Path) -> FileIO:
    """A file for a Scratch, made if need be; what is in it stays."""
    return FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o600))
