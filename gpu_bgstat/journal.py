"""An append-only file of records that a kill at any moment leaves readable: each line has a checksum and JSON.

    5d41402a {"format": 1, …}          what stands before a line that is torn or damaged counts, and nothing after it
    9bf81f3c {"samples": […], …}

A record is on the disk when `append` returns.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_bgstat.errors import CheckpointError
from gpu_bgstat.interrupts import uninterrupted

try:
    import fcntl
except ImportError:  # not on Windows: two processes are not kept apart there
    fcntl = None  # type: ignore[assignment]

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_sync = getattr(os, "fdatasync", os.fsync)


class Journal:
    """The records of a file, locked against other processes until it is closed."""

    def __init__(self, path: Path) -> None:
        """Opens or makes it; raises CheckpointError if that cannot be, or if another process has it."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        except OSError as error:
            raise self._failure(error) from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise CheckpointError(f"{path} is no file: give another folder for the checkpoint")
            self._lock()
            self.found, self._end = parsed(self._content())  # the records that were there
            os.ftruncate(self._file, self._end)  # what is appended must follow what counts
        except OSError as error:
            os.close(self._file)
            raise self._failure(error) from error
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"{self._path.parent} is in use by another process: wait for its end") from error

    def _content(self) -> bytes:
        parts = []
        while part := os.read(self._file, 1 << 20):
            parts.append(part)
        return b"".join(parts)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record; raises CheckpointError, with the file as it was, if the disk is full or fails."""
        text = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
        left = memoryview(b"%08x %s\n" % (zlib.crc32(text), text))
        with uninterrupted():
            try:
                os.lseek(self._file, self._end, os.SEEK_SET)
                end = self._end + len(left)
                while left:
                    left = left[os.write(self._file, left) :]
                _sync(self._file)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._file, self._end)
                raise self._failure(error) from error
            self._end = end

    def _failure(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"the checkpoint in {self._path.parent} cannot be written ({error.strerror})")

    def close(self) -> None:
        os.close(self._file)


def parsed(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records up to the first line that is torn or damaged, and how many bytes they take."""
    records: list[dict[str, Any]] = []
    end = 0
    while (stop := content.find(b"\n", end)) >= 0:
        checksum, _, text = content[end:stop].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            break
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict):
            break
        records.append(record)
        end = stop + 1
    return records, end
