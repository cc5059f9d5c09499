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


@dataclass(frozen=True)
class Light:
    """Brings each sample to a common light: a value x becomes (gain * x + offset) >> 16, clipped to its type.

    gains    (T, C) int64, in 65536ths: 0 to 2**20
    offsets  (T, C) int64, in 65536ths of a level, the half that rounds included: -2**40 to 2**40

    Row t is of slot t. C is the number of channels.
    """

    gains: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """Which samples count in each patch of the frame: those with the least keys.

    patch   pixels, the side of a square patch: 4 or more; the last ones of a row and of a column may be cut
    keys    (T, PH, PW) uint32, row t of slot t; of equal ones the lower slot comes first
    counts  (PH, PW) uint32: how many samples count there, 0 to T; where none does, the result is 0
    """

    patch: int
    keys: NDArray[np.uint32]
    counts: NDArray[np.uint32]


class Store(Protocol):
    """`slots` frames of one spec, on the device."""

    name: str  # what the report calls the device: "cpu, 2 threads"

    def put(self, slot: int, frame: Image) -> None:
        """Copies a C-contiguous frame of the store's spec into a slot."""

    def move(self, source: int, target: int) -> None:
        """Copies one slot over another, on the device."""

    def sync(self) -> None:
        """Returns when all samples in a file are on its disk; nothing to do for others."""

    def reduce(
        self, count: int, ranks: Sequence[int], light: Light | None = None, slots: Sequence[int] | None = None
    ) -> Reduced:
        """Statistics over slots 0 .. count-1, or those of them that `slots` names; ranks are among these.

        The store is unchanged by this and all that follow, and can go on filling.
        """

    def select(self, count: int, choice: Choice, light: Light | None = None) -> Image:
        """(2, H, W[, 3]): the two middle ranks of the samples that count, of slots 0 .. count-1."""

    def support(self, count: int, image: Image, tolerance: int, light: Light | None = None) -> NDArray[np.uint16]:
        """(H, W[, 3]): how many samples of slots 0 .. count-1 are within `tolerance` levels of the image."""

    def modes(self, count: int, width: int, light: Light | None = None) -> Image:
        """(H, W[, 3]): the lower middle one of the samples in the densest interval of `width` levels.

        Of equally dense intervals, the one that begins lowest; it begins with a sample.
        """

    def close(self) -> None:
        """Gives the memory back."""


class Backend(Protocol):
    """A device, chosen once."""

    why: str  # one line: which one, and why

    def forecast(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> str:
        """Where a store would lie, and how large it would be; nothing is allocated."""

    def store(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> Store:
        """A store of `slots` frames, on the device or within `room`; raises DeviceError or ScratchError."""
