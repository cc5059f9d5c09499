"""What a device must offer: a store of frames that can be reduced. Above this line nobody knows which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.room import ANYWHERE, Room
from gpu_bgstat.frames import FrameSpec, Image


@dataclass(frozen=True)
class Reduced:
    """What comes back from the device, once, with the frame's shape.

    variance  (H, W[, 3]) float32: the population variance, exact, rounded once
    ranks     (R, H, W[, 3]) of the sample type: one order statistic for each rank asked for
    """

    variance: NDArray[np.float32]
    ranks: Image


class Store(Protocol):
    """`slots` frames of one spec, on the device."""

    name: str  # what the report calls the device: "cpu, 2 threads"

    def put(self, slot: int, frame: Image) -> None:
        """Copies a C-contiguous frame of the store's spec into a slot."""

    def move(self, source: int, target: int) -> None:
        """Copies one slot over another, on the device."""

    def sync(self) -> None:
        """Returns when all samples in a file are on its disk; nothing to do for others."""

    def reduce(self, count: int, ranks: Sequence[int]) -> Reduced:
        """Statistics over slots 0 .. count-1; the store is unchanged and can go on filling."""

    def close(self) -> None:
        """Gives the memory back."""


class Backend(Protocol):
    """A device, chosen once."""

    why: str  # one line: which one, and why

    def forecast(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> str:
        """Where a store would lie, and how large it would be; nothing is allocated."""

    def store(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> Store:
        """A store of `slots` frames, on the device or within `room`; raises DeviceError or ScratchError."""
