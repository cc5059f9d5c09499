"""Which packets must be decoded to get certain frames: integers in, integers out, no pixels and no file.

    packets    I b P b P b I b P b P b I b P
    wanted               x       x
    stretches  [ . . . . ]  [. . ]              each begins at a keyframe and ends with its last wanted packet

A stretch is decoded by itself. Frames that are shown before their keyframe although they are decoded after it (leading
pictures of an open group) need the group before, so their stretch begins there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_bgstat.media.packets import PacketIndex


@dataclass(frozen=True)
class Stretch:
    """Packets first .. stop-1 in decoding order, and the frames wanted from them: (frame number, packet)."""

    first: int
    stop: int
    wanted: tuple[tuple[int, int], ...]  # in the order of the frame numbers


def stretches(index: PacketIndex, frames: Sequence[int]) -> list[Stretch]:
    """The cheapest exact way to these frame numbers (increasing, each below the number of frames).

    Each frame is in one stretch; stretches do not overlap, and are in the order of their packets. `index` must begin
    with a keyframe.
    """
    if not len(frames):
        return []
    keys = np.flatnonzero(index.key)
    wanted = index.rows[np.asarray(frames, np.int64)]
    begins = np.searchsorted(keys, wanted, side="right") - 1
    while (leading := (begins > 0) & (index.pts[keys[begins]] > index.pts[wanted])).any():
        begins -= leading
    found: list[Stretch] = []
    order = np.argsort(begins, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(begins[order])) + 1):
        first, stop = int(keys[begins[group[0]]]), int(wanted[group].max()) + 1
        pairs = [(int(frames[k]), int(wanted[k])) for k in group]
        if found and found[-1].stop > first:  # reaches into this one anyway
            last = found.pop()
            first, stop, pairs = last.first, max(last.stop, stop), sorted([*last.wanted, *pairs])
        found.append(Stretch(first, stop, tuple(pairs)))
    return found


def keyframe_before(index: PacketIndex, packet: int) -> int:
    """The last keyframe before this packet; the first packet if there is none."""
    keys = np.flatnonzero(index.key[:packet])
    return int(keys[-1]) if len(keys) else 0


def keyframe_after(index: PacketIndex, packet: int) -> int:
    """The first keyframe from this packet on; the number of packets if there is none."""
    keys = np.flatnonzero(index.key[packet:])
    return packet + int(keys[0]) if len(keys) else len(index.key)
