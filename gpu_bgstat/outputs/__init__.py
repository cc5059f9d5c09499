"""One file a format. `save` writes all of them into a folder, each beside its name first, then renamed into place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gpu_bgstat.errors import OutputError
from gpu_bgstat.frames import Background
from gpu_bgstat.interrupts import uninterrupted
from gpu_bgstat.outputs.arrays import variance_npy
from gpu_bgstat.outputs.page import report_html
from gpu_bgstat.outputs.pictures import background_png, heatmap_png, stable_png
from gpu_bgstat.outputs.report import report_json

OUTPUTS: dict[str, Callable[[Background], bytes]] = {
    "background_est.png": background_png,
    "background_var.png": heatmap_png,
    "stable_mask.png": stable_png,
    "variance.npy": variance_npy,
    "report.json": report_json,
    "report.html": report_html,
}


def save(background: Background, folder: Path, others: Mapping[str, bytes] | None = None) -> list[Path]:
    """Writes every output into `folder`, which is made if need be; the paths of the files.

    others  more files, by name, that belong to the outputs

    Raises OutputError; the files of an earlier run are untouched then, and no new one is left behind.
    """
    with writable(folder):
        others = others or {}
        drafts = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in (*OUTPUTS, *others)}
        for path in drafts:
            if path.is_dir():
                raise OutputError(f"{path} is a folder, where a file must be written: give another folder with -o")
        try:
            for path, draft in drafts.items():
                ready = others.get(path.name)
                draft.write_bytes(OUTPUTS[path.name](background) if ready is None else ready)
            with uninterrupted():
                for path, draft in drafts.items():
                    draft.replace(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror})") from error
        finally:
            for draft in drafts.values():
                draft.unlink(missing_ok=True)
    return list(drafts)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes the folder and proves that it can be written to; on any error, removes what it made and left empty.

    Raises OutputError before any work is done, rather than after hours of decoding.
    """
    made: list[Path] = []  # the innermost first
    try:
        _make(folder, made)
        yield
    except BaseException:
        for parent in made:
            with suppress(OSError):  # something else is in it by now
                parent.rmdir()
        raise


def _make(folder: Path, made: list[Path]) -> None:
    probe = folder / f".{os.getpid()}.probe"
    try:
        for parent in (*reversed(folder.parents), folder):
            if not parent.is_dir():
                made.insert(0, parent)  # before it is there: Ctrl-C may come between the two
                parent.mkdir(exist_ok=True)
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"{folder} cannot be written to ({error.filename} is a file): give a folder with -o"
        ) from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}): give another folder with -o") from error
