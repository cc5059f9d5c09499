"""Where samples may lie besides on a device: in so much of the host's memory, else in a scratch file."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from gpu_bgstat.backends.memory import free_host_bytes, in_memory, own_bytes, size_text
from gpu_bgstat.backends.scratch import Layout, Scratch
from gpu_bgstat.errors import ConfigError, ScratchError
from gpu_bgstat.frames import FrameSpec

_LOG = logging.getLogger("gpu_bgstat")
SHARE = 0.75  # of what is free: the default limit
DECODERS_SHARE = 4  # decoders may take one part in so many of the limit
_FRAMES = 4  # on their way from the decoder to the ring
_ELSEWHERE = ("/var/tmp", ".")  # where a scratch file may go if the usual folder is in memory or too small


def default_limit(asked: int | None) -> int | None:
    """Bytes of memory that an estimate may take; None if the system does not tell what is free."""
    if asked is not None:
        return asked
    free = free_host_bytes()
    return None if free is None else int(SHARE * free) + own_bytes()


@dataclass(frozen=True)
class Room:
    """What the host offers to a ring.

    memory_bytes  that the ring may take; None: as much as there is
    folder        for a scratch file; None: chosen where there is room
    kept          the file for samples that must outlive the process; they lie in it whatever memory there is
    """

    memory_bytes: int | None = None
    folder: Path | None = None
    kept: FileIO | None = None

    @classmethod
    def within(
        cls,
        limit: int | None,
        spec: FrameSpec,
        folder: Path | None = None,
        kept: FileIO | None = None,
        besides: int = 0,
    ) -> Room:
        """What a limit leaves for the ring, besides the process as it is, the frames under way and the results.

        besides  bytes that will be taken, too

        Raises ConfigError if it leaves nothing.
        """
        if limit is None:
            return cls(None, folder, kept)
        needed = own_bytes() + results_bytes(spec) + _FRAMES * spec.bytes + besides
        if needed > limit:
            raise ConfigError(
                f"{size_text(limit)} of memory (memory_limit) are too little: an estimate of {spec} takes "
                f"{size_text(needed)} besides its samples; raise the limit, or use gray or a roi"
            )
        return cls(max(0, limit - needed - limit // DECODERS_SHARE), folder, kept)

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be taken from memory."""
        return self.kept is None and (self.memory_bytes is None or size <= self.memory_bytes)

    def scratch(self, slots: int, spec: FrameSpec) -> Scratch:
        """The file; a scratch file has no name, so that it goes with the process, however that ends.

        Raises ScratchError if no folder has room for it.
        """
        layout = Layout(slots, spec)
        folder = self.place(layout.bytes)
        if in_memory(folder):
            _LOG.warning("%s is in memory itself, so the samples' file takes memory: give a folder on a disk", folder)
        if self.kept is not None:
            return Scratch(_duplicate(self.kept), str(folder), layout)
        try:
            file = tempfile.TemporaryFile(prefix="gpu_bgstat-", dir=folder, buffering=0)  # noqa: SIM115 (the ring's)
        except OSError as error:
            raise ScratchError(f"no scratch file can be made in {folder} ({error.strerror})") from error
        return Scratch(file, str(folder), layout)

    def place(self, size: int) -> Path:
        """The folder for a file of this size; raises ScratchError, with what each one lacks."""
        if self.kept is not None:
            folder = Path(os.fsdecode(self.kept.name)).parent
            _check(folder, size - _taken(self.kept))
            return folder
        if self.folder is not None:
            _check(self.folder, size)
            return self.folder
        reasons = []
        for folder in dict.fromkeys(Path(name) for name in (tempfile.gettempdir(), *_ELSEWHERE)):
            try:
                if in_memory(folder):
                    reasons.append(f"{folder} is in memory")
                    continue
                _check(folder, size)
            except ScratchError as error:
                reasons.append(str(error).partition(":")[0])
            else:
                return folder
        raise ScratchError(
            f"the samples take {size_text(size)}, more than memory may hold, and no folder has room for a scratch file "
            f"({'; '.join(reasons)}): give one with scratch (--scratch), lower max_samples, or use gray or a roi"
        )


ANYWHERE = Room()  # as much memory as there is


def results_bytes(spec: FrameSpec) -> int:
    """What the results take while they are made and written: variance, ranks, median, heat map, and their files."""
    return spec.values * (4 + 3 * spec.dtype.itemsize) + 24 * spec.width * spec.height


def _check(folder: Path, size: int) -> None:
    try:
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise ScratchError(f"{folder} cannot hold a scratch file ({error.strerror}): give another folder") from error
    if not writable:
        raise ScratchError(f"{folder} cannot be written to: give another folder with scratch (--scratch)")
    if size > free:
        raise ScratchError(
            f"{folder} has {size_text(free)} free, and the samples take {size_text(size)}: make room there, give "
            "another folder with scratch (--scratch), lower max_samples, or use gray or a roi"
        )


def _taken(file: FileIO) -> int:
    """Disk space that a file has already."""
    return getattr(os.fstat(file.fileno()), "st_blocks", 0) * 512


def _duplicate(file: FileIO) -> FileIO:
    """The same open file, to be closed by itself."""
    return FileIO(os.dup(file.fileno()), "r+")
