"""Whether a video is as long and as even as its file promises: what a reader should be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEW_GAPS = 0.05  # a recording with a larger share of long intervals has a variable frame rate
_NAMED = 5  # damaged places that are listed one by one
_TS_PACKETS = (188, 192, 204)  # bytes a packet of an MPEG transport stream: plain, with time codes, with parity


@dataclass(frozen=True)
class Promise:
    """What the file says about its length."""

    frames: int
    duration_s: float | None
    frame_s: float  # seconds between two frames; 0 if unknown
    with_sound: bool
    transport_stream: bool
    size: int  # bytes


def complaints(promise: Promise, times_s: NDArray[np.float64], found: str) -> list[str]:
    """In which ways these frames (all of the recording) are not what was promised.

    found  what was done with them: "could be decoded", "are there"
    """
    told = []
    count = len(times_s)
    if promise.frames != count:
        told.append(f"the file promises {promise.frames} frames, and {count} {found}")
    end_s = float(times_s[-1]) + promise.frame_s
    if missing := _missing_after(promise, end_s):
        told.append(
            f"the file promises {promise.duration_s:.1f} s, and its {count} frames end after "
            f"{end_s:.1f} s, as if {missing} more were missing: is it whole?"
        )
    if missing := _missing(np.diff(times_s)):
        told.append(f"the timestamps leave gaps, as if frames were missing: {missing}")
    if promise.transport_stream and all(promise.size % size for size in _TS_PACKETS):
        told.append(f"the file ends within a transport packet, after {count} frames: is it whole?")
    return told


def places(spans_s: Sequence[tuple[float, float]]) -> str:
    """Stretches of time in words, the first few of them."""
    named = ", ".join(f"{begin:.1f} s to {end:.1f} s" for begin, end in spans_s[:_NAMED])
    return f"{named} and {len(spans_s) - _NAMED} more" if len(spans_s) > _NAMED else named


def _missing_after(promise: Promise, end_s: float) -> int:
    """How many frames would fill the promised duration; 0 for a difference that whole files have, too.

    Sound may last longer than the pictures; without any, a few frames' time is all that headers are wrong by.
    """
    promised_s = promise.duration_s or 0.0
    tolerated_s = max(1.0, promised_s / 10) if promise.with_sound else max(0.2, 3 * promise.frame_s)
    late_s = promised_s - end_s
    return round(late_s / promise.frame_s) if promise.frame_s and late_s > tolerated_s else 0


def _missing(intervals_s: NDArray[np.float64]) -> int:
    """How many frames would fill the gaps between otherwise even times; 0 where times are uneven anyway."""
    if not intervals_s.size:
        return 0
    steps = np.rint(intervals_s / np.median(intervals_s))
    gaps = steps > 1
    return int((steps[gaps] - 1).sum()) if gaps.mean() < _FEW_GAPS else 0
