"""estimate(source, config): the flow, from a recording to its background."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from gpu_bgstat import schedule
from gpu_bgstat.config import Config
from gpu_bgstat.errors import SourceError
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.frames import Background, Run
from gpu_bgstat.schedule import Planned, Running
from gpu_bgstat.sources import SourceLike, open_source
from gpu_bgstat.sources.source import ReadAgainError, Source

_MOST_READINGS = 20  # each tells what the one before could not know; a source gives up planning long before
_LOG = logging.getLogger("gpu_bgstat")


@dataclass(frozen=True)
class Progress:
    """Where an estimate stands: frames read of those that will be (None if nobody knows), and samples kept."""

    frames: int
    total: int | None
    samples: int


def estimate(
    source: SourceLike, config: Config | None = None, on_progress: Callable[[Progress], None] | None = None
) -> Background:
    """The background of a recording: a path, a glob, a list of paths, an array (T, H, W[, C]), frames, a camera.

    on_progress  called after each sample
    Raises SourceError, ConfigError, DeviceError or TooFewSamplesError; nothing is written.
    """
    config = config or Config()
    clock = _Clock()
    with closing(open_source(source, config)) as recording:
        recording.check(config)
        plan = schedule.plan(recording.timeline, config)
        clock.lap("open")
        notes: list[str] = []
        for readings_left in reversed(range(_MOST_READINGS)):
            with BackgroundEstimator(config, plan=plan) as estimator:
                estimator.warnings.extend([*notes, *plan.notes])
                try:
                    _collect(recording, plan, estimator, on_progress)
                except ReadAgainError as news:
                    _LOG.info("%s", news)
                    plan = schedule.plan(recording.timeline, config)
                    continue
                finally:
                    clock.lap("read")
                corrected = schedule.plan(recording.timeline, config)
                if corrected.indices == plan.indices or not readings_left:
                    background = estimator.finalize()
                    return replace(background, run=_account(background.run, recording, clock))
            plan = corrected  # what was read has corrected the timeline
            notes = ["the file promised another length than it has, so it was read again to choose the samples"]
    raise SourceError(f"{recording.name} is otherwise at each reading: start again when it is finished")


def _collect(
    recording: Source,
    plan: Planned | Running,
    estimator: BackgroundEstimator,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Every frame that is due, from the source into the ring."""
    total = plan.stop if isinstance(plan, Planned) else None
    for frame in recording.read(plan):
        estimator.add(frame)
        if on_progress:
            on_progress(Progress(recording.seen, total, estimator.kept))


def _account(run: Run, recording: Source, clock: _Clock) -> Run:
    """The estimator's account of the run, completed by what only the source and the clock know."""
    laps = {"open": clock.laps["open"], "read": clock.laps["read"], **run.timings_s}
    return replace(
        run,
        source=recording.name,
        container=recording.container,
        frames_seen=recording.seen,
        damaged=recording.damaged,
        warnings=(*recording.warnings, *run.warnings),
        notes=(*recording.notes, *run.notes),
        decoding=recording.decoding,
        timings_s={**laps, "total": clock.total()},
    )


class _Clock:
    """Seconds spent in each stage; a stage that comes twice adds up."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._last
        self._last = now

    def total(self) -> float:
        return time.perf_counter() - self._started
