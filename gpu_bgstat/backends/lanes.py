"""One device's share of the reductions: chunk by chunk, two lanes side by side.

    lane 0   feed ─ reduce ─ download ········ feed ─ reduce ─ download
    lane 1           feed ─ reduce ─ download ········ feed ─ reduce ─ download

Each lane is a stream with its own tables and results, these on the device and in pinned memory. The host waits for a
lane only when it needs it again, and then copies the lane's results to where they belong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event

from gpu_bgstat.backends.cuda import TO_HOST, Block, cuda_errors, cupy
from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.backends.moments import Singles
from gpu_bgstat.backends.operations import Chosen, Engine, Memory, Operation, Reduction
from gpu_bgstat.backends.placement import LANES, MOST_RANKS, Share
from gpu_bgstat.backends.residence import DeviceRing, FileRing, PinnedRing, Residence
from gpu_bgstat.backends.scratch import Scratch
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import Image

_LOG = logging.getLogger("gpu_bgstat")


class _Lane:
    """One stream, and the memory for one chunk: tables and what the operation needs besides, and results."""

    def __init__(self, share: Share, own: Callable[[Block], Block]) -> None:
        self.stream = cupy().cuda.Stream(non_blocking=True)
        sizes = share.table_bytes, share.work_bytes, share.result_bytes
        self._memory = Memory(*(own(Block(size, share.device)).address for size in sizes))
        self._pinned = own(Block(share.result_bytes, None))
        self._bytes = self._pinned.bytes()
        self._pending: tuple[Operation, range, int] | None = None

    def aim(self, operation: Operation) -> None:
        """Uploads the tables that the next chunks are reduced with."""
        with self.stream:
            operation.prepare(self._memory)

    def submit(self, engine: Engine, operation: Operation, fed: tuple[int, int], values: range) -> None:
        """Queues the reduction of what was fed, on its stream, which is the current one; `collect` will keep it."""
        size = operation.queue(engine, self._memory, fed, values)
        address = self._memory.results
        cupy().cuda.runtime.memcpyAsync(self._pinned.address, address, size, TO_HOST, self.stream.ptr)
        self._pending = operation, values, size

    def collect(self) -> None:
        """Waits for what was submitted, and copies it to where it belongs."""
        if self._pending is None:
            return
        self.stream.synchronize()
        operation, values, size = self._pending
        self._pending = None
        operation.keep(self._bytes[:size], values)


class Part:
    """The rows of all samples that one device has, and their reductions. Any device may be the current one."""

    def __init__(self, share: Share, engine: Engine, scratch: Scratch | None = None) -> None:
        """Allocates all that will be needed; raises OutOfDeviceMemoryError if a part of it is refused.

        scratch  the file with whole samples, if the plan has one; samples go into it, not into this part
        """
        self._share = share
        self._engine = engine
        self._blocks: list[Block] = []
        try:
            with self._doing("allocating the ring"):
                self._residence = self._reside(scratch)
                self._lanes = [_Lane(share, self._own) for _ in range(LANES)]
        except BaseException:
            self.close()
            raise

    def _reside(self, scratch: Scratch | None) -> Residence:
        if scratch is not None:
            return FileRing(self._share, self._own, scratch)
        return (DeviceRing if self._share.home == "device" else PinnedRing)(self._share, self._own)

    def _own(self, block: Block) -> Block:
        self._blocks.append(block)
        return block

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        share = self._share
        sizes = f"{share.slots} samples of {share.values} values, {size_text(share.device_bytes)}"
        with cuda_errors(f"gpu:{share.device}, {what} ({sizes})"), cupy().cuda.Device(share.device):
            yield

    def put(self, slot: int, frame: Image) -> None:
        """The rows that this part has of a frame (H, W[, 3])."""
        assert not isinstance(self._residence, FileRing)
        with self._doing("uploading a sample"):
            self._residence.put(slot, frame[self._share.rows.start : self._share.rows.stop].reshape(-1))

    def move(self, source: int, target: int) -> None:
        assert not isinstance(self._residence, FileRing)
        with self._doing("moving a sample"):
            self._residence.move(source, target)

    def reduce(self, chosen: Chosen, ranks: Sequence[int], targets: tuple[Singles, Image], stopped: Event) -> None:
        """Fills the targets, variance (V,) and ranks (R, V) of this part's values."""
        most = min(self._engine.most_ranks, MOST_RANKS)
        for first in range(0, max(1, len(ranks)), most):
            group = slice(first, first + most)
            self.run(Reduction(chosen, ranks[group], targets[0], targets[1][group]), stopped)

    def run(self, operation: Operation, stopped: Event) -> None:
        """Does an operation for all values of this part; ends early once it is stopped."""
        share, chunk = self._share, operation.most
        with self._doing("reducing"):
            for lane in self._lanes:
                lane.aim(operation)
            for turn, start in enumerate(range(0, share.values, chunk)):
                lane = self._lanes[turn % LANES]
                values = range(start, min(start + chunk, share.values))
                lane.collect()
                if stopped.is_set():
                    return
                with lane.stream:
                    fed = self._residence.feed(turn % LANES, operation.fed, values)
                    lane.submit(self._engine, operation, fed, values)
            for lane in self._lanes:
                lane.collect()

    def close(self) -> None:
        """Waits for what is under way and gives all memory back."""
        try:
            with self._doing("closing"):
                cupy().cuda.runtime.deviceSynchronize()
        except DeviceError as error:  # told before, by what failed first; the memory goes back all the same
            _LOG.debug("%s", error)
        for block in self._blocks:
            block.close()
        self._blocks.clear()
