"""`estimate --every-window`: a folder of results for each window, and the table of them."""

from __future__ import annotations

import re
from pathlib import Path

import click

from gpu_bgstat.config import Config
from gpu_bgstat.errors import printable
from gpu_bgstat.frames import Background, Window
from gpu_bgstat.outputs import writable
from gpu_bgstat.outputs.windows import save_windows, windows_json
from gpu_bgstat.progress import Meter
from gpu_bgstat.sources import SourceLike
from gpu_bgstat.windows import estimate_windows

_FOLDER = re.compile(r"window_\d{4,}")


def run(source: SourceLike, config: Config, folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Writes each window's results as soon as it is over, and then the table of all so far."""
    written: list[Window] = []
    warnings: list[str] = []

    def take(window: Window, background: Background | None) -> None:
        if window.number == 1:  # the first, or all anew
            written.clear()
            warnings.clear()
        if background is not None:
            background.save(folder / window.name)
            told = (*background.run.warnings, *background.run.notes)
            warnings.extend(f"{window.name}: {warning}" for warning in told)
        written.append(window)
        save_windows(written, folder)

    with writable(folder), Meter(shown=not quiet) as meter:
        found = estimate_windows(source, config, take, meter.update)
    if as_json:
        click.echo(windows_json(found.windows))
    if quiet:
        return
    for warning in (*found.warnings, *warnings, *_earlier(folder, found.windows)):
        click.echo(f"warning: {printable(warning)}", err=True)
    samples = sum(window.samples for window in found.windows)
    click.echo(f"{len(found.windows)} windows, {samples} samples: {folder / 'windows.csv'}", err=as_json)


def _earlier(folder: Path, windows: tuple[Window, ...]) -> list[str]:
    """What is to be said of folders that an earlier run has left."""
    names = {window.name for window in windows if window.samples >= 2}
    left = sorted(path.name for path in folder.iterdir() if _FOLDER.fullmatch(path.name) and path.name not in names)
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return [f"of an earlier run: {', '.join(left[:5])}{more} in {folder}"] if left else []
