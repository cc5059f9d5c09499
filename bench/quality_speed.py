"""What a method costs in time: two settings on one recording in turns, for bench_quality.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_bgstat import Config, estimate

FINALIZE, DECODE = "finalize", "decode"
# stage of the cost -> stages of an estimate that it is the sum of
_STAGES = {FINALIZE: ("reduce", "finalize"), DECODE: ("open", "read")}
MOST = {FINALIZE: 2.0, DECODE: 1.3}  # times the plain median's that method="still" may take
# recording -> every: one of them long enough for the default
RECORDINGS = {
    "animals/tracktor_mouse_video.mp4": 100,  # H.264, 10,000 frames, a keyframe in 250
    "animals/dlc_openfield_m3v1mp4.mp4": 10,  # H.264, 2330 frames
    "animals/idtrackerai_test_A.avi": 10,  # MPEG-4, 501 frames, a keyframe in 5
}


@dataclass(frozen=True)
class Cost:
    """Medians of the turns, in seconds, of two settings on one recording, and the median of the turns' ratios."""

    recording: str
    stage: str
    first: str
    second: str
    first_s: float
    second_s: float
    ratio: float  # second to first
    turns: int


def in_turns(
    path: Path, first: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]], turns: int, every: int
) -> list[Cost]:
    """Estimates with both settings by turns, after one of each that is not counted; `turns` 0 counts just that one.

    Decode is all until the last sample is collected: opening, reading, and putting samples into the ring.
    """
    seconds: dict[str, list[dict[str, float]]] = {first[0]: [], second[0]: []}
    for turn in range(turns + 1):
        for name, settings in (first, second):
            spent = estimate(path, Config(every=every, device="cpu", **settings)).run.timings_s
            if turn or not turns:
                stages = {stage: sum(spent.get(part, 0.0) for part in parts) for stage, parts in _STAGES.items()}
                seconds[name].append(stages)
    costs = []
    for stage in _STAGES:
        ones, others = ([run[stage] for run in seconds[name]] for name in (first[0], second[0]))
        ratio = statistics.median(other / one for one, other in zip(ones, others, strict=True))
        medians = statistics.median(ones), statistics.median(others)
        costs.append(Cost(path.name, stage, first[0], second[0], *medians, ratio, turns))
    return costs


def table(costs: Iterable[Cost]) -> str:
    lines = ["| recording | stage | settings | s | against | s | ratio |", "|---|---|---|--:|---|--:|--:|"]
    for cost in costs:
        cells = [cost.recording, cost.stage, cost.second, f"{cost.second_s:.3f}", cost.first, f"{cost.first_s:.3f}"]
        lines.append(f"| {' | '.join(cells)} | **{cost.ratio:.2f}** |")
    return "\n".join(lines)
