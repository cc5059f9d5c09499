"""What a device is asked about its share of the samples: each operation queues one chunk, and keeps its result.

An operation is made for one share. Its tables lie in a lane's memory from `prepare` on; what a chunk needs besides is
uploaded with the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Choice, Light
from gpu_bgstat.backends.cuda import upload
from gpu_bgstat.backends.moments import Singles
from gpu_bgstat.backends.placement import LINE_BYTES, MOST_RANKS, Share, whole_lines
from gpu_bgstat.backends.reading import Patches, Reading, light_table
from gpu_bgstat.frames import Image

Fed = tuple[int, int]  # address and pitch of a chunk's samples on the device


class Engine(Protocol):
    """How a chunk is reduced: `kernels.Kernels` or `plain.Plain`. All queue on the current stream.

    samples  address and pitch; shape: samples, values; reading: which samples, and in which light
    result   address, as the operation says
    """

    most_ranks: int

    def launch(
        self,
        samples: Fed,
        shape: tuple[int, int],
        ranks: tuple[int, Sequence[int]],
        results: tuple[int, int],
        reading: Reading = ...,
    ) -> None:
        """Variance and ranks."""

    def middles(self, samples: Fed, shape: tuple[int, int], patches: Patches, result: int, reading: Reading) -> None:
        """The two middles of the samples that count."""

    def support(
        self, samples: Fed, shape: tuple[int, int], image: tuple[int, int], result: int, reading: Reading
    ) -> None:
        """How many samples are near an image."""

    def modes(self, samples: Fed, shape: tuple[int, int], span: int, result: int, reading: Reading) -> None:
        """A sample of the densest interval."""


@dataclass(frozen=True)
class Memory:
    """Addresses of a lane's memory on the device: `table_bytes`, `work_bytes` and `result_bytes` of its share."""

    tables: int
    work: int
    results: int


class Operation(Protocol):
    """One reduction of a share."""

    most: int  # values at a time

    @property
    def fed(self) -> int:
        """How many slots it needs to be fed."""

    def prepare(self, memory: Memory) -> None:
        """Uploads tables; the lane's stream is the current one."""

    def queue(self, engine: Engine, memory: Memory, samples: Fed, values: range) -> int:
        """Queues the reduction of some of the share's values; the result's bytes."""

    def keep(self, result: NDArray[np.uint8], values: range) -> None:
        """Copies the result to where it belongs."""


class Chosen:
    """Which slots of a share are read, and in which light."""

    def __init__(self, share: Share, slots: Sequence[int] | int, light: Light | None = None) -> None:
        """slots: so many, from 0 on, or just these."""
        self.share = share
        self._rows = None if isinstance(slots, int) else np.array(slots, np.uint32)
        listed = range(slots) if isinstance(slots, int) else slots
        self.count = len(listed)
        self.fed = max(listed, default=-1) + 1
        self._light = light_table(light, listed, np.dtype(f"u{share.itemsize}")) if light else None
        self._light_at = 4 * MOST_RANKS + whole_lines(4 * share.slots)

    def prepare(self, memory: Memory) -> None:
        if self._rows is not None:
            upload(memory.tables + 4 * MOST_RANKS, self._rows)
        if self._light is not None:
            upload(memory.tables + self._light_at, self._light)

    def reading(self, memory: Memory, values: range) -> Reading:
        rows = memory.tables + 4 * MOST_RANKS if self._rows is not None else 0
        light = memory.tables + self._light_at if self._light is not None else 0
        return Reading(rows, light, self.share.channels, self.share.first + values.start)


class Reduction:
    """Variance (V,) and ranks (R, V); the targets have all values of the share."""

    def __init__(self, chosen: Chosen, ranks: Sequence[int], variance: Singles, order: Image) -> None:
        share = chosen.share
        fitting = share.result_bytes // (4 + len(ranks) * share.itemsize) // LINE_BYTES * LINE_BYTES
        self.most = min(share.chunk_values, fitting)
        self.fed = chosen.fed
        self._chosen, self._ranks, self._variance, self._order = chosen, ranks, variance, order

    def prepare(self, memory: Memory) -> None:
        self._chosen.prepare(memory)
        if self._ranks:
            upload(memory.tables, np.array(self._ranks, np.uint32))

    def queue(self, engine: Engine, memory: Memory, samples: Fed, values: range) -> int:
        shape, at = (self._chosen.count, len(values)), memory.results
        results = at, at + 4 * len(values)
        engine.launch(samples, shape, (memory.tables, self._ranks), results, self._chosen.reading(memory, values))
        return len(values) * (4 + len(self._ranks) * self._chosen.share.itemsize)

    def keep(self, result: NDArray[np.uint8], values: range) -> None:
        part, split = slice(values.start, values.stop), 4 * len(values)
        self._variance[part] = result[:split].view(np.float32)
        self._order[:, part] = result[split:].view(self._order.dtype).reshape(-1, len(values))


class Selection:
    """The two middles (2, V) of the samples that count."""

    def __init__(self, chosen: Chosen, choice: Choice, target: Image) -> None:
        self.most = chosen.share.values_for(choice.patch, chosen.count)
        self.fed = chosen.fed
        self._chosen, self._choice, self._target = chosen, choice, target
        self.prepare = chosen.prepare

    def queue(self, engine: Engine, memory: Memory, samples: Fed, values: range) -> int:
        patches = self._upload(memory, values)
        shape = self._chosen.count, len(values)
        engine.middles(samples, shape, patches, memory.results, self._chosen.reading(memory, values))
        return 2 * len(values) * self._target.itemsize

    def _upload(self, memory: Memory, values: range) -> Patches:
        """Keys and counts of the rows of patches that the values lie in: counts, then keys, then room for the mask."""
        share, count, side = self._chosen.share, self._chosen.count, self._choice.patch
        top, bottom = ((share.first + value) // share.row_values // side for value in (values[0], values[-1]))
        counts = np.minimum(self._choice.counts[top : bottom + 1], count).astype(np.uint32)
        keys = np.ascontiguousarray(self._choice.keys[:count, top : bottom + 1], np.uint32)
        at = memory.work
        upload(at, counts)
        upload(at + counts.nbytes, keys)
        mask = at + counts.nbytes + keys.nbytes
        return Patches(at + counts.nbytes, at, mask, share.width, side, top, counts.size)

    def keep(self, result: NDArray[np.uint8], values: range) -> None:
        self._target[:, values.start : values.stop] = result.view(self._target.dtype).reshape(2, -1)


class Support:
    """How many samples (V,) uint16 are within some levels of an image (V,)."""

    def __init__(self, chosen: Chosen, image: Image, tolerance: int, target: NDArray[np.uint16]) -> None:
        share = chosen.share
        self.most = min(share.chunk_values, share.work_bytes // share.itemsize // LINE_BYTES * LINE_BYTES)
        self.fed = chosen.fed
        self._chosen, self._image, self._tolerance, self._target = chosen, image, tolerance, target
        self.prepare = chosen.prepare

    def queue(self, engine: Engine, memory: Memory, samples: Fed, values: range) -> int:
        upload(memory.work, self._image[values.start : values.stop])
        shape, image = (self._chosen.count, len(values)), (memory.work, self._tolerance)
        engine.support(samples, shape, image, memory.results, self._chosen.reading(memory, values))
        return 2 * len(values)

    def keep(self, result: NDArray[np.uint8], values: range) -> None:
        self._target[values.start : values.stop] = result.view(np.uint16)


class Modes:
    """A sample (V,) of the densest interval of so many levels."""

    def __init__(self, chosen: Chosen, width: int, target: Image) -> None:
        self.most = chosen.share.chunk_values
        self.fed = chosen.fed
        self._chosen, self._width, self._target = chosen, width, target
        self.prepare = chosen.prepare

    def queue(self, engine: Engine, memory: Memory, samples: Fed, values: range) -> int:
        shape = self._chosen.count, len(values)
        engine.modes(samples, shape, self._width, memory.results, self._chosen.reading(memory, values))
        return len(values) * self._target.itemsize

    def keep(self, result: NDArray[np.uint8], values: range) -> None:
        self._target[values.start : values.stop] = result.view(self._target.dtype)
