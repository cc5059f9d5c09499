"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def table_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A row of names, then the rows; lines end as on Unix, on every system."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows(rows)
    return text.getvalue().encode()


def seconds(moment: float | None) -> str:
    """With milliseconds; empty where the source knows no times."""
    return "" if moment is None else f"{moment:.3f}"
