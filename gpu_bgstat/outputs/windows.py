"""windows.csv: which folder has the background of which window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gpu_bgstat.errors import OutputError
from gpu_bgstat.frames import Window
from gpu_bgstat.outputs import drafts
from gpu_bgstat.outputs.table import seconds, table_csv

WINDOWS_CSV = "windows.csv"


def save_windows(windows: Sequence[Window], folder: Path) -> Path:
    """Writes the table of these windows, whole or not at all; raises OutputError."""
    path = folder / WINDOWS_CSV
    draft = drafts.draft_of(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder, where a file must be written: give another folder with -o")
    drafts.sweep([path], apart=[])
    try:
        drafts.write(draft, _table(windows))
        drafts.rename({path: draft})
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): {drafts.ADVICE}") from error
    finally:
        drafts.remove([draft])
    return path


def _table(windows: Sequence[Window]) -> bytes:
    return table_csv(
        ["window", "from_s", "to_s", "from_frame", "to_frame", "samples", "folder"],
        (
            [
                *(window.number, seconds(window.from_s), seconds(window.to_s), window.from_frame, window.to_frame),
                *(window.samples, folder_of(window) or ""),
            ]
            for window in windows
        ),
    )


def folder_of(window: Window) -> str | None:
    """The folder's name; None where there is no background."""
    return window.name if window.samples >= 2 else None


def windows_json(windows: Sequence[Window]) -> str:
    """The same table, as JSON."""
    return json.dumps([{**asdict(window), "folder": folder_of(window)} for window in windows], indent=2)
