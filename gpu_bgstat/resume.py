"""How an estimate goes on from its checkpoint, and keeps it; without one, nothing of that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from gpu_bgstat.checkpoint import Checkpoint
from gpu_bgstat.config import Config
from gpu_bgstat.errors import BgstatError, CheckpointError, FrameError
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.schedule import Planned, Running
from gpu_bgstat.sources.source import ReadAgainError, Source

_LOG = logging.getLogger("gpu_bgstat")


class Resume:
    """One estimate's dealings with a checkpoint. Making one takes the recording to where it was."""

    def __init__(self, folder: str | Path | None, recording: Source, config: Config) -> None:
        """Raises CheckpointError if what is in the folder is of something else; None is no checkpoint."""
        self._recording = recording
        self._checkpoint: Checkpoint | None = None
        if folder is not None:
            self._checkpoint = checkpoint = Checkpoint(Path(folder), recording.identity(), config)
            try:
                recording.recall(checkpoint.source)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                checkpoint.close()
                raise CheckpointError(
                    f"what the checkpoint in {folder} tells of the recording makes no sense: remove it to start anew"
                ) from error

    @property
    def file(self) -> FileIO | None:
        """Where the samples must lie."""
        return self._checkpoint.file if self._checkpoint else None

    def rest(self, plan: Planned | Running, estimator: BackgroundEstimator) -> Planned | Running:
        """What is left to read of a plan, when the estimator has got what the checkpoint has."""
        checkpoint = self._checkpoint
        if checkpoint is None or not isinstance(plan, Planned):
            return plan
        checkpoint.begin(plan, self._recording.state())
        if checkpoint.frame is None:
            return plan
        try:
            estimator.recall(
                checkpoint.frame, checkpoint.samples, checkpoint.looks, checkpoint.coarse, checkpoint.clipped
            )
        except FrameError as error:
            raise CheckpointError(f"the checkpoint in {checkpoint.folder} does not fit: {error}") from error
        settled = checkpoint.settled
        _LOG.info("resumed: %d of %d samples are in %s", len(settled), len(plan.samples), checkpoint.folder)
        return plan.without(settled)

    @contextmanager
    def keeping(self, estimator: BackgroundEstimator) -> Iterator[Callable[[], None]]:
        """Gives what must be called after each sample; whatever ends the block, the checkpoint tells of all that came.

        Not if the recording is to be read again: then all that came is void.
        """
        try:
            yield lambda: self._commit(estimator, only_if_due=True)
        except ReadAgainError:
            raise
        except BaseException as end:
            try:
                self._commit(estimator)
            except BgstatError as error:
                if str(error) != str(end):
                    _LOG.warning("not all that came is in the checkpoint: %s", error)
            raise
        self._commit(estimator, complete=True)

    def _commit(self, estimator: BackgroundEstimator, *, only_if_due: bool = False, complete: bool = False) -> None:
        """`complete`: all was read, and neighbours that have not come never will."""
        checkpoint = self._checkpoint
        if checkpoint is None or (only_if_due and not checkpoint.due):
            return
        awaiting = set() if complete else estimator.awaiting
        # before the state, which then knows at least as much
        unsettled = estimator.with_neighbours(self._recording.unsettled()) | awaiting
        state = self._recording.state()
        checkpoint.commit(
            estimator.sync,
            estimator.frame_spec,
            estimator.slots,
            estimator.look,
            estimator.coarse,
            awaiting,
            unsettled,
            estimator.clipped,
            state,
        )

    def close(self) -> None:
        if self._checkpoint:
            self._checkpoint.close()
