"""One file a format. `save` writes all of them into a folder, each beside its name first, then renamed into place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_bgstat.errors import OutputError
from gpu_bgstat.frames import Background
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


def save(background: Background, folder: Path) -> list[Path]:
    """Writes every output into `folder`, which is made if need be; the paths of the files.

    Raises OutputError; the files of an earlier run are untouched then, and no new one is left behind.
    """
    with writable(folder):
        drafts = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in OUTPUTS}
        try:
            for path, draft in drafts.items():
                draft.write_bytes(OUTPUTS[path.name](background))
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
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}): give another folder with -o") from error
    try:
        yield
    except BaseException:
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise
