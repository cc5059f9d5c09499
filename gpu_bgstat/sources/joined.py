"""A recording that was split into several files is one source: their frames in order, numbered through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Frame, Plan, Timeline
from gpu_bgstat.sources.source import ReadAgainError, Source


class _Shifted:
    """A plan as one part sees it, whose first frame is number `frames` of the whole, at `seconds`."""

    def __init__(self, plan: Plan, frames: int, seconds: float | None) -> None:
        self._plan = plan
        self._frames = frames
        self._seconds = seconds
        self.any_order = plan.any_order
        self.indices, self.chosen = (
            None if indices is None else [index - frames for index in indices if index >= frames]
            for indices in (plan.indices, plan.chosen)
        )

    def time_s(self, time_s: float | None) -> float | None:
        return None if time_s is None or self._seconds is None else time_s + self._seconds

    def due(self, index: int, time_s: float | None) -> bool:
        return self._plan.due(index + self._frames, self.time_s(time_s))

    def over(self, index: int, time_s: float | None) -> bool:
        return self._plan.over(index + self._frames, self.time_s(time_s))


class JoinedSource(Source):
    """Several sources, one after the other. A part begins one mean frame interval after the last frame before it."""

    def __init__(self, parts: Sequence[Source]) -> None:
        super().__init__(", ".join(part.name for part in parts))
        self._parts = list(parts)
        self.spec = parts[0].spec
        self.container = {"format": "joined", "parts": [part.container for part in parts]}
        self.timeline = self._whole()
        self._begins: list[int] = []  # where each part that was reached begins, in the whole

    def _whole(self) -> Timeline | None:
        timelines = [part.timeline for part in self._parts]
        if any(timeline is None for timeline in timelines):
            return None
        known = [timeline for timeline in timelines if timeline is not None]
        frames = sum(timeline.frames for timeline in known)
        keyframes = _keyframes(known)
        times = []
        begin: float | None = 0.0
        for timeline in known:
            if timeline.times_s is None or begin is None:
                return Timeline(frames, None, keyframes)
            times.append(timeline.times_s + begin)
            begin = _end(timeline, begin)
        return Timeline(frames, np.concatenate(times), keyframes)

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        frames = 0  # where the part begins, in the whole
        begin: float | None = 0.0
        news: ReadAgainError | None = None
        self._begins = []
        for part in self._parts:
            self._begins.append(frames)
            shifted = _Shifted(plan, frames, begin)
            try:
                for frame in part.read(shifted):
                    self._gather()
                    if news is None:
                        yield Frame(frame.index + frames, shifted.time_s(frame.time_s), frame.pixels)
            except ReadAgainError as error:  # the parts behind may have news as well: all at once saves readings
                news = error
            self._gather()
            if part.timeline is None or (news is None and part.seen < part.timeline.frames):
                break  # the plan was over within this part
            frames += part.timeline.frames
            begin = None if begin is None else _end(part.timeline, begin)
        else:
            self.timeline = self._whole()
        if news is not None:
            self.timeline = self._whole()
            raise news

    def _gather(self) -> None:
        self.seen = sum(part.seen for part in self._parts)
        self.damaged = sum(part.damaged for part in self._parts)
        self.dropped = sum(part.dropped for part in self._parts)
        self.decoding = {"parts": [part.decoding for part in self._parts]}
        self.warnings = [f"{part.name}: {warning}" for part in self._parts for warning in part.warnings]
        self.notes = [f"{part.name}: {note}" for part in self._parts for note in part.notes]

    def identity(self) -> dict[str, Any]:
        return {f"part {number}": part.identity() for number, part in enumerate(self._parts, 1)}

    def state(self) -> dict[str, Any]:
        return {"parts": [part.state() for part in self._parts]}

    def recall(self, state: dict[str, Any]) -> None:
        for part, its in zip(self._parts, state.get("parts", []), strict=False):
            part.recall(its)
        self.timeline = self._whole()

    def unsettled(self) -> set[int]:
        reached = zip(self._parts, self._begins, strict=False)
        return {number + begin for part, begin in reached for number in part.unsettled()}

    def begin(self) -> None:
        super().begin()
        for part in self._parts:
            part.begin()

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _keyframes(timelines: Sequence[Timeline]) -> NDArray[np.int64] | None:
    """Numbered through; None if all frames of all parts are keyframes."""
    if all(timeline.keyframes is None for timeline in timelines):
        return None
    begins = np.cumsum([0, *(timeline.frames for timeline in timelines)])
    parts = [
        begin + (np.arange(timeline.frames) if timeline.keyframes is None else timeline.keyframes)
        for begin, timeline in zip(begins, timelines, strict=False)
    ]
    return np.concatenate(parts)


def _end(timeline: Timeline, begin: float) -> float | None:
    """When the part after this one begins, if this one begins at `begin`."""
    times = timeline.times_s
    if times is None or not len(times):
        return None
    interval = float(times[-1] - times[0]) / max(1, len(times) - 1)
    return begin + float(times[-1]) + interval
