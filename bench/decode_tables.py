"""What bench_decode.py found, as Markdown: seconds, ratios, targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from decoders import OURS, READ

CASSETTE = "cassette"


@dataclass
class Row:
    """One way on one recording; `skipped` says why there are no figures, `wrong` what its frames are."""

    table: str
    codec: str
    way: str
    skipped: str = ""
    wrong: str = ""
    turns: list[float] = field(default_factory=list)  # seconds

    @property
    def seconds(self) -> float:
        return statistics.median(self.turns) if self.turns else math.nan

    def times_faster(self, other: Row) -> float:
        """The median over the turns, in each of which both ran."""
        if len(self.turns) != len(other.turns):
            return other.seconds / self.seconds
        return statistics.median(b / a for a, b in zip(self.turns, other.turns, strict=True))


@dataclass(frozen=True)
class Target:
    what: str
    needed: float  # times faster
    reached: float

    @property
    def met(self) -> bool:
        return self.reached >= self.needed


def limit_of(rows: Sequence[Row]) -> Row:
    """The faster arrangement."""
    return min((row for row in rows if row.way.startswith("limit")), key=lambda row: row.seconds)


def fastest_peer(rows: Sequence[Row]) -> Row:
    """Of those that give the right frames; the cassette's `read` always does."""
    peers = [row for row in rows if row.turns and not row.wrong and row.way != OURS]
    return min((row for row in peers if not row.way.startswith("limit")), key=lambda row: row.seconds)


def groups(rows: Sequence[Row], table: str) -> dict[str, dict[str, Row]]:
    """codec -> way -> row"""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.table == table:
            found.setdefault(row.codec, {})[row.way] = row
    return found


def targets(rows: Sequence[Row], to_read: dict[tuple[str, str], float]) -> list[Target]:
    """`to_read`: (table, codec) -> how many times faster than `read`. Nowhere slower than the fastest peer."""
    found = []
    for table in dict.fromkeys(row.table for row in rows):
        for codec, ways in groups(rows, table).items():
            if table == "length":
                continue
            ours, peer = ways[OURS], fastest_peer([*ways.values()])
            if needed := to_read.get((table, codec)):
                reached = ours.times_faster(ways[READ])
                found.append(Target(f"{table} {codec}: times faster than `{READ}`", needed, reached))
            found.append(Target(f"{table} {codec}: not slower than {peer.way}", 1, ours.times_faster(peer)))
    return found


def cell(row: Row) -> str:
    if not row.turns:
        return "–"
    return f"{'✗ ' if row.wrong else ''}{row.seconds:.3f}"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_of_ways(rows: Sequence[Row], table: str) -> list[str]:
    """Seconds of each way, then how we stand to `read` or the cassette, to the fastest right peer, to the limit."""
    by_codec = groups(rows, table)
    names = [name for name in next(iter(by_codec.values())) if not name.startswith("limit")]
    first = READ if READ in names else CASSETTE
    heads = [table, *names, "limit", f"× {first}", "× fastest peer", "of the limit"]
    lines = [line(heads), "|---|" + "--:|" * (len(heads) - 1)]
    for codec, ways in by_codec.items():
        ours, peer, limit = ways[OURS], fastest_peer([*ways.values()]), limit_of([*ways.values()])
        seconds = [*(cell(ways[name]) for name in names), cell(limit)]
        ratios = [f"**{ours.times_faster(ways[first]):.1f}**", f"{ours.times_faster(peer):.2f} ({peer.way})"]
        lines.append(line([codec, *seconds, *ratios, f"{ours.times_faster(limit):.0%}"]))
    return ["", *lines, "", *notes(rows, table)]


def notes(rows: Sequence[Row], table: str) -> list[str]:
    """Why a figure is missing or marked, or which is of one turn alone; once for all codecs that it is true of."""
    told: dict[str, list[str]] = {}
    here = [row for row in rows if row.table == table]
    turns = max(len(row.turns) for row in here)
    for row in here:
        once = "slow, ran once" if len(row.turns) == 1 < turns else ""
        for text in filter(None, (row.skipped, row.wrong, once)):
            told.setdefault(f"{row.way}: {text}", []).append(row.codec)
    return [f"- {text} ({', '.join(codecs)})" for text, codecs in told.items()]


def table_of_lengths(rows: Sequence[Row]) -> list[str]:
    by_codec = groups(rows, "length")
    if not by_codec:
        return []
    lengths = [*dict.fromkeys(way.rpartition(" ")[2] for ways in by_codec.values() for way in ways)]
    heads = ["length", "way", *lengths, f"{lengths[-1]} : {lengths[0]}"]
    lines = ["", line(heads), "|---|---|" + "--:|" * (len(lengths) + 1)]
    for codec, ways in by_codec.items():
        for name in dict.fromkeys(way.rpartition(" ")[0] for way in ways):
            found = [ways[f"{name} {times}"] for times in lengths]
            growth = f"{found[0].times_faster(found[-1]):.2f}"
            lines.append(line([codec, name, *(f"{row.seconds:.3f}" for row in found), growth]))
    return lines


def table_of_targets(found: Sequence[Target]) -> list[str]:
    if not found:
        return []
    lines = ["", "| target | needed | reached | |", "|---|--:|--:|---|"]
    return lines + [
        line([target.what, f"{target.needed:.0f}", f"{target.reached:.2f}", "met" if target.met else "missed"])
        for target in found
    ]


def all_tables(rows: Sequence[Row], found: Sequence[Target]) -> list[str]:
    names = dict.fromkeys(row.table for row in rows if row.table != "length")
    lines = [text for name in names for text in table_of_ways(rows, name)]
    return [*lines, *table_of_lengths(rows), *table_of_targets(found)]
