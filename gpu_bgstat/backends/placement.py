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
LEAST_PATCH, _USUAL_PATCH = 4, 16  # pixels, the side of a patch
MOST_RANKS = 512  # order statistics of one pass; the least results' memory holds so many of one line of values

_RANKS = 2  # the results' memory is sized for so many; for more ranks the chunks get smaller
_CHUNKS = 8  # at least, so that downloads go beside reductions; but not of fewer values than keep a device busy
_LEAST_CHUNK = 1 << 17
_LEAST_RESULT_BYTES = 1 << 18
_MOST_RESULT_BYTES = 1 << 26
_MOST_WORK_BYTES = 1 << 25  # keys and masks of one lane; more only where one line of values needs more
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
    values        in these rows
    width         pixels of a row
    home          where the ring lies: "device"; "pinned" memory or a "file", and slabs of `chunk_values` go through
    chunk_values  values that are reduced at a time, a multiple of LINE_BYTES
    """

    device: int
    rows: range
    values: int
    width: int
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
    def row_values(self) -> int:
        return self.values // len(self.rows)

    @property
    def channels(self) -> int:
        return self.row_values // self.width

    @property
    def first(self) -> int:
        """The number of the share's first value in the frame."""
        return self.rows.start * self.row_values

    @property
    def table_bytes(self) -> int:
        """Ranks, numbers of rows, and gains and offsets of a lane; each begins at a whole line."""
        return 4 * MOST_RANKS + whole_lines(4 * self.slots) + 2 * 8 * self.channels * self.slots

    @property
    def work_bytes(self) -> int:
        """Keys and mask of a lane: for the usual patches of a chunk, or for the smallest ones of one line of values.

        For smaller patches than usual, and for images that do not fit, chunks get smaller.
        """
        least = self._patch_bytes(LINE_BYTES, LEAST_PATCH)
        return max(least, min(self._patch_bytes(self.chunk_values, _USUAL_PATCH), _MOST_WORK_BYTES))

    def _patch_bytes(self, values: int, side: int) -> int:
        """For so many values, beginning anywhere: they reach into so many rows of patches."""
        rows = (values - 1) // self.row_values // side + 2
        return rows * -(-self.width // side) * patch_bytes(self.slots)

    def values_for(self, side: int, count: int) -> int:
        """How many values may be reduced at a time where keys and masks of patches are needed."""
        rows = self.work_bytes // (-(-self.width // side) * patch_bytes(count))
        most = min(self.chunk_values, (rows - 1) * side * self.row_values)
        return max(LINE_BYTES, most // LINE_BYTES * LINE_BYTES)

    @property
    def device_bytes(self) -> int:
        lanes = LANES * (self.result_bytes + self.table_bytes + self.work_bytes)
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
            shares.append(Share(device, range(start, end), values, spec.width, itemsize, slots, home, chunk))
    return tuple(shares)


def whole_lines(size: int) -> int:
    """`size`, rounded up to whole lines."""
    return math.ceil(size / LINE_BYTES) * LINE_BYTES


def mask_words(count: int, warps: int) -> int:
    """Words of a mask over so many samples, for a kernel of so many warps."""
    return warps * math.ceil(count / (32 * warps))


def patch_bytes(count: int) -> int:
    """Keys, count and mask of one patch, at most: no kernel that reads a mask has more than 32 warps."""
    return 4 * (count + 1 + mask_words(count, 32))
