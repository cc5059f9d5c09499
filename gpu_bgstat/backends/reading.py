"""What a reduction on a device reads besides the samples: which rows, in which light, and which samples count.

`Reading` and `Patches` hold addresses on the device and numbers; `kernels` and `plain` understand them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Light

_MOST_OFFSET = 1 << 29  # beyond it, 8-bit samples of any gain become 0 or 255 all the same


@dataclass(frozen=True)
class Reading:
    """How the samples of a launch are read. Without anything, as they are.

    rows      address of (count,) uint32: row k lies there in the ring; 0: row k is in place k
    light     address of a `light_table`, row k for row k; 0: samples as they are
    channels  of the frame, 1 or 3
    first     the number of the launch's first value in the frame
    """

    rows: int = 0
    light: int = 0
    channels: int = 1
    first: int = 0


AS_THEY_ARE = Reading()


@dataclass(frozen=True)
class Patches:
    """Which samples count in some whole rows of patches.

    keys    address of (count, patches) uint32
    counts  address of (patches,) uint32
    mask    address of `mask_words` × patches uint32, to be filled
    width   pixels, of the frame
    side    pixels, of a patch
    top     the first of the rows of patches
    total   patches in these rows
    """

    keys: int
    counts: int
    mask: int
    width: int
    side: int
    top: int
    total: int

    @property
    def columns(self) -> int:
        return -(-self.width // self.side)


def sum_type(dtype: np.dtype[Any]) -> type[np.signedinteger[Any]]:
    """What holds gain * x + offset in a light table for samples of this type."""
    return np.int32 if dtype == np.uint8 else np.int64


def light_table(light: Light, slots: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """(slots, channels, 2): gain and offset, so that (gain * x + offset) >> 16, clipped, is what `Light` says."""
    table = np.stack([light.gains, light.offsets], axis=2)[list(slots)]
    if dtype == np.uint8:
        np.clip(table, -_MOST_OFFSET, _MOST_OFFSET, out=table)
    return np.ascontiguousarray(table, sum_type(dtype))
