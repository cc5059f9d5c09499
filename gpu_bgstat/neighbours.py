"""Which frame is read along with a sample, to tell what moves in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_bgstat.config import Config
from gpu_bgstat.frames import Timeline

BY_MOTION = ("still", "auto")  # methods that ask what moves in a sample
_FRAMES_PER_S = 30  # where no frame times are known beforehand


def needs_neighbours(config: Config) -> bool:
    """Whether the method asks what moves in a sample. Keyframes come alone: what is decoded beside them costs most."""
    return config.method in BY_MOTION and config.snap is None


def neighbours(samples: Sequence[int], timeline: Timeline, within: range, config: Config) -> dict[int, int]:
    """For each sample the frame `lag_s` before it, or else behind it; sample -> frame.

    K......n..s.......K    the frame before is decoded anyway, on the way from the keyframe K to the sample s
    .......Ks..n......K    unless the keyframe lies between: then the one behind
    .......K.s.n.K.....    where keyframes are close, as far away as the group of pictures allows, half at least

    Without frame times, the lag is that of 30 frames a second.
    """
    lag = lag_frames(timeline, config.lag_s)
    groups = _groups_of(samples, timeline)
    beside = {}
    for sample, (begin, end) in zip(samples, groups, strict=True):
        before, behind = sample - lag, sample + lag
        nearer = [max(before, begin), min(behind, end - 1)] if end - begin > 1 else []
        chosen = (frame for frame in (*nearer, before, behind) if frame in within and 2 * abs(frame - sample) >= lag)
        if (neighbour := next(chosen, None)) is not None:
            beside[sample] = neighbour
    return beside


def lag_frames(timeline: Timeline | None, lag_s: float) -> int:
    """A lag in frames, at least 1; None is a recording of unknown length."""
    times = timeline.times_s if timeline else None
    if times is None or len(times) < 2 or not times[-1] > times[0]:
        return max(1, round(lag_s * _FRAMES_PER_S))
    return max(1, round(lag_s * (len(times) - 1) / float(times[-1] - times[0])))


def _groups_of(samples: Sequence[int], timeline: Timeline) -> list[tuple[int, int]]:
    """For each sample the group of pictures [begin, end) that is decoded together; all, where nothing is known."""
    keyframes = timeline.keyframes
    if keyframes is None:  # each frame stands alone
        return [(sample, sample + 1) for sample in samples]
    edges = np.concatenate([[0], keyframes, [timeline.frames]])
    places = np.searchsorted(edges, samples, side="right")
    return [(int(edges[place - 1]), int(edges[min(place, len(edges) - 1)])) for place in places]
