"""One file a format. `save` writes all of them into a folder, each beside its name first, then renamed into place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gpu_bgstat.errors import OutputError
from gpu_bgstat.frames import Background
from gpu_bgstat.outputs import drafts
from gpu_bgstat.outputs.arrays import variance_npy
from gpu_bgstat.outputs.page import report_html
from gpu_bgstat.outputs.pictures import background_png, choice_png, confidence_png, heatmap_png, stable_png
from gpu_bgstat.outputs.regimes import regime_outputs
from gpu_bgstat.outputs.report import report_json

REPORT = "report.json"
OUTPUTS: dict[str, Callable[[Background], bytes]] = {
    "background_est.png": background_png,
    "background_var.png": heatmap_png,
    "stable_mask.png": stable_png,
    "confidence.png": confidence_png,
    "choice.png": choice_png,
    "variance.npy": variance_npy,
    "report.html": report_html,
    REPORT: report_json,  # the last: it has the sums of the others
}


def save(background: Background, folder: Path, others: Mapping[str, bytes | Path] | None = None) -> list[Path]:
    """Writes every output into `folder`, which is made if need be; the paths of the files.

    others  more files, by name, that belong to the outputs: their bytes, or drafts that are complete

    The report comes last, with the SHA-256 of the others: after a power cut in between, it tells old files from new.
    Raises OutputError; the files of an earlier run are untouched then, and no new one is left behind.
    """
    others = others or {}
    outputs = {**regime_outputs(background), **OUTPUTS}
    paths = {folder / name: others.get(name) for name in (*others, *outputs)}
    made: dict[Path, Path] = {}  # path -> draft
    with writable(folder):
        for path in paths:
            if path.is_dir():
                raise OutputError(f"{path} is a folder, where a file must be written: give another folder with -o")
        drafts.sweep(paths, apart=[given for given in paths.values() if isinstance(given, Path)])
        try:
            sums: dict[str, str] = {}
            for path, given in paths.items():
                made[path] = given if isinstance(given, Path) else drafts.draft_of(path)
                sums[path.name] = _draft(
                    background, path, made[path], outputs[path.name] if given is None else given, sums
                )
            drafts.rename(made)
        finally:
            drafts.remove(made.values())
    return list(made)


def _draft(
    background: Background,
    path: Path,
    draft: Path,
    given: bytes | Path | Callable[[Background], bytes],
    sums: Mapping[str, str],
) -> str:
    """Writes one file beside its place; its SHA-256."""
    try:
        if isinstance(given, Path):
            return drafts.seal(given)
        if callable(given):
            given = report_json(background, sums) if path.name == REPORT else given(background)
        return drafts.write(draft, given)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): {drafts.ADVICE}") from error


def saved_report(folder: Path) -> bytes:
    """report.json, as `save` has just written it."""
    try:
        return (folder / REPORT).read_bytes()
    except OSError as error:
        raise OutputError(f"{folder / REPORT} cannot be read again ({error.strerror})") from error


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


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of the same name; None if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make(folder: Path, made: list[Path]) -> None:
    probe = drafts.draft_of(folder / "probe")
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
        what = "a file" if Path(error.filename).exists() else "a link that leads nowhere"
        raise OutputError(
            f"{folder} cannot be written to ({error.filename} is {what}): give a folder with -o"
        ) from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}): give another folder with -o") from error
