"""The last T samples: one preallocated block on the backend's device, and which sample lies where.

The live samples are always the first `len(ring)` slots. Their order among the slots means nothing: sums and
ranks do not depend on it. What is chosen among samples goes by their index.

    recent, 4 slots    [0][1][2][3] + 4  ►  [4][1][2][3]
    thinned            [0][1][2][3]      ►  [3][1] .  .      (1 and 3 survive, 3 moves into the hole)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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

    def reduce(self, ranks: Sequence[int], light: Light | None = None, slots: Sequence[int] | None = None) -> Reduced:
        """The variance and these order statistics (ranks from 0) over the live samples, or some of their slots."""
        return self._store.reduce(len(self._samples), ranks, light, slots)

    def select(self, choice: Choice, light: Light | None = None) -> Image:
        """(2, H, W[, 3]): the two middle ranks of the samples that count in each patch.

        The rows of `choice` are of `samples`, not of slots: of equal keys, which are below 2**16, the one of the earlier
        sample comes first, whichever sample came first.
        """
        order = np.argsort([sample.index for sample in self._samples])  # the slots of `samples`
        if not np.array_equal(order, np.arange(len(order))):
            keys = np.empty_like(choice.keys)
            keys[order] = choice.keys * np.uint32(len(order)) + np.arange(len(order), dtype=np.uint32)[:, None, None]
            choice = replace(choice, keys=keys)
        return self._store.select(len(self._samples), choice, light)

    def support(self, image: Image, tolerance: int, light: Light | None = None) -> NDArray[np.uint16]:
        """(H, W[, 3]): how many samples are within `tolerance` levels of the image."""
        return self._store.support(len(self._samples), image, tolerance, light)

    def modes(self, width: int, light: Light | None = None) -> Image:
        """(H, W[, 3]): the lower middle one of the samples in the densest interval of `width` levels."""
        return self._store.modes(len(self._samples), width, light)

    def close(self) -> None:
        self._store.close()
