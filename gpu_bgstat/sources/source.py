"""What every kind of input offers to the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_bgstat.config import Config
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Frame, FrameSpec, Plan, Timeline
from gpu_bgstat.media import identity


class ReadAgainError(SourceError):
    """The recording is otherwise than it seemed: frames read so far must be dropped, and `read` called once more."""


class Source(ABC):
    """A recording, opened. Making one checks that it can be read, and decodes no more than its first frame."""

    name: str
    container: dict[str, Any]  # what the header says, for the report
    spec: FrameSpec | None  # of its frames; None if only reading tells
    timeline: Timeline | None  # None if only reading tells; corrected by a complete read

    def __init__(self, name: str) -> None:
        self.name = name
        self.container = {}
        self.spec = None
        self.timeline = None
        self.files: list[Path] = []  # that it lies in; empty if it cannot be read again
        self.seen = 0  # frames met by the current or last read
        self.damaged = 0  # frames or packets among them that could not be decoded whole
        self.dropped = 0  # frames that were due, and came faster than they were collected: live sources only
        self.warnings: list[str] = []
        self.notes: list[str] = []  # warnings about this machine rather than the recording
        self.decoding: dict[str, Any] = {}  # how the last read went about it, for the report

    @abstractmethod
    def read(self, plan: Plan) -> Iterator[Frame]:
        """The frames that are due; may be called again, and starts anew then if the input allows it.

        In order, unless `plan.any_order`. A frame's pixels are the receiver's to keep; their rows may be padded.
        Raises SourceError when the recording cannot be read at all, and ReadAgainError; damage in the middle is counted
        and told in `warnings`.
        """

    def way(self, plan: Plan) -> str | None:
        """How these frames would be read, in a few words; None where there is nothing to choose."""
        return None

    def begin(self) -> None:
        """Forgets what the last read met."""
        self.seen = self.damaged = self.dropped = 0
        self.warnings, self.notes = [], []

    def due(self, plan: Plan, frames: int) -> Iterator[int]:
        """The indices that are due, of `frames` frames without times; those between count as seen, and are not touched.

        Where the plan knows its indices, nothing is asked frame by frame: the cost is that of the samples.
        """
        if plan.indices is None:
            yield from self._walk(plan, frames)
            return
        stop = bisect_left(range(frames), True, key=lambda index: plan.over(index, None))
        for index in plan.indices:
            if index >= stop:
                break
            self.seen = index + 1
            yield index
        self.seen = stop

    def _walk(self, plan: Plan, frames: int) -> Iterator[int]:
        for index in range(frames):
            if plan.over(index, None):
                return
            self.seen += 1
            if plan.due(index, None):
                yield index

    def identity(self) -> dict[str, Any]:
        """By what this recording is known again, when an interrupted reading goes on.

        Raises SourceError if it cannot be read twice.
        """
        if not self.files:
            raise SourceError(f"{self.name} cannot be read again from where it stopped, as files can: leave resume out")
        return identity.of_files(self.files)

    def state(self) -> dict[str, Any]:
        """What reading has found out so far besides frames, as JSON, for `recall`."""
        return {}

    def recall(self, state: dict[str, Any]) -> None:  # noqa: B027 (most kinds find out nothing)
        """Takes in the state of an interrupted reading; the next `read` goes on with it."""

    def unsettled(self) -> set[int]:
        """Frames that must come once more if reading stops now, though they may have come: more depends on them."""
        return set()

    def check(self, config: Config) -> None:  # noqa: B027 (most kinds take any)
        """Raises ConfigError if these settings cannot be for this kind of input."""

    def rest(self) -> None:  # noqa: B027 (most kinds hold nothing open)
        """Gives back what can be opened again: this recording waits for others to be read before it."""

    def close(self) -> None:  # noqa: B027 (most kinds hold nothing open)
        """Gives files and devices back."""
