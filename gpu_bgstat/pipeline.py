"""estimate(source, config): the flow, from a recording to its background."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_bgstat import schedule
from gpu_bgstat.config import Config
from gpu_bgstat.errors import ConfigError, SourceError
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.frames import Background, Run
from gpu_bgstat.resume import Resume
from gpu_bgstat.schedule import Planned, Running
from gpu_bgstat.snapshots import Album, Snapshots
from gpu_bgstat.sources import SourceLike, open_source
from gpu_bgstat.sources.source import ReadAgainError, Source

MOST_READINGS = 20  # each tells what the one before could not know; a source gives up planning long before
_LOG = logging.getLogger("gpu_bgstat")


@dataclass(frozen=True)
class Progress:
    """Where an estimate stands: frames read of those that will be (None if nobody knows), and samples kept."""

    frames: int
    total: int | None
    samples: int


def estimate(
    source: SourceLike,
    config: Config | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    snapshots: Snapshots | None = None,
    checkpoint: str | Path | None = None,
) -> Background:
    """The background of a recording: a path, a glob, a list of paths, an array (T, H, W[, C]), frames, a camera.

    on_progress  called after each sample
    snapshots    what to do now and then with the background so far
    checkpoint   a folder: what an interrupted run has left there goes on, and an interruption leaves there what is
                 needed to go on, up to the last seconds. It stays when all is done; `checkpoint.remove` removes it

    Raises SourceError, ConfigError, DeviceError, ScratchError, CheckpointError or TooFewSamplesError.
    """
    config = config or Config()
    if config.every_window is not None:
        raise ConfigError("every_window asks for several backgrounds, and estimate makes one: use estimate_windows")
    clock, album = Clock(), Album(snapshots)
    with (
        closing(open_source(source, config)) as recording,
        closing(Resume(checkpoint, recording, config)) as resume,
    ):
        recording.check(config)
        plan = schedule.plan(recording.timeline, config)
        clock.lap("open")
        notes: list[str] = []
        for readings_left in reversed(range(MOST_READINGS)):
            with BackgroundEstimator(config, plan=plan, kept=resume.file) as estimator:
                estimator.warnings.extend([*notes, *plan.notes])
                rest = resume.rest(plan, estimator)
                try:
                    with resume.keeping(estimator) as keep:
                        for _ in _collected(recording, rest, estimator, on_progress):
                            keep()
                            if album.due() and estimator.kept > 1:
                                _show(album, estimator, recording, clock)
                except ReadAgainError as news:
                    _LOG.info("%s", news)
                    plan = schedule.plan(recording.timeline, config)
                    continue
                finally:
                    clock.lap("read")
                corrected = schedule.plan(recording.timeline, config)
                if corrected.indices == plan.indices or not readings_left:
                    estimator.warnings.extend(album.told())
                    background = estimator.finalize()
                    return replace(background, run=_account(background.run, recording, clock))
            plan = corrected  # what was read has corrected the timeline
            notes = ["the file promised another length than it has, so it was read again to choose the samples"]
    raise SourceError(f"{recording.name} is otherwise at each reading: start again when it is finished")


def _collected(
    recording: Source,
    plan: Planned | Running,
    estimator: BackgroundEstimator,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[None]:
    """Every frame that is due, from the source into the ring; pauses after each sample."""
    total = plan.stop if isinstance(plan, Planned) else None
    for frame in recording.read(plan):
        if not estimator.add(frame):
            continue
        if on_progress:
            on_progress(Progress(recording.seen, total, estimator.kept))
        yield


def _show(album: Album, estimator: BackgroundEstimator, recording: Source, clock: Clock) -> None:
    """Hands the background of the samples so far to whoever wants snapshots."""
    clock.lap("read")
    background = estimator.finalize()
    run = replace(_account(background.run, recording, clock), snapshot=True)
    album.add(replace(background, run=run))
    clock.lap("snapshots")


def _account(run: Run, recording: Source, clock: Clock) -> Run:
    """The estimator's account of the run, completed by what only the source and the clock know."""
    return replace(
        run,
        source=recording.name,
        container=recording.container,
        frames_seen=recording.seen,
        damaged=recording.damaged,
        dropped=recording.dropped,
        warnings=(*recording.warnings, *run.warnings),
        notes=(*recording.notes, *run.notes),
        decoding=recording.decoding,
        timings_s={**clock.laps, **run.timings_s, "total": clock.total()},
    )


class Clock:
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
