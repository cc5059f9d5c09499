"""Where one device's share of the samples lives: in a ring on the device, or in pinned memory or a file, and slabs.

The first two take rows of frames (`put` values (V,) into a slot, `move` one slot over another). All show the reductions
a chunk of values over slots 0 .. count-1: `feed` gives its address and pitch on the device, for the current stream to
read. All calls happen with the share's device as the current one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu_bgstat.backends.cuda import ON_DEVICE, TO_DEVICE, Block, cupy
from gpu_bgstat.backends.placement import LANES, STAGING, Share
from gpu_bgstat.backends.scratch import Scratch
from gpu_bgstat.frames import Image


class DeviceRing:
    """The ring on the device, filled through pinned buffers.

        frame ─copy─► staging 0, 1, 2 ─upload─► ring     one stream, which nobody waits for

    An event ends each upload; a buffer is written again after its event, and the reductions wait for the last one.
    """

    def __init__(self, share: Share, own: Callable[[Block], Block]) -> None:
        cp = cupy()
        self._share = share
        self._stream = cp.cuda.Stream(non_blocking=True)
        self._ring = own(Block(share.ring_bytes, share.device))
        self._staging = [own(Block(share.values * share.itemsize, None)) for _ in range(STAGING)]
        self._buffers = [block.bytes() for block in self._staging]
        self._uploaded = [cp.cuda.Event(block=True, disable_timing=True) for _ in range(STAGING)]
        self._turn = 0

    def put(self, slot: int, values: Image) -> None:
        turn = self._turn = (self._turn + 1) % STAGING
        self._uploaded[turn].synchronize()
        np.copyto(self._buffers[turn], values.view(np.uint8))
        self._copy(slot, self._staging[turn].address, TO_DEVICE)
        self._uploaded[turn].record(self._stream)

    def move(self, source: int, target: int) -> None:
        self._copy(target, self._ring.address + source * self._share.pitch_bytes, ON_DEVICE)

    def _copy(self, slot: int, source: int, kind: int) -> None:
        target = self._ring.address + slot * self._share.pitch_bytes
        size = self._share.values * self._share.itemsize
        cupy().cuda.runtime.memcpyAsync(target, source, size, kind, self._stream.ptr)

    def feed(self, lane: int, count: int, values: range) -> tuple[int, int]:
        cp = cupy()
        cp.cuda.get_current_stream().wait_event(self._stream.record())
        return self._ring.address + values.start * self._share.itemsize, self._share.pitch_bytes


class PinnedRing:
    """The ring in pinned memory. At finalize it streams through two slabs on the device.

    ring (slots, V) ─upload of some columns─► slab 0, 1     each on its lane's stream
    """

    def __init__(self, share: Share, own: Callable[[Block], Block]) -> None:
        self._share = share
        self._pinned = own(Block(share.ring_bytes, None))
        self._slabs = [own(Block(share.slab_bytes, share.device)) for _ in range(LANES)]
        self._ring = self._pinned.bytes().reshape(share.slots, share.pitch_bytes)

    def put(self, slot: int, values: Image) -> None:
        self._ring[slot, : values.nbytes] = values.view(np.uint8)

    def move(self, source: int, target: int) -> None:
        self._ring[target] = self._ring[source]

    def feed(self, lane: int, count: int, values: range) -> tuple[int, int]:
        itemsize = self._share.itemsize
        slab, pitch = self._slabs[lane].address, self._share.chunk_values * itemsize
        source = self._pinned.address + values.start * itemsize
        cupy().cuda.runtime.memcpy2DAsync(
            *(slab, pitch, source, self._share.pitch_bytes),
            *(len(values) * itemsize, count, TO_DEVICE, cupy().cuda.get_current_stream().ptr),
        )
        return slab, pitch


class FileRing:
    """The ring in a scratch file, which has whole samples. At finalize it streams through pinned buffers and slabs.

    file ─copy of some columns─► pinned 0, 1 ─upload─► slab 0, 1     each on its lane's stream

    A lane is waited for before it is fed again, so that nobody reads its buffer any more.
    """

    def __init__(self, share: Share, own: Callable[[Block], Block], scratch: Scratch) -> None:
        self._share = share
        self._scratch = scratch
        layout = scratch.layout
        self._first = share.rows.start * (share.values // len(share.rows))  # of the frame's values
        self._slabs = [own(Block(share.slab_bytes, share.device)) for _ in range(LANES)]
        self._pinned = [own(Block(share.slab_bytes, None)) for _ in range(LANES)]
        self._buffers = [block.bytes().view(layout.dtype) for block in self._pinned]

    def feed(self, lane: int, count: int, values: range) -> tuple[int, int]:
        buffer = self._buffers[lane][: count * len(values)].reshape(count, len(values))
        self._scratch.read(count, range(self._first + values.start, self._first + values.stop), buffer)
        pitch = self._share.chunk_values * self._share.itemsize
        cupy().cuda.runtime.memcpy2DAsync(
            *(self._slabs[lane].address, pitch, self._pinned[lane].address, len(values) * self._share.itemsize),
            *(len(values) * self._share.itemsize, count, TO_DEVICE, cupy().cuda.get_current_stream().ptr),
        )
        return self._slabs[lane].address, pitch


Residence = DeviceRing | PinnedRing | FileRing
