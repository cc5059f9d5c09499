"""The last T samples: one preallocated block on the backend's device, and which sample lies where.

The live samples are always the first `len(ring)` slots. Their order among the slots means nothing: sums and
ranks do not depend on it. What is chosen among samples goes by their index.

    recent, 4 slots    [0][1][2][3] + 4  ►  [4][1][2][3]
    thinned            [0][1][2][3]      ►  [3][1] .  .      (1 and 3 survive, 3 moves into the hole)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Backend, Choice, Light, Reduced
from gpu_bgstat.backends.room import ANYWHERE, Room
from gpu_bgstat.frames import FrameSpec, Image, Sample


class Ring:
    """`slots` samples of one spec. Adding to a full ring overwrites the oldest sample."""

    def __init__(self, backend: Backend, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> None:
        self.spec = spec
        self._slots = slots
        self._store = backend.store(slots, spec, room)
        self._samples: list[Sample] = []
        self._again: dict[int, int] = {}  # index of a sample that may come once more -> its slot
        self._oldest = 0  # the slot that is overwritten next, once the ring is full

    @property
    def device(self) -> str:
        """What the report calls the device that the samples lie on."""
        return self._store.name

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def full(self) -> bool:
        return len(self._samples) == self._slots

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The live samples in order of their index."""
        return tuple(sorted(self._samples, key=lambda sample: sample.index))

    def add(self, pixels: Image, sample: Sample) -> Sample | None:
        """Takes a sample; returns the one that it overwrites.

        A sample that `recall` knows, and that was read once more, takes its old place.
        """
        if (slot := self._again.pop(sample.index, None)) is not None:
            self._store.put(slot, pixels)
            self._samples[slot] = sample
            return None
        if not self.full:
            self._store.put(len(self._samples), pixels)
            self._samples.append(sample)
            return None
        slot, self._oldest = self._oldest, (self._oldest + 1) % self._slots
        dropped = self._samples[slot]
        self._store.put(slot, pixels)
        self._samples[slot] = sample
        return dropped

    def recall(self, samples: Sequence[Sample]) -> None:
        """Takes the samples that a file held when it was opened: the first slots, in this order."""
        self._samples = list(samples)
        self._again = {sample.index: slot for slot, sample in enumerate(samples)}

    def at(self, slot: int) -> Image:
        """The pixels in a slot of a live sample."""
        pixels: Image = self._store.reduce(len(self._samples), [0], slots=[slot]).ranks[0]
        return pixels

    @property
    def slots(self) -> tuple[Sample, ...]:
        """The live samples in order of their slots."""
        return tuple(self._samples)

    def sync(self) -> None:
        """Returns when all samples in a file are on its disk."""
        self._store.sync()

    def thin(self, survives: Callable[[int], bool]) -> None:
        """Drops every sample whose index does not survive; moves at most as many samples as are dropped."""
        kept = [slot for slot, sample in enumerate(self._samples) if survives(sample.index)]
        live = len(kept)
        holes = sorted(set(range(live)) - set(kept))
        for hole, slot in zip(holes, [slot for slot in kept if slot >= live], strict=True):
            self._store.move(slot, hole)
            self._samples[hole] = self._samples[slot]
        del self._samples[live:]
        self._oldest = 0

    # What follows is in order of `samples`, not of slots: what is chosen must not depend on which sample came first.

    @property
    def _order(self) -> NDArray[np.intp]:
        """The slots of `samples`."""
        return np.argsort([sample.index for sample in self._samples])

    def reduce(self, ranks: Sequence[int], light: Light | None = None, some: Sequence[int] | None = None) -> Reduced:
        """The variance and these order statistics (ranks from 0) over the samples, or some of them."""
        slots = None if some is None else self._order[list(some)].tolist()
        return self._store.reduce(len(self), ranks, self._of_slots(light), slots)

    def select(self, choice: Choice, light: Light | None = None) -> Image:
        """(2, H, W[, 3]): the two middle ranks of the samples that count in each patch.

        Keys are below 2**16; of equal ones, that of the earlier sample comes first.
        """
        order = self._order
        if not np.array_equal(order, np.arange(len(order))):
            keys = np.empty_like(choice.keys)
            keys[order] = choice.keys * np.uint32(len(order)) + np.arange(len(order), dtype=np.uint32)[:, None, None]
            choice = replace(choice, keys=keys)
        return self._store.select(len(self), choice, self._of_slots(light))

    def support(self, image: Image, tolerance: int, light: Light | None = None) -> NDArray[np.uint16]:
        """(H, W[, 3]): how many samples are within `tolerance` levels of the image."""
        return self._store.support(len(self), image, tolerance, self._of_slots(light))

    def modes(self, width: int, light: Light | None = None) -> Image:
        """(H, W[, 3]): the lower middle one of the samples in the densest interval of `width` levels."""
        return self._store.modes(len(self), width, self._of_slots(light))

    def _of_slots(self, light: Light | None) -> Light | None:
        """A light of samples, in order of their slots."""
        if light is None:
            return None
        back = np.argsort(self._order)
        return Light(light.gains[back], light.offsets[back])

    def close(self) -> None:
        self._store.close()


_LAST = (1 << 16) - 1  # a key behind all others


@dataclass(frozen=True)
class Part:
    """What a background is made of: the samples of a ring, or some of them in order, in a common light."""

    ring: Ring
    light: Light | None = None
    some: Sequence[int] | None = None

    @property
    def spec(self) -> FrameSpec:
        return self.ring.spec

    def __len__(self) -> int:
        return len(self.ring) if self.some is None else len(self.some)

    def reduce(self, ranks: Sequence[int]) -> Reduced:
        """As of a ring."""
        return self.ring.reduce(ranks, self.light, self.some)

    def select(self, choice: Choice) -> Image:
        """As of a ring; the choice is among the samples of this part, in order."""
        if self.some is not None:
            keys = np.full((len(self.ring), *choice.counts.shape), _LAST, np.uint32)
            keys[list(self.some)] = choice.keys
            choice = Choice(choice.patch, keys, choice.counts)
        return self.ring.select(choice, self.light)

    def support(self, image: Image, tolerance: int) -> NDArray[np.uint16]:
        """As of a ring. The other samples are made black for this, so that they are easily told and taken off."""
        if self.some is None:
            return self.ring.support(image, tolerance, self.light)
        others = np.ones(len(self.ring), bool)
        others[list(self.some)] = False
        light = self.light or unchanged(len(self.ring), self.spec)
        gains, offsets = light.gains.copy(), light.offsets.copy()
        gains[others] = offsets[others] = 0
        near = self.ring.support(image, tolerance, Light(gains, offsets))
        counted: NDArray[np.uint16] = near - (image <= tolerance) * np.uint16(np.count_nonzero(others))
        return counted

    def modes(self, width: int) -> Image:
        """As of a ring, of all its samples: those that are not of this part must be few."""
        return self.ring.modes(width, self.light)


def unchanged(count: int, spec: FrameSpec) -> Light:
    """The light that changes nothing."""
    shape = count, spec.channels
    return Light(np.full(shape, 1 << 16, np.int64), np.full(shape, 1 << 15, np.int64))
