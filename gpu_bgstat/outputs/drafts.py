"""Files that appear whole: each is written beside its place, forced to the disk, and renamed.

    .NAME.HOST.PID.part ──► write ──► fsync ──► rename to NAME        (all are written before the first is renamed)

A run that is killed leaves drafts behind; the next one into the same folder removes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from gpu_bgstat.backends.memory import sync_folder
from gpu_bgstat.errors import OutputError
from gpu_bgstat.interrupts import uninterrupted

ADVICE = "make room there, or give another folder with -o"
_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())[:40]  # of another one, nobody knows here which processes live
_DRAFT = re.compile(r"\.(.+)\.([\w-]+)\.(\d+)\.part(?:\.\w+)?", re.DOTALL)
_ABANDONED_S = 86_400.0  # that old, another host's draft is nobody's


def draft_of(path: Path, suffix: str = "") -> Path:
    """Where this process writes what becomes `path`; the suffix is for libraries that go by it."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.part{suffix}")


def write(draft: Path, data: bytes) -> str:
    """A new file with these bytes, on the disk when this returns; their SHA-256."""
    with draft.open("xb", buffering=0) as file:  # not through a link that somebody else put there
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def seal(draft: Path) -> str:
    """The same for a file that a library wrote."""
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename(drafts: Mapping[Path, Path]) -> None:
    """Every draft to its place, in this order, whatever signal comes; path -> draft.

    Raises OutputError, with the earlier files back in their places. Where the system knows no hard links this cannot be
    done: the message says then which files are new.
    """
    earlier: dict[Path, Path | None] = {}  # another name of the file that is replaced; None: there was none
    done: list[Path] = []
    with uninterrupted():
        try:
            for path, draft in drafts.items():
                _keep(path, earlier)
                draft.replace(path)
                done.append(path)
        except OSError as error:
            new = [path.name for path in reversed(done) if not _restore(path, earlier)]
            mixed = f"; already new: {', '.join(new)}" if new else ""
            raise OutputError(f"{path} cannot be written ({error.strerror}): {ADVICE}{mixed}") from error
        finally:
            remove(backup for backup in earlier.values() if backup)
    for folder in {path.parent for path in drafts}:
        sync_folder(folder)


def _keep(path: Path, earlier: dict[Path, Path | None]) -> None:
    """Gives the file a second name; nothing is noted where that cannot be."""
    backup = draft_of(path, ".old")
    with suppress(OSError):
        try:
            os.link(path, backup, follow_symlinks=os.link not in os.supports_follow_symlinks)
            earlier[path] = backup
        except FileNotFoundError:
            earlier[path] = None


def _restore(path: Path, earlier: Mapping[Path, Path | None]) -> bool:
    """Puts back what was there; whether that could be done."""
    try:
        backup = earlier[path]
        if backup is None:
            path.unlink()
        else:
            backup.replace(path)
    except (KeyError, OSError):
        return False
    return True


def remove(drafts: Iterable[Path]) -> None:
    """Those that are still there; what cannot be removed now, `sweep` will."""
    for draft in drafts:
        with suppress(OSError):
            draft.unlink()


def sweep(paths: Iterable[Path], apart: Collection[Path]) -> None:
    """Removes the drafts of these files that killed runs have left, apart from some that are needed."""
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(path.name)
    for folder, names in folders.items():
        with suppress(OSError):  # what cannot be listed or removed does no harm
            for found in set(folder.iterdir()) - set(apart):
                draft = _DRAFT.fullmatch(found.name)
                if draft and draft[1] in names and _abandoned(found, host=draft[2], process=int(draft[3])):
                    found.unlink()


def _abandoned(draft: Path, host: str, process: int) -> bool:
    if host != _HOST:
        return time.time() - draft.stat().st_mtime > _ABANDONED_S
    return process == os.getpid() or not _lives(process)  # ours: that of a process with the same number before us


def _lives(process: int) -> bool:
    if os.name != "posix":
        return True  # to ask would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
