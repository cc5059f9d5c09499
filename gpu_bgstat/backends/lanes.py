"""One device's share of the reductions: chunk by chunk, two lanes side by side.

    lane 0   feed ─ reduce ─ download ········ feed ─ reduce ─ download
    lane 1           feed ─ reduce ─ download ········ feed ─ reduce ─ download

Each lane is a stream with its own results, on the device and in pinned memory. The host waits for a lane only when it
needs it again, and then copies the lane's results to where they belong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Protocol

import numpy as np

from gpu_bgstat.backends.cuda import TO_HOST, Block, cuda_errors, cupy, upload
from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.backends.moments import Singles
from gpu_bgstat.backends.placement import LANES, LINE_BYTES, MOST_RANKS, Share
from gpu_bgstat.backends.residence import DeviceRing, FileRing, PinnedRing, Residence
from gpu_bgstat.backends.scratch import Scratch
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import Image

_LOG = logging.getLogger("gpu_bgstat")
Targets = tuple[Singles, Image]  # variance (V,) and ranks (R, V) on the host


class Engine(Protocol):
    """How a chunk is reduced: `kernels.Kernels` or `plain.Plain`."""

    most_ranks: int

    def launch(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        ranks: tuple[int, Sequence[int]],
        results: tuple[int, int],
    ) -> None:
        """Queues variance and ranks of one chunk on the current stream."""


class _Lane:
    """One stream and the memory for one chunk's results: variance (V,), then ranks (R, V)."""

    def __init__(self, share: Share, own: Callable[[Block], Block]) -> None:
        self._itemsize = share.itemsize
        self.stream = cupy().cuda.Stream(non_blocking=True)
        self._ranks = own(Block(4 * MOST_RANKS, share.device))
        self._device = own(Block(share.result_bytes, share.device))
        self._pinned = own(Block(share.result_bytes, None))
        self._bytes = self._pinned.bytes()
        self._pending: tuple[Singles, Image] | None = None

    def aim(self, ranks: Sequence[int]) -> None:
        """Uploads the ranks that the next chunks are reduced to."""
        if ranks:
            with self.stream:
                upload(self._ranks.address, np.array(ranks, np.uint32))

    def submit(self, engine: Engine, fed: tuple[int, int], count: int, ranks: Sequence[int], targets: Targets) -> None:
        """Queues the reduction of what was fed; `collect` will fill the targets."""
        values, at = targets[0].size, self._device.address
        engine.launch(fed, (count, values), (self._ranks.address, ranks), (at, at + 4 * values))
        size = values * (4 + len(ranks) * self._itemsize)
        cupy().cuda.runtime.memcpyAsync(self._pinned.address, at, size, TO_HOST, self.stream.ptr)
        self._pending = targets

    def collect(self) -> None:
        """Waits for what was submitted, and copies it to its targets."""
        if self._pending is None:
            return
        self.stream.synchronize()
        variance, order = self._pending
        self._pending = None
        np.copyto(variance, self._bytes[: variance.nbytes].view(np.float32))
        np.copyto(order, self._bytes[variance.nbytes :][: order.nbytes].view(order.dtype).reshape(order.shape))


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

    def reduce(self, count: int, ranks: Sequence[int], targets: Targets, stopped: Event) -> None:
        """Fills the targets, variance (V,) and ranks (R, V) of this part's values; ends early once it is stopped."""
        most = min(self._engine.most_ranks, MOST_RANKS)
        with self._doing("reducing"):
            for first in range(0, max(1, len(ranks)), most):
                group = slice(first, first + most)
                self._reduce(count, ranks[group], (targets[0], targets[1][group]), stopped)

    def _reduce(self, count: int, ranks: Sequence[int], targets: Targets, stopped: Event) -> None:
        share, (variance, order) = self._share, targets
        fitting = share.result_bytes // (4 + len(ranks) * share.itemsize) // LINE_BYTES * LINE_BYTES
        chunk = min(share.chunk_values, fitting)
        for lane in self._lanes:
            lane.aim(ranks)
        for turn, start in enumerate(range(0, share.values, chunk)):
            lane = self._lanes[turn % LANES]
            values = range(start, min(start + chunk, share.values))
            lane.collect()
            if stopped.is_set():
                return
            part = slice(values.start, values.stop)
            with lane.stream:
                fed = self._residence.feed(turn % LANES, count, values)
                lane.submit(self._engine, fed, count, ranks, (variance[part], order[:, part]))
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
