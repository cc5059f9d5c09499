"""A background for each window of a recording, so that slow drift is followed: one reading, in the memory of one ring.

frames    .x..x..x..x|..x..x..x..x|..x..x..         x is a sample; each window has its own schedule
windows   1          |2           |3                as if it were the whole range of an estimate
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from gpu_bgstat import schedule
from gpu_bgstat.config import Config, frame_number
from gpu_bgstat.errors import ConfigError, SourceError, TooFewSamplesError
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.frames import Background, Frame, Timeline, Window
from gpu_bgstat.pipeline import MOST_READINGS, Clock, Progress
from gpu_bgstat.schedule import Planned, Running
from gpu_bgstat.sources import SourceLike, open_source
from gpu_bgstat.sources.source import ReadAgainError, Source

MOST = 9_999  # windows, where their number is known beforehand
_LEAST = 2  # samples
_LOG = logging.getLogger("gpu_bgstat")

Take = Callable[[Window, Background | None], object]


@dataclass(frozen=True)
class Windows:
    """All windows in order, and what is to be told of the recording as a whole."""

    windows: tuple[Window, ...]
    warnings: tuple[str, ...]


def estimate_windows(
    source: SourceLike, config: Config, take: Take, on_progress: Callable[[Progress], None] | None = None
) -> Windows:
    """Hands a background for each window of `config.every_window` to `take`, as soon as the window is over.

    take  gets None for a window of fewer than two samples. If reading finds out that the recording is otherwise than
          it seemed, all begins anew, with window 1

    Raises what `estimate` raises; TooFewSamplesError if no window has two samples. What was taken by then stays.
    """
    with closing(open_source(source, config)) as recording:
        recording.check(config)
        for readings_left in reversed(range(MOST_READINGS)):
            plan = windowed(recording.timeline, config)
            try:
                windows = _Reading(recording, plan, config, take, on_progress).windows()
            except ReadAgainError as news:
                _LOG.info("%s", news)
                continue
            if windowed(recording.timeline, config).indices == plan.indices or not readings_left:
                if all(window.samples < _LEAST for window in windows):
                    raise TooFewSamplesError(
                        f"a background needs at least {_LEAST} samples, and none of {len(windows)} windows has them: "
                        f"lower every={config.every}, or make every_window longer"
                    )
                return Windows(windows, (*recording.warnings, *recording.notes, *_few(windows)))
    raise SourceError(f"{recording.name} is otherwise at each reading: start again when it is finished")


def _few(windows: tuple[Window, ...]) -> list[str]:
    few = [window.name for window in windows if window.samples < _LEAST]
    more = f" and {len(few) - 5} more" if len(few) > 5 else ""
    return [f"{', '.join(few[:5])}{more}: fewer than {_LEAST} samples, so no background"] if few else []


class _Reading:
    """One reading of all windows."""

    def __init__(
        self,
        recording: Source,
        plan: PlannedWindows | RunningWindows,
        config: Config,
        take: Take,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._recording, self._plan, self._config = recording, plan, config
        self._take, self._on_progress = take, on_progress
        self._done: list[Window] = []
        self._damaged = self._dropped = 0  # before this window

    def windows(self) -> tuple[Window, ...]:
        """Reads them, and hands their backgrounds on."""
        frames = self._recording.read(self._plan)
        frame = next(frames, None)
        while frame is not None:
            number = self._plan.number(frame)
            self._skip(number)
            frame = self._window(number, frame, frames)
        self._skip(self._plan.known + 1)
        return tuple(self._done)

    def _skip(self, number: int) -> None:
        """Windows that have not one frame that is due."""
        while self._plan.known and len(self._done) + 1 < number:
            self._finish(self._plan.window(len(self._done) + 1), None)

    def _window(self, number: int, frame: Frame | None, frames: Iterator[Frame]) -> Frame | None:
        """From a window's first frame on; returns the first one behind it."""
        clock, part = Clock(), self._plan.part(number)
        with BackgroundEstimator(self._plan.config(number), plan=part) as estimator:
            estimator.warnings.extend(part.notes)
            while frame is not None and self._plan.number(frame) == number:
                estimator.add(frame)
                if self._on_progress:
                    self._on_progress(Progress(self._recording.seen, self._plan.stop, estimator.kept))
                frame = next(frames, None)
            clock.lap("read")
            window = replace(self._plan.window(number), samples=estimator.kept)
            background = estimator.finalize() if estimator.kept >= _LEAST else None
        self._finish(window, background, clock)
        return frame

    def _finish(self, window: Window, background: Background | None, clock: Clock | None = None) -> None:
        recording = self._recording
        if background is not None and clock is not None:
            run = replace(
                background.run,
                source=recording.name,
                container=recording.container,
                frames_seen=window.to_frame - window.from_frame,
                damaged=recording.damaged - self._damaged,
                dropped=recording.dropped - self._dropped,
                decoding=recording.decoding,
                timings_s={**clock.laps, **background.run.timings_s, "total": clock.total()},
            )
            background = replace(background, run=run)
        self._damaged, self._dropped = recording.damaged, recording.dropped
        self._take(window, background)
        self._done.append(window)


def windowed(timeline: Timeline | None, config: Config) -> PlannedWindows | RunningWindows:
    """The plan of all windows; raises ConfigError if they are in seconds, and the recording has no times."""
    if config.every_window is None:
        raise ConfigError("every_window is not given: say how long a window is, such as 10min")
    return RunningWindows(config) if timeline is None else PlannedWindows(timeline, config)


class PlannedWindows(Planned):
    """Windows of a recording whose length is known: the samples of all of them, in order."""

    def __init__(self, timeline: Timeline, config: Config) -> None:
        self._config, self._times = config, timeline.times_s
        first, stop = schedule.bounds(timeline, config)
        self._edges = _edges(timeline, first, stop, config)  # of windows; where each begins, and the end
        self._parts = [schedule.plan(timeline, self.config(number)) for number in range(1, len(self._edges))]
        indices = [index for part in self._parts for index in part.indices or ()]
        super().__init__(indices, stop, any_order=False)

    @property
    def known(self) -> int:
        """How many windows there are; 0 where nobody knows."""
        return len(self._parts)

    def number(self, frame: Frame) -> int:
        """Of the window that a frame lies in."""
        return bisect_right(self._edges, frame.index)

    def part(self, number: int) -> Planned | Running:
        """The plan of one window."""
        return self._parts[number - 1]

    def config(self, number: int) -> Config:
        """What makes an estimate of this window alone."""
        begin, end = self._edges[number - 1 : number + 1]
        places = {"start": f"{begin}f", "end": f"{end}f", "duration": None, "every_window": None}
        return self._config.model_copy(update=places)

    def window(self, number: int) -> Window:
        begin, end = self._edges[number - 1 : number + 1]
        if self._times is None:
            return Window(number, begin, end, None, None)
        to_s = float(self._times[end]) if end < len(self._times) else float(self._times[-1])
        return Window(number, begin, end, float(self._times[begin]), to_s)


def _edges(timeline: Timeline, first: int, stop: int, config: Config) -> list[int]:
    """Frame numbers where windows begin, and the end of the last one; a window without a frame is left out."""
    if first >= stop:
        return [first]
    length = config.every_window
    frames = frame_number(length) if length is not None else None
    if frames is not None:
        count = -(-(stop - first) // frames)
    elif timeline.times_s is None:
        raise _timeless(length)
    else:
        count = int((timeline.times_s[stop - 1] - timeline.times_s[first]) // float(length or 1)) + 1
    if count > MOST:
        raise ConfigError(f"every_window={length} makes {count:,} windows, and {MOST:,} are the most: make them longer")
    if frames is not None:
        return [*range(first, stop, frames), stop]
    assert timeline.times_s is not None
    start_s = float(timeline.times_s[first])
    begins = [bisect_left(timeline.times_s, start_s + number * float(length or 1)) for number in range(count)]
    return [*sorted({begin for begin in begins if begin < stop}), stop]


def _timeless(length: float | str | None) -> ConfigError:
    return ConfigError(
        f"every_window={length} s needs frame times, and this source has none: give frames, such as 1500f"
    )


class RunningWindows:
    """Windows of a recording whose length is not known: each frame is judged as it comes.

    Like `Running`, it may be asked by two threads.
    """

    indices: None = None
    chosen: None = None
    any_order = False
    stop: None = None
    known = 0

    def __init__(self, config: Config) -> None:
        self._config = config
        self._whole = Running(config.model_copy(update={"every": 1, "exclude": (), "every_window": None, "snap": None}))
        self._begin: tuple[int, float | None] | None = None  # the first frame of the range
        self._parts: dict[int, Running] = {}
        self._frames: dict[int, tuple[int, int]] = {}  # of a window: the first, and the one behind the last
        self._last_s: float | None = None  # when the last frame came
        assert config.every_window is not None
        self._length = frame_number(config.every_window)

    def due(self, index: int, time_s: float | None) -> bool:
        if not self._whole.due(index, time_s):
            return False
        if self._begin is None:
            if self._length is None and time_s is None:
                raise _timeless(self._config.every_window)
            self._begin = (index, time_s)
        number = self._number(index, time_s)
        first, stop = self._frames.get(number, (index, index))
        self._frames[number] = first, max(stop, index + 1)
        self._last_s = time_s
        if number not in self._parts:
            self._parts[number] = Running(self.config(number))
        return self._parts[number].due(index, time_s)

    def over(self, index: int, time_s: float | None) -> bool:
        return self._whole.over(index, time_s)

    def _number(self, index: int, time_s: float | None) -> int:
        assert self._begin is not None
        if self._length is not None:
            return (index - self._begin[0]) // self._length + 1
        assert time_s is not None and self._begin[1] is not None
        number = bisect_right(range(1, 1 << 53), time_s, key=self._starts_s)
        return max(1, number)

    def _starts_s(self, number: int) -> float:
        """When a window begins: the same sum that its schedule compares with, so that both agree on every frame."""
        assert self._begin is not None and self._begin[1] is not None
        return self._begin[1] + (number - 1) * float(self._config.every_window or 0)

    def number(self, frame: Frame) -> int:
        return self._number(frame.index, frame.time_s)

    def part(self, number: int) -> Running:
        for past in [other for other in self._parts.copy() if other < number]:
            del self._parts[past]
        return self._parts[number]

    def config(self, number: int) -> Config:
        places: dict[str, float | str | None]
        assert self._begin is not None
        if self._length is not None:
            begin = self._begin[0] + (number - 1) * self._length
            places = {"start": f"{begin}f", "end": f"{begin + self._length}f"}
        else:
            places = {"start": self._starts_s(number), "end": self._starts_s(number + 1)}
        return self._config.model_copy(update={**places, "duration": None, "every_window": None})

    def window(self, number: int) -> Window:
        """As far as it was seen."""
        first, stop = self._frames.pop(number)
        if self._length is not None:
            return Window(number, first, stop, None, None)
        over = any(later > number for later in self._frames.copy())
        return Window(number, first, stop, self._starts_s(number), self._starts_s(number + 1) if over else self._last_s)
