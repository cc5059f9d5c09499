"""Figures of bench_quality.py as tables in Markdown, and its worst cases as pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from backgrounds import PLAIN, Film, Picture

from gpu_bgstat.scores import Scores

BEGIN, END = "<!-- quality table -->", "<!-- end of quality table -->"
MOST_WORSE = 0.3  # grey levels of AGE that the default may be worse than the plain median
MOST_OF_MEDIAN = 0.6  # of the plain median's mean AGE that the default's may be
_PANEL = 200  # pixels: five beside each other fit into 1000


@dataclass(frozen=True)
class Row:
    """One background: of which film, by which method, how good, and how long it took."""

    film: str
    seed: int | None
    method: str
    scores: Scores
    seconds: float


def mean_of(rows: Iterable[Row], what: Callable[[Scores], float | None]) -> float | None:
    """The mean score; None if no row has one."""
    values = [value for row in rows if (value := what(row.scores)) is not None]
    return statistics.fmean(values) if values else None


def age_of(rows: Sequence[Row], film: str, method: str) -> float | None:
    """The mean over the instances of a film."""
    return mean_of((row for row in rows if (row.film, row.method) == (film, method)), lambda scores: scores.age)


def by_film(rows: Sequence[Row]) -> list[str]:
    """AGE: a line a film, a column a method; the best is bold, the last line is the mean over the films."""
    films, methods = _names(rows)
    return [
        _line(["AGE", *methods]),
        "|---|" + "--:|" * len(methods),
        *(_line([film, *_bold_least([age_of(rows, film, method) for method in methods])]) for film in films),
        _line(["**mean**", *_bold_least([mean_age(rows, method) for method in methods])]),
    ]


def mean_age(rows: Sequence[Row], method: str) -> float | None:
    """Over the films, each counting once however many instances it has."""
    values = [value for film in _names(rows)[0] if (value := age_of(rows, film, method)) is not None]
    return statistics.fmean(values) if values else None


def by_method(rows: Sequence[Row]) -> list[str]:
    """All six scores: a line a method, means over all backgrounds; and how it stands to the plain median."""
    methods = _names(rows)[1]
    heads = ["method", "AGE", "× plain median", "most above it", "pEPs %", "pCEPs %", "PSNR", "MS-SSIM", "CQM", "s"]
    lines = [_line(heads), "|---|" + "--:|" * (len(heads) - 1)]
    plain = mean_age(rows, PLAIN)
    for method in methods:
        mine = [row for row in rows if row.method == method]
        age = mean_age(rows, method)
        worst, where = worst_above(rows, method)
        lines.append(
            _line(
                [
                    method,
                    _figure(age),
                    _figure(age / plain if age is not None and plain else None),
                    f"{worst:+.2f} ({where})" if worst > 0 else "–",
                    _figure(mean_of(mine, lambda scores: 100 * scores.peps)),
                    _figure(mean_of(mine, lambda scores: 100 * scores.pceps)),
                    _figure(mean_of(mine, lambda scores: scores.psnr_db)),
                    _figure(mean_of(mine, lambda scores: scores.ms_ssim), 4),
                    _figure(mean_of(mine, lambda scores: scores.cqm_db)),
                    _figure(statistics.fmean(row.seconds for row in mine)),
                ]
            )
        )
    return lines


def worst_above(rows: Sequence[Row], method: str) -> tuple[float, str]:
    """By how much AGE the method is above the plain median where it is worst, instance by instance, and where."""
    plain = {(row.film, row.seed): row.scores.age for row in rows if row.method == PLAIN}
    above = [
        (row.scores.age - plain[row.film, row.seed], row.film)
        for row in rows
        if row.method == method and (row.film, row.seed) in plain
    ]
    return max(above, default=(0.0, ""))


def targets(rows: Sequence[Row], method: str = "default") -> list[tuple[str, float, float]]:
    """What the default must reach: what, the most that is allowed, and the figure; empty without both methods."""
    age, plain = mean_age(rows, method), mean_age(rows, PLAIN)
    if age is None or not plain:
        return []
    return [
        (f"mean AGE of {method} / of the {PLAIN}", MOST_OF_MEDIAN, age / plain),
        (f"AGE of {method} above that of the {PLAIN} where it is worst", MOST_WORSE, worst_above(rows, method)[0]),
    ]


def all_tables(rows: Sequence[Row]) -> str:
    parts = [by_film(rows), by_method(rows)]
    if found := targets(rows):
        lines = ["| target | at most | reached | |", "|---|--:|--:|---|"]
        parts.append([*lines, *(_line([what, f"{most}", f"{got:.2f}", _met(got, most)]) for what, most, got in found)])
    return "\n\n".join("\n".join(part) for part in parts)


def put_into(page: Path, text: str) -> None:
    """Replaces what stands between the two marks of a document."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the table: put {BEGIN} and {END} into it")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def picture_of(film: Film, backgrounds: dict[str, Picture]) -> Picture:
    """A frame, the truth, the backgrounds, and where the last one is wrong, side by side, at most 1000 pixels wide."""
    last = list(backgrounds.values())[-1]
    error = np.abs(_grey(last).astype(np.int16) - _grey(film.truth)).astype(np.uint8)
    heat = cv2.applyColorMap(cv2.convertScaleAbs(error, alpha=4), cv2.COLORMAP_INFERNO)
    shown = {"a frame": film.frames[len(film.frames) // 2], "truth": film.truth, **backgrounds, "error × 4": heat}
    panels = []
    for name, picture in shown.items():
        height = round(_PANEL * picture.shape[0] / picture.shape[1])
        panel = cv2.resize(picture, (_PANEL, height), interpolation=cv2.INTER_AREA)
        strip = np.full((18, _PANEL, 3), 24, np.uint8)
        cv2.putText(strip, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (235, 235, 235), 1, cv2.LINE_AA)
        panels.append(np.vstack([strip, panel]))
    return np.hstack(panels).astype(np.uint8)


def _names(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The films and the methods in the order in which they came."""
    return list(dict.fromkeys(row.film for row in rows)), list(dict.fromkeys(row.method for row in rows))


def _bold_least(values: Sequence[float | None]) -> list[str]:
    least = min((round(value, 2) for value in values if value is not None), default=None)
    return [
        f"**{value:.2f}**" if value is not None and round(value, 2) == least else _figure(value) for value in values
    ]


def _figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _met(got: float, most: float) -> str:
    return "met" if got <= most else "missed"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _grey(picture: Picture) -> Picture:
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
