"""The CPU: the ring is one NumPy block in memory, or a scratch file. `tiles` reduces it; `variance` and `ranks` here
specify how.

`bgr` specifies the kernel that turns the hardware decoder's pictures into BGR.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends import tiles
from gpu_bgstat.backends.backend import Choice, Light, Reduced, Store
from gpu_bgstat.backends.colors import Coefficients
from gpu_bgstat.backends.lighting import Lighting
from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.backends.room import ANYWHERE, Room
from gpu_bgstat.backends.scratch import Layout, Scratch
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import FrameSpec, Image

_LOG = logging.getLogger("gpu_bgstat")


def variance(samples: Image) -> NDArray[np.float32]:
    """The specification of the variance: samples (T, …) -> (…) float32, (T·Σx² − (Σx)²) / T².

    Obvious and slow; right to the last bit while T·Σx² < 2**53 (8 bit: T ≤ 11,000; 16 bit: T ≤ 1,400).
    """
    count = len(samples)
    total = samples.sum(axis=0, dtype=np.uint64)
    total_sq = np.square(samples, dtype=np.uint64).sum(axis=0)
    quotient: NDArray[np.float64] = (count * total_sq - total * total) / np.float64(count * count)
    return quotient.astype(np.float32)


def ranks(samples: Image, wanted: Sequence[int]) -> Image:
    """The specification of the ranks: samples (T, …) -> (R, …), the values that sorting over T puts at `wanted`."""
    return np.sort(samples, axis=0)[list(wanted)]


def lit(samples: Image, light: Light) -> Image:
    """The specification of a common light: samples (T, H, W[, C]) -> the same, (gain * x + offset) >> 16, clipped."""
    shape = (len(samples),) + (1,) * (samples.ndim - 2) + (-1,)
    if samples.ndim == 3:
        shape = (len(samples), 1, 1)
    values = (light.gains.reshape(shape) * samples + light.offsets.reshape(shape)) >> 16
    return values.clip(0, np.iinfo(samples.dtype).max).astype(samples.dtype)


def counted(choice: Choice) -> NDArray[np.bool_]:
    """The specification of which samples count: (T, PH, PW)."""
    places = np.argsort(np.argsort(choice.keys, axis=0, kind="stable"), axis=0, kind="stable")
    return places < choice.counts


def middles(samples: Image, choice: Choice) -> Image:
    """The specification of `select`: samples (T, H, W[, 3]) -> (2, H, W[, 3])."""
    counting = counted(choice)
    out = np.zeros((2, *samples.shape[1:]), samples.dtype)
    for row, column in np.argwhere(choice.counts):
        patch = np.s_[
            row * choice.patch : (row + 1) * choice.patch, column * choice.patch : (column + 1) * choice.patch
        ]
        those = samples[counting[:, row, column]][:, *patch]
        out[:, *patch] = ranks(those, [(len(those) - 1) // 2, len(those) // 2])
    return out


def support(samples: Image, image: Image, tolerance: int) -> NDArray[np.uint16]:
    """The specification of the support: samples (T, …), image (…) -> (…), how many samples are so near."""
    count: NDArray[np.uint16] = (np.abs(samples.astype(np.int32) - image) <= tolerance).sum(axis=0, dtype=np.uint16)
    return count


def modes(samples: Image, width: int) -> Image:
    """The specification of the mode: samples (T, …) -> (…), by trying the interval that begins with each sample."""
    ordered = np.sort(samples, axis=0).astype(np.int64)
    inside = np.stack([((ordered >= low) & (ordered < low + width)).sum(axis=0) for low in ordered])  # (T, …)
    first = np.argmax(inside, axis=0)[None]  # of equal ones the lowest
    count = np.take_along_axis(inside, first, axis=0)
    middle: Image = np.take_along_axis(ordered, first + (count - 1) // 2, axis=0)[0].astype(samples.dtype)
    return middle


def bgr(luma: Image, chroma: Image, colors: Coefficients) -> Image:
    """The specification of NV12 to BGR: (H, W) and (H/2, W/2, 2) uint8 -> (H, W, 3), as swscale's fast way does it."""
    y = 8 * (luma.astype(np.int32) - colors.black) * colors.y_factor >> 16
    u, v = np.moveaxis(8 * (chroma.astype(np.int32) - 128), 2, 0).repeat(2, axis=1).repeat(2, axis=2)
    blue = y + (colors.blue_u * u >> 16)
    green = y + (colors.green_u * u >> 16) + (colors.green_v * v >> 16)
    red = y + (colors.red_v * v >> 16)
    return np.stack([blue, green, red], axis=2).clip(0, 255).astype(np.uint8)


class CpuStore:
    """The ring's block in memory: (slots, values), one row a frame. Untouched slots cost no memory."""

    def __init__(self, slots: int, spec: FrameSpec) -> None:
        self.name = f"cpu, {tiles.cores()} threads"
        self._spec = spec
        try:
            self._block: Image = np.empty((slots, spec.values), spec.dtype)
        except MemoryError as error:
            raise DeviceError(
                f"no memory for {slots} samples of {spec} ({size_text(slots * spec.bytes)}): "
                "lower max_samples, or use gray or a roi"
            ) from error

    def put(self, slot: int, frame: Image) -> None:
        self._block[slot] = frame.reshape(-1)

    def move(self, source: int, target: int) -> None:
        self._block[target] = self._block[source]

    def sync(self) -> None:
        """Memory goes with the process."""

    def reduce(
        self, count: int, ranks: Sequence[int], light: Light | None = None, slots: Sequence[int] | None = None
    ) -> Reduced:
        variance, order = tiles.reduce(self._block[:count], ranks, lighting=self._lighting(light, count), slots=slots)
        return Reduced(variance.reshape(self._spec.shape), order.reshape(len(ranks), *self._spec.shape))

    def select(self, count: int, choice: Choice, light: Light | None = None) -> Image:
        order = tiles.select(self._block[:count], choice, self._spec, self._lighting(light, count))
        return order.reshape(2, *self._spec.shape)

    def support(self, count: int, image: Image, tolerance: int, light: Light | None = None) -> NDArray[np.uint16]:
        near = tiles.support(self._block[:count], image.reshape(-1), tolerance, self._lighting(light, count))
        return near.reshape(self._spec.shape)

    def modes(self, count: int, width: int, light: Light | None = None) -> Image:
        return tiles.modes(self._block[:count], width, self._lighting(light, count)).reshape(self._spec.shape)

    def _lighting(self, light: Light | None, count: int) -> Lighting | None:
        return None if light is None else Lighting(light, count, self._spec.dtype)

    def close(self) -> None:
        self._block = np.empty((0, self._spec.values), self._spec.dtype)


class ScratchStore:
    """The ring's block in a file, reduced tile by tile."""

    def __init__(self, scratch: Scratch, spec: FrameSpec) -> None:
        self.name = f"cpu, {tiles.cores()} threads"
        self._spec = spec
        self._scratch = scratch
        self.put = scratch.put
        self.move = scratch.move
        self.sync = scratch.sync
        self.close = scratch.close

    def reduce(
        self, count: int, ranks: Sequence[int], light: Light | None = None, slots: Sequence[int] | None = None
    ) -> Reduced:
        lighting = self._lighting(light, count)
        variance = np.empty(self._spec.values, np.float32)
        order: Image = np.empty((len(ranks), self._spec.values), self._spec.dtype)
        for part, block in self._scratch.strips(count):
            variance[part], order[:, part] = tiles.reduce(
                block, ranks, lighting=lighting, slots=slots, first=part.start
            )
        return Reduced(variance.reshape(self._spec.shape), order.reshape(len(ranks), *self._spec.shape))

    def select(self, count: int, choice: Choice, light: Light | None = None) -> Image:
        lighting = self._lighting(light, count)
        order: Image = np.empty((2, self._spec.values), self._spec.dtype)
        for part, block in self._scratch.strips(count):
            order[:, part] = tiles.select(block, choice, self._spec, lighting, part.start)
        return order.reshape(2, *self._spec.shape)

    def support(self, count: int, image: Image, tolerance: int, light: Light | None = None) -> NDArray[np.uint16]:
        lighting, values = self._lighting(light, count), image.reshape(-1)
        near = np.empty(self._spec.values, np.uint16)
        for part, block in self._scratch.strips(count):
            near[part] = tiles.support(block, values[part], tolerance, lighting, part.start)
        return near.reshape(self._spec.shape)

    def modes(self, count: int, width: int, light: Light | None = None) -> Image:
        lighting = self._lighting(light, count)
        found: Image = np.empty(self._spec.values, self._spec.dtype)
        for part, block in self._scratch.strips(count):
            found[part] = tiles.modes(block, width, lighting, part.start)
        return found.reshape(self._spec.shape)

    def _lighting(self, light: Light | None, count: int) -> Lighting | None:
        return None if light is None else Lighting(light, count, self._spec.dtype)


class CpuBackend:
    """All cores of this machine."""

    def __init__(self, why: str) -> None:
        self.why = why

    def forecast(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> str:
        if room.fits(slots * spec.bytes):
            return f"in memory, {size_text(slots * spec.bytes)}"
        size = Layout(slots, spec).bytes
        return f"in a file in {room.place(size)}, {size_text(size)}"

    def store(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> Store:
        if room.fits(slots * spec.bytes):
            return CpuStore(slots, spec)
        scratch = room.scratch(slots, spec)
        _LOG.info("samples: in a file in %s, %s", scratch.where, size_text(scratch.layout.bytes))
        return ScratchStore(scratch, spec)
