"""What lets an interrupted estimate go on: a folder with the samples and a journal of them.

    DIR/samples   the ring, as a scratch file: pixels, and nothing else
    DIR/journal   what the pixels are: recording, settings, plan, and from time to time which samples are in

A sample counts once the journal tells of it, and the journal tells of it once its pixels are on the disk: after a kill
at any moment, what the journal tells is true. No slot that it tells of is written again with anything else, since only
recordings whose samples are known beforehand can be resumed: each has a slot of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict

from gpu_bgstat.backends.memory import sync_folder
from gpu_bgstat.backends.scratch import opened
from gpu_bgstat.config import MEANS, Config
from gpu_bgstat.errors import CheckpointError
from gpu_bgstat.frames import FrameSpec, Sample
from gpu_bgstat.interrupts import uninterrupted
from gpu_bgstat.journal import Journal
from gpu_bgstat.oddities import Look
from gpu_bgstat.schedule import Planned
from gpu_bgstat.version import __version__

EVERY_S = 2.0  # between two commits: what an interruption costs; longer where commits take long
_COMMITS_SHARE = 10  # one part in so many of the time, at most, goes into commits
_FORMAT = 2
_JOURNAL, _SAMPLES = "journal", "samples"
_LOG = logging.getLogger("gpu_bgstat")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Header(_Record):
    """The first record: what the samples are of."""

    format: int
    versions: dict[str, str]
    recording: dict[str, Any]
    settings: dict[str, Any]


class Reading(_Record):
    """The recording is read from now on by this plan; all samples before are void."""

    kind: Literal["reading"] = "reading"
    plan: str
    source: dict[str, Any]


class Kept(_Record):
    """One sample."""

    index: int
    time_s: float | None
    brightness: float
    shift: tuple[int, int] | None
    look: str
    coarse: str | None


class Commit(_Record):
    """Samples that came, in order of their slots; those whose stretch of the recording is still being read."""

    kind: Literal["commit"] = "commit"
    frame: tuple[int, int, int, str] | None  # width, height, channels and type of the recording's frames
    first: int  # slot of the first of them
    samples: list[Kept]
    size: int  # bytes of the samples' file
    unsettled: list[int]
    clipped: list[str]
    source: dict[str, Any] | None  # None: as before


class Checkpoint:
    """A folder, locked. Made or found; what was found is refused if it is of something else."""

    def __init__(self, folder: Path, recording: dict[str, Any], config: Config) -> None:
        """`recording` is a source's identity. Raises CheckpointError."""
        self.folder = folder
        self.plan = ""  # of the reading that was found
        self.source: dict[str, Any] = {}
        self.frame: FrameSpec | None = None
        self.samples: list[Sample] = []
        self.looks: list[Look] = []  # of the samples
        self.coarse: list[str | None] = []  # what is coarse about them
        self.clipped: list[str] = []
        self.size = 0  # of the samples' file
        self._unsettled: set[int] = set()
        self._untouched = True  # since it was opened
        self._told = 0  # samples that the journal tells of
        self._half_told: set[int] = set()  # those of them whose neighbour had not come
        self._next = time.monotonic() + EVERY_S
        header = Header(
            format=_FORMAT,
            versions={"gpu_bgstat": __version__, "opencv": cv2.__version__, "av": av.__version__},
            recording=recording,
            settings=config.model_dump(mode="json", exclude=set(MEANS)),
        )
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be made for the checkpoint ({error.strerror})") from error
        self._journal = Journal(folder / _JOURNAL)
        try:
            self._recall(header)
            self.file = self._open()
        except BaseException:
            self._journal.close()
            raise

    def _recall(self, header: Header) -> None:
        """Takes in what the journal tells, or begins it."""
        if not self._journal.found:
            self._journal.append(header.model_dump())
            return
        first, *records = self._journal.found
        try:
            _same(Header.model_validate(first), header)
            for record in records:
                if record.get("kind") == "reading":
                    self._new_reading(Reading.model_validate(record))
                else:
                    self._take(Commit.model_validate(record, strict=False))
        except (ValueError, KeyError, TypeError, CheckpointError) as error:  # pydantic's is a ValueError
            reason = error if isinstance(error, CheckpointError) else "its journal cannot be understood"
            raise CheckpointError(
                f"the checkpoint in {self.folder} does not fit: {reason}; remove the folder to start anew"
            ) from error
        self._told, self._half_told = len(self.samples), set(self._unsettled)

    def _new_reading(self, reading: Reading) -> None:
        self.plan, self.source = reading.plan, reading.source
        self.samples, self.looks, self.coarse, self.clipped, self.frame = [], [], [], [], None
        self._unsettled = set()
        self._told, self._half_told = 0, set()

    def _take(self, commit: Commit) -> None:
        if commit.frame is not None:
            width, height, channels, dtype = commit.frame
            self.frame = FrameSpec(width, height, channels, np.dtype(dtype))
        if not 0 <= commit.first <= len(self.samples):
            raise CheckpointError("its journal leaves samples out")
        kept = [sample.model_dump() for sample in commit.samples]
        self.looks[commit.first :] = [Look.from_json(sample.pop("look")) for sample in kept]
        self.coarse[commit.first :] = [sample.pop("coarse") for sample in kept]
        self.samples[commit.first :] = [Sample(**sample) for sample in kept]
        self._unsettled = set(commit.unsettled)
        self.clipped, self.size = commit.clipped, commit.size
        self.source = self.source if commit.source is None else commit.source

    def _open(self) -> FileIO:
        path = self.folder / _SAMPLES
        try:
            if self.samples and not path.exists():
                raise CheckpointError(f"{path} is gone: remove {self.folder} to start anew")
            if self.samples and path.stat().st_size != self.size:
                raise CheckpointError(
                    f"{path} has {path.stat().st_size} bytes, and had {self.size}: remove {self.folder} to start anew"
                )
            file = opened(path)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise CheckpointError(f"{path} is no file: remove {self.folder} to start anew")
            sync_folder(self.folder)
            sync_folder(self.folder.parent)
            return file
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened ({error.strerror})") from error

    @property
    def settled(self) -> set[int]:
        """Indices of the samples that need not be read again."""
        return {sample.index for sample in self.samples} - self._unsettled

    def begin(self, plan: Planned, source: dict[str, Any]) -> None:
        """A reading begins. The first goes on with the one that was found, if that had the same plan."""
        digest = hashlib.sha256(np.asarray(plan.indices, np.int64).tobytes()).hexdigest()
        goes_on, self._untouched = digest == self.plan and self._untouched, False
        if goes_on:
            return
        if self.samples:
            _LOG.info("the checkpoint's samples were chosen otherwise: they are read anew")
        reading = Reading(plan=digest, source=source)
        self._journal.append(reading.model_dump())
        self._new_reading(reading)

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next

    def commit(
        self,
        sync: Callable[[], None],
        frame: FrameSpec | None,
        samples: Sequence[Sample],
        look: Callable[[Sample], Look],
        coarse: Callable[[Sample], str | None],
        awaiting: set[int],
        unsettled: set[int],
        clipped: Iterable[str],
        source: dict[str, Any],
    ) -> None:
        """Tells of these samples, in order of their slots, after `sync` has brought their pixels to the disk.

        What is coarse about those `awaiting` their neighbour is told once more when that has come.

        Raises CheckpointError.
        """
        started = time.monotonic()
        sync()
        there = {sample.index for sample in samples}
        news = self._half_told - awaiting
        first = next((slot for slot, sample in enumerate(samples[: self._told]) if sample.index in news), self._told)
        record = Commit(
            frame=None if frame is None else (frame.width, frame.height, frame.channels, str(frame.dtype)),
            first=first,
            samples=[
                Kept(**asdict(sample), look=look(sample).to_json(), coarse=coarse(sample)) for sample in samples[first:]
            ],
            size=os.fstat(self.file.fileno()).st_size,
            unsettled=sorted(unsettled & there),
            clipped=sorted(clipped),
            source=None if source == self.source else source,
        )
        with uninterrupted():  # what the journal tells, and what this knows of it, go together
            self._journal.append(record.model_dump())
            self._told, self._half_told, self.source = len(samples), awaiting & there, source
        now = time.monotonic()
        self._next = now + max(EVERY_S, _COMMITS_SHARE * (now - started))

    def close(self) -> None:
        """Leaves the checkpoint for the next run; one that tells of no sample goes."""
        self.file.close()
        self._journal.close()
        if not self._told:
            remove(self.folder)


def remove(folder: Path) -> None:
    """Removes a checkpoint's files, and the folder if nothing else is in it. The journal goes first."""
    for name in (_JOURNAL, _SAMPLES):
        with suppress(OSError):
            (folder / name).unlink()
    with suppress(OSError):
        folder.rmdir()


def left_behind(folder: Path) -> bool:
    """Whether a checkpoint of an interrupted run is in this folder."""
    return (folder / _JOURNAL).exists()


def _same(then: Header, now: Header) -> None:
    """Raises CheckpointError with the first thing that differs."""
    if then.format != now.format:
        raise CheckpointError(f"it has format {then.format}, and this is gpu_bgstat {__version__} with {now.format}")
    for what, old, new in (
        ("version", then.versions, now.versions),
        ("recording", then.recording, now.recording),
        ("setting", then.settings, now.settings),
    ):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                raise CheckpointError(f"it is of another {what} ({name}: {old.get(name)} then, {new.get(name)} now)")
