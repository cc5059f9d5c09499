"""Where the samples will lie, planned from sizes alone: no CUDA, no pixels.

    ring    all samples on one device                   [gpu:0 ▓▓▓▓]
    split   the rows of each frame over several         [gpu:0 ▓▓] [gpu:1 ▓▓]
    slabs   in pinned host memory; at finalize, all     [host ▓▓▓▓] ─► [gpu:0 ▒▒]
            samples of some values at a time go through
            the devices: one slab is reduced while the
            next is on its way
    file    as slabs, but read from a scratch file      [disk ▓▓▓▓] ─► [host ▒▒] ─► [gpu:0 ▒▒]

`placements` lists what fits, the fastest first. Each plan needs less memory than the ones before it on every device
that they share, or no more there and less of the host, so that an allocation that is refused leads to the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.frames import FrameSpec

LINE_BYTES = 128  # rows of a ring begin at multiples of this: a block of the kernels reads one line of each
STAGING = 3  # pinned frames on their way to a device
LANES = 2  # chunks that are reduced side by side
MOST_RANKS = 512  # order statistics of one pass; the least results' memory holds so many of one line of values

_RANKS = 2  # the results' memory is sized for so many; for more ranks the chunks get smaller
_CHUNKS = 8  # at least, so that downloads go beside reductions; but not of fewer values than keep a device busy
_LEAST_CHUNK = 1 << 17
_LEAST_RESULT_BYTES = 1 << 18
_MOST_RESULT_BYTES = 1 << 26
_MOST_SLAB_BYTES = 1 << 29  # of all lanes; larger slabs would be no faster
_SLAB_PARTS = (4, 16, 64)  # a slab has one part in so many of the ring, and of the free memory; tried in turn
_HEADROOM = 16  # one part in so many of the free memory is left to others

Home = Literal["device", "pinned", "file"]
HOMES: tuple[Home, ...] = ("device", "pinned", "file")  # the fastest first


@dataclass(frozen=True)
class Share:
    """The rows of each frame that one device has, and what they need there.

    device        its number
    rows          of the frame
    values        in these rows; the kernels know nothing of rows and columns
    home          where the ring lies: "device"; "pinned" memory or a "file", and slabs of `chunk_values` go through
    chunk_values  values that are reduced at a time, a multiple of LINE_BYTES
    """

    device: int
    rows: range
    values: int
    itemsize: int
    slots: int
    home: Home
    chunk_values: int

    @property
    def pitch_bytes(self) -> int:
        """From one sample to the next."""
        return whole_lines(self.values * self.itemsize)

    @property
    def ring_bytes(self) -> int:
        return self.slots * self.pitch_bytes

    @property
    def slab_bytes(self) -> int:
        return self.slots * self.chunk_values * self.itemsize

    @property
    def result_bytes(self) -> int:
        """Variance and ranks of one chunk."""
        return max(_LEAST_RESULT_BYTES, self.chunk_values * (4 + _RANKS * self.itemsize))

    @property
    def device_bytes(self) -> int:
        lanes = LANES * (self.result_bytes + 4 * MOST_RANKS)
        return lanes + (self.ring_bytes if self.home == "device" else LANES * self.slab_bytes)

    @property
    def pinned_bytes(self) -> int:
        staged = {
            "device": STAGING * self.values * self.itemsize,
            "pinned": self.ring_bytes,
            "file": LANES * self.slab_bytes,
        }
        return LANES * self.result_bytes + staged[self.home]


@dataclass(frozen=True)
class Placement:
    """A way to place all samples: `kind` is ring, split, slabs or file."""

    kind: str
    shares: tuple[Share, ...]

    def __str__(self) -> str:
        devices = ", ".join(
            f"gpu:{share.device} (rows {share.rows.start}..{share.rows.stop - 1}, {size_text(share.device_bytes)})"
            for share in self.shares
        )
        pinned = size_text(sum(share.pinned_bytes for share in self.shares))
        if self.kind == "slabs":
            return f"{pinned} of pinned host memory, streamed in slabs through {devices}"
        if self.kind == "file":
            return f"a file, streamed in slabs through {devices}; {pinned} of pinned host memory"
        if self.kind == "split":
            return f"split by rows over {devices}; {pinned} of pinned host memory"
        share = self.shares[0]
        return f"one ring on gpu:{share.device}, {size_text(share.device_bytes)}; {pinned} of pinned host memory"


def placements(
    spec: FrameSpec, slots: int, free_bytes: Sequence[tuple[int, int]], host_bytes: int | None, kept: bool = False
) -> Iterator[Placement]:
    """What fits, best first.

    free_bytes  (device, free bytes), in order of preference
    host_bytes  of memory that may be pinned; None: as much as it takes
    kept        only plans with the samples in a file
    """
    usable = [(device, free - free // _HEADROOM) for device, free in free_bytes]
    free = dict(usable)
    for home in HOMES[-1:] if kept else HOMES:
        room = free  # a file takes no more on a device than slabs of pinned memory do, and less of the host
        for plan in _candidates(spec, slots, usable, home):
            if any(share.device_bytes > room[share.device] for share in plan.shares):
                continue
            pinned = sum(share.pinned_bytes for share in plan.shares)
            if home != "device" and host_bytes is not None and pinned > host_bytes:
                continue
            yield plan
            room = room | {share.device: share.device_bytes - 1 for share in plan.shares}
        free = room if home == "device" else free


def _candidates(spec: FrameSpec, slots: int, usable: Sequence[tuple[int, int]], home: Home) -> Iterator[Placement]:
    if home != "device":
        for part in _SLAB_PARTS:
            if shares := _shares(spec, slots, usable, home, part):
                yield Placement("slabs" if home == "pinned" else "file", shares)
        return
    for number in range(1, len(usable) + 1):
        if shares := _shares(spec, slots, usable[:number], home):
            yield Placement("ring" if number == 1 else "split", shares)


def _shares(
    spec: FrameSpec, slots: int, usable: Sequence[tuple[int, int]], home: Home, slab_part: int = 0
) -> tuple[Share, ...]:
    """The frame's rows, dealt out in proportion to the memory; empty if there are fewer rows than devices.

    slab_part  0 for rings on the devices, else which part of the memory the slabs may take
    """
    total = sum(room for _, room in usable)
    if spec.height < len(usable) or total <= 0:
        return ()
    ends = [round(spec.height * sum(room for _, room in usable[: k + 1]) / total) for k in range(len(usable))]
    itemsize = spec.dtype.itemsize
    shares = []
    for (device, room), start, end in zip(usable, [0, *ends], ends, strict=False):
        values = (end - start) * spec.width * spec.channels
        most = min(values, max(values // _CHUNKS, _LEAST_CHUNK), _MOST_RESULT_BYTES // (4 + _RANKS * itemsize))
        if slab_part:
            slab_bytes = min(room // slab_part, _MOST_SLAB_BYTES) // LANES
            most = min(most, values // slab_part, slab_bytes // (slots * itemsize))
        chunk = max(1, most // LINE_BYTES) * LINE_BYTES if most < values else whole_lines(values)
        if values:
            shares.append(Share(device, range(start, end), values, itemsize, slots, home, chunk))
    return tuple(shares)


def whole_lines(size: int) -> int:
    """`size`, rounded up to whole lines."""
    return math.ceil(size / LINE_BYTES) * LINE_BYTES
