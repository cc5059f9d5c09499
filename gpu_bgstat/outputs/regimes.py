"""What `light=regimes` adds: a background and its variance for each light, and a table of which one holds when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gpu_bgstat.frames import Background
from gpu_bgstat.outputs.pictures import encode
from gpu_bgstat.outputs.table import seconds, table_csv

REGIMES_CSV = "regimes.csv"


def regime_outputs(background: Background) -> dict[str, Callable[[Background], bytes]]:
    """File name -> what makes its bytes; nothing without regimes."""
    if not background.regimes:
        return {}
    found: dict[str, Callable[[Background], bytes]] = {}
    for place in range(len(background.regimes)):
        found[f"regime_{place + 1}_background_est.png"] = partial(_background, place)
        found[f"regime_{place + 1}_background_var.png"] = partial(_heatmap, place)
    return {**found, REGIMES_CSV: regimes_csv}


def _background(place: int, background: Background) -> bytes:
    return encode(".png", background.regimes[place].background)


def _heatmap(place: int, background: Background) -> bytes:
    return encode(".png", background.regimes[place].heatmap)


def regimes_csv(background: Background) -> bytes:
    """One row for each stretch with one light; regime 0 is none. `to_s` and `to_frame` are the first behind it."""
    return table_csv(
        ["from_s", "to_s", "from_frame", "to_frame", "regime", "samples"],
        (
            [seconds(span.from_s), seconds(span.to_s), span.from_frame, span.to_frame, span.regime, span.samples]
            for span in background.spans
        ),
    )
