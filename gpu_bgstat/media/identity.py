"""By what a recording is known again: size, times of change, and first bytes of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpu_bgstat.errors import SourceError

FIRST_BYTES = 1 << 16


def of_files(paths: Iterable[Path]) -> dict[str, Any]:
    """Of files in this order, and of all files in folders; their names do not count, unless in a folder.

    Raises SourceError if one cannot be read.
    """
    count = size = 0
    states, beginning = hashlib.sha256(), b""
    try:
        for name, path in _files(paths):
            state = path.stat()
            if not count:
                with path.open("rb") as file:
                    beginning = file.read(FIRST_BYTES)
            count, size = count + 1, size + state.st_size
            states.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape"))
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({error.strerror})") from error
    return {
        "files": count,
        "bytes": size,
        "first_bytes": hashlib.sha256(beginning).hexdigest(),
        "times": states.hexdigest(),
    }


def _files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        if not path.is_dir():
            yield "", path
            continue
        for folder, inner, names in os.walk(path):
            inner.sort()
            for name in sorted(names):
                file = Path(folder, name)
                yield str(file.relative_to(path)), file
