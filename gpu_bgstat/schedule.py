"""Which frames are sampled: integers and times only, no pixels.

    every=3                    ..x..x..x..x..x..x          (x is a sample, . is skipped)
    keep=recent, 3 at most     ...........x..x..x
    keep=spread, 3 at most     .....x.....x.....x          thinned evenly, the last sample included
    exclude                    ..x..x[.......]..x          counted through, and dropped before anything is thinned

Where the length is known before reading, the plan is `Planned`. Where it is not (a camera, a pipe), it is
`Running`: `recent` drops the oldest sample for each new one, `spread` doubles its interval each time that
the ring is full, so that the samples always span all that was seen, and are at least half of the limit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.config import Config, frame_number
from gpu_bgstat.errors import ConfigError
from gpu_bgstat.frames import Timeline
from gpu_bgstat.neighbours import lag_frames, needs_neighbours, neighbours

_NO_KEYFRAMES = "no keyframes are known beforehand: the samples stay where they are, in spite of snap=keyframe"


def spread(total: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0 .. total-1, evenly spaced, the last one included.

    total=10, limit=3:  ...x..x..x
    """
    if total <= limit:
        return list(range(total))
    return [-(-(k + 1) * total // limit) - 1 for k in range(limit)]


class Planned:
    """A plan made before reading: the samples are known one by one, and the neighbours that are read along."""

    def __init__(
        self,
        samples: Sequence[int],
        stop: int,
        *,
        neighbours: Mapping[int, int] | None = None,
        any_order: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.samples = tuple(samples)
        self._neighbours = dict(neighbours or {})  # sample -> the frame that tells what moves in it
        self._beside: dict[int, list[int]] = {}  # the other way round
        for sample, neighbour in self._neighbours.items():
            self._beside.setdefault(neighbour, []).append(sample)
        self._sampled = frozenset(samples)
        self.indices = self.chosen = tuple(sorted(self._sampled.union(self._neighbours.values())))
        self.any_order = any_order  # the ring has a slot for each sample, and does not care which comes first
        self.notes = tuple(notes)  # what the user should be told of the choice
        self.stop = stop  # reading goes on to here, to learn whether the recording is as long as foretold
        self._next = 0

    def due(self, index: int, time_s: float | None) -> bool:
        while self._next < len(self.indices) and self.indices[self._next] < index:
            self._next += 1
        return self._next < len(self.indices) and self.indices[self._next] == index

    def over(self, index: int, time_s: float | None) -> bool:
        return index >= self.stop

    def is_sample(self, index: int) -> bool:
        """Whether this frame goes into the ring; else it is read for its neighbours' sake."""
        return index in self._sampled

    def pairs(self, index: int) -> list[tuple[int, int]]:
        """The pairs of a sample and its neighbour, the frame that tells what moves in it, with this frame."""
        own = [(index, self._neighbours[index])] if index in self._neighbours else []
        return own + [(sample, index) for sample in self._beside.get(index, ())]

    @property
    def between(self) -> int:
        """How many samples lie between a sample and its neighbour, at most."""
        lag = max((abs(sample - neighbour) for sample, neighbour in self._neighbours.items()), default=0)
        gaps = [after - before for before, after in pairwise(self.samples)]
        return lag // max(1, min(gaps, default=1))

    def without(self, samples: set[int]) -> Planned:
        """What is left to read when these samples are there already."""
        left = [index for index in self.samples if index not in samples]
        neighbours = {index: self._neighbours[index] for index in left if index in self._neighbours}
        rest = Planned(left, self.stop, neighbours=neighbours, any_order=self.any_order, notes=self.notes)
        rest.chosen = self.chosen
        return rest


class Running:
    """A plan for a recording of unknown length: each frame is judged as it comes."""

    samples: None = None
    indices: None = None
    chosen: None = None
    any_order = False  # `recent` drops the oldest, and thinning goes by what was seen

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lag = lag_frames(None, config.lag_s) if needs_neighbours(config) else 0
        self.notes = (_NO_KEYFRAMES,) if config.snap else ()
        self.stride = 1  # every stride-th of the every-th frames; spread doubles it when the ring is full
        self._first: tuple[int, float | None] | None = None
        self._dropped: list[tuple[int, int]] = []  # runs of every-th frames in `exclude`: the first one, how many

    def due(self, index: int, time_s: float | None) -> bool:
        if self._first is None:
            if not _reached(self._config.start, index, time_s, "start"):
                return False
            self._first = (index, time_s)
        if self.over(index, time_s):
            return False
        excluded = self._excluded(index, time_s)
        if (index - self._first[0] + 1) % self._config.every == 0:
            if not excluded:
                return self.survives(index) or self._beside(index)
            self._drop(index)
        return self._beside(index)

    def _beside(self, index: int) -> bool:
        """Whether this frame is the neighbour of a sample that is to come."""
        return self._lag > 0 and self.survives(index + self._lag)

    def is_sample(self, index: int) -> bool:
        """Of a frame that is due: whether it goes into the ring; else it is shown for its neighbours' sake."""
        return self.survives(index) and not any(
            begin <= index < begin + count * self._config.every for begin, count in self._dropped
        )

    def pairs(self, index: int) -> list[tuple[int, int]]:
        """The pairs of a sample and its neighbour, the frame that tells what moves in it, with this frame."""
        if not self._lag:
            return []
        first = self._first[0] if self._first else 0
        own = [(index, index - self._lag)] if index - self._lag >= first and self.is_sample(index) else []
        return own + ([(index + self._lag, index)] if self._beside(index) else [])

    @property
    def between(self) -> int:
        """How many samples lie between a sample and its neighbour, at most."""
        return self._lag // self._config.every

    def _excluded(self, index: int, time_s: float | None) -> bool:
        return any(
            _reached(begin, index, time_s, "exclude") and not _reached(end, index, time_s, "exclude")
            for begin, end in self._config.exclude
        )

    def _drop(self, index: int) -> None:
        first, count = self._dropped[-1] if self._dropped else (0, 0)
        behind = first + count * self._config.every  # the next of that run
        if count and index == behind:
            self._dropped[-1] = (first, count + 1)
        elif not count or index > behind:
            self._dropped.append((index, 1))

    def over(self, index: int, time_s: float | None) -> bool:
        config = self._config
        if config.end is not None:
            return _reached(config.end, index, time_s, "end")
        if config.duration is None or self._first is None:
            return False
        if time_s is None or self._first[1] is None:
            raise ConfigError(f"duration={config.duration} s needs frame times, and this source has none")
        return time_s - self._first[1] >= config.duration

    def double(self) -> None:
        """From now on takes every second of what would have been samples."""
        self.stride *= 2

    def survives(self, index: int) -> bool:
        """Whether a sample taken earlier is one of the thinned schedule too.

        Only what `exclude` leaves is counted, so that thinning halves it, wherever the excluded stretches lie.
        """
        first = self._first[0] if self._first else 0
        place, beside = divmod(index - first + 1, self._config.every)
        place -= sum(count for begin, count in self._dropped if begin < index)
        return beside == 0 and place % self.stride == 0


def plan(timeline: Timeline | None, config: Config) -> Planned | Running:
    """The samples that `config` asks of a recording with this timeline.

    Raises ConfigError if the range needs times that the recording does not have.
    """
    if timeline is None:
        return Running(config)
    first, stop = bounds(timeline, config)
    candidates: Sequence[int] = range(first + config.every - 1, stop, config.every)
    excluded = [(_locate(timeline, a, "exclude"), _locate(timeline, b, "exclude")) for a, b in config.exclude]
    if excluded:
        candidates = _outside(np.asarray(candidates, np.int64), excluded).tolist()
    if config.keep == "recent":
        samples = list(candidates[-config.max_samples :])
    else:
        samples = [candidates[k] for k in spread(len(candidates), config.max_samples)]
    notes: list[str] = []
    if config.snap is not None and timeline.keyframes is not None:
        keyframes = timeline.keyframes[
            np.searchsorted(timeline.keyframes, first) : np.searchsorted(timeline.keyframes, stop)
        ]
        keyframes = _outside(keyframes, excluded)
        if len(timeline.keyframes):
            notes = _few(samples, keyframes)
            samples = snapped(samples, keyframes)
        else:
            notes = [_NO_KEYFRAMES]
    beside = neighbours(samples, timeline, range(first, stop), config) if needs_neighbours(config) else {}
    return Planned(samples, stop, neighbours=beside, any_order=not config.shake, notes=notes)


def _outside(numbers: NDArray[np.int64], excluded: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Those of the frame numbers that lie in none of the stretches [begin, end)."""
    inside = np.zeros(len(numbers), bool)
    for begin, end in excluded:
        inside |= (begin <= numbers) & (numbers < end)
    return numbers[~inside]


def snapped(samples: Sequence[int], keyframes: NDArray[np.int64]) -> list[int]:
    """Each sample moved to a keyframe near it, no two to the same one; both in increasing order, as is the result.

    samples    ...x....x....x     A sample takes the nearest keyframe behind the one before it, unless those that are
    keyframes  .k.k......k.k.k    left would no longer do for the samples that follow. If there are fewer keyframes
    snapped    ...x......x...x    than samples, the keyframes are the samples.
    """
    if len(keyframes) <= len(samples):
        return [int(keyframe) for keyframe in keyframes]
    behind = np.searchsorted(keyframes, samples)
    taken: list[int] = []
    for number, (sample, right) in enumerate(zip(samples, behind, strict=True)):
        left = max(0, int(right) - 1)
        right = min(int(right), len(keyframes) - 1)  # noqa: PLW2901
        nearest = left if sample - keyframes[left] <= keyframes[right] - sample else right
        least = taken[-1] + 1 if taken else 0
        taken.append(min(max(nearest, least), len(keyframes) - len(samples) + number))
    return [int(keyframes[place]) for place in taken]


def _few(samples: Sequence[int], keyframes: NDArray[np.int64]) -> list[str]:
    """What to say where there are fewer keyframes than samples."""
    if len(keyframes) >= len(samples):
        return []
    return [f"the range has {len(keyframes)} keyframes for {len(samples)} samples: only they are taken (snap=keyframe)"]


def bounds(timeline: Timeline, config: Config) -> tuple[int, int]:
    """Frame numbers [first, stop) of the range that `start`, `end` and `duration` name."""
    first = 0 if config.start is None else _locate(timeline, config.start, "start")
    stop = timeline.frames
    if config.end is not None:
        stop = _locate(timeline, config.end, "end")
    elif config.duration is not None and first < timeline.frames:
        start_s = 0.0 if timeline.times_s is None else float(timeline.times_s[first])
        stop = _locate(timeline, start_s + config.duration, "duration")
    return first, max(first, stop)


def _locate(timeline: Timeline, place: float | str, name: str) -> int:
    """The first frame at or after a place; the number of frames if there is none."""
    number = frame_number(place)
    if number is not None:
        return min(number, timeline.frames)
    if timeline.times_s is None:
        other = "end with a frame number" if name == "duration" else "a frame number"
        raise ConfigError(f"{name}={place} s needs frame times, and this source has none: use {other}, 2700f")
    return bisect_left(timeline.times_s, float(place))


def _reached(place: float | str | None, index: int, time_s: float | None, name: str) -> bool:
    """Whether a frame lies at or after a place; None is the very beginning."""
    if place is None:
        return True
    number = frame_number(place)
    if number is not None:
        return index >= number
    if time_s is None:
        raise ConfigError(f"{name}={place} s needs frame times, and this source has none: use a frame number, 2700f")
    return time_s >= float(place)
