"""Two picture files, or folders of results, held against each other: what `gpu-bgstat compare` prints."""

from __future__ import annotations

from pathlib import Path

from gpu_bgstat.errors import FrameError
from gpu_bgstat.frames import Image
from gpu_bgstat.scores import Scores, score
from gpu_bgstat.sources.images import read_picture

BACKGROUND = "background_est.png"  # in a folder of results


def compare(estimate: Path, truth: Path) -> Scores:
    """The scores of the estimate; a folder stands for the background in it.

    Raises SourceError if one cannot be read, and FrameError if they cannot be compared.
    """
    pictures = _picture(estimate), _picture(truth)
    try:
        return score(*pictures)
    except FrameError as error:
        raise FrameError(f"{estimate} and {truth} cannot be compared: {error}") from error


def _picture(path: Path) -> Image:
    return read_picture(path / BACKGROUND if path.is_dir() else path)


def as_text(scores: Scores) -> str:
    """One row for each score: its name, its value, and what it is."""
    rows = [
        ("AGE", f"{scores.age:.3f}", "mean absolute error in grey levels; 0 is perfect"),
        ("pEPs", f"{100 * scores.peps:.3f} %", "pixels wrong by more than 20 grey levels"),
        ("pCEPs", f"{100 * scores.pceps:.3f} %", "such pixels whose 4 neighbours are wrong, too"),
        ("PSNR", f"{scores.psnr_db:.2f} dB", "in grey; 99 if nothing differs"),
        ("MS-SSIM", _or_dash(scores.ms_ssim, "{:.4f}"), "similar structure on five scales; 1 is perfect"),
        ("CQM", _or_dash(scores.cqm_db, "{:.2f} dB"), "PSNR with colour; 99 if nothing differs"),
    ]
    return "\n".join(f"{name:<8}{value:>11}   {meaning}" for name, value, meaning in rows)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
