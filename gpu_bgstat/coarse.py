"""What is remembered of each sample besides its pixels: the mean of each patch, and how much moves in it.

    sample (H, W[, 3]) ──► thumbnail (PH, PW, C), means of square patches
    |sample - neighbour| ──► motion (PH, PW), the mean difference of a patch, in eighths of a level

The neighbour is a frame a moment before or behind the sample. Nobody keeps it: as soon as both are there, the motion is
taken, and it goes. Some bytes a patch are left, on the host, whatever device has the pixels.
"""

from __future__ import annotations

import base64
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.errors import FrameError
from gpu_bgstat.frames import FrameSpec, Image, Sample

_FINE = 4  # pixels a side of a patch, in small frames
_PATCH = 8  # in others
_SMALL = 320 * 200  # pixels of a frame
_MOST_PATCHES = 1 << 15  # then patches are larger: 16 pixels in 4K
_MOST_VALUES = 1 << 25  # patches times samples: what is remembered stays below 150 MB, 300 of 16 bits
EIGHTHS = 8  # of a level: the unit of motion
_DARKEST, _BRIGHTEST = 16 / 255, 250 / 255  # of a patch that tells how the light changed between two frames
_MOST_GAIN = 4.0
_LOST = 16  # frames, at most, whose partner was damaged and will never come, wait for it


@dataclass(frozen=True)
class Coarse:
    """Of several samples, in one order.

    thumbnails  (T, PH, PW, C), of the samples' type
    motions     (T, PH, PW) of the samples' type, in eighths of a level; the highest value where nothing is known
    known       (T,) bool: whether the sample's neighbour came
    patch       pixels, the side of a patch; the last ones of a row and of a column may be cut
    """

    thumbnails: Image
    motions: Image
    known: NDArray[np.bool_]
    patch: int


def patch_side(spec: FrameSpec, slots: int) -> int:
    """Pixels: a side of the patches of `slots` frames of this spec."""
    side = _FINE if spec.width * spec.height <= _SMALL else _PATCH
    most = min(_MOST_PATCHES, max(1, _MOST_VALUES // slots))
    while -(-spec.width // side) * -(-spec.height // side) > most:
        side *= 2
    return side


def coarse_bytes(spec: FrameSpec, slots: int) -> int:
    """What is remembered of `slots` samples takes, and what is made of it and of its choices at finalize. Measured."""
    side = patch_side(spec, slots)
    patches = -(-spec.width // side) * -(-spec.height // side)
    size = spec.dtype.itemsize
    return slots * patches * (2 * size * (spec.channels + 1) + 3 * spec.channels + 22) + spec.values * (3 * size + 7)


class CoarseView:
    """Takes samples and neighbours in any order, and remembers what is coarse about the samples."""

    def __init__(self, spec: FrameSpec, slots: int, between: int = 0, readers: int = 1) -> None:
        """`between` samples lie between a sample and its neighbour, at most, and so many readers work side by side."""
        self.patch = patch_side(spec, slots)
        self._most_held = _LOST + 2 * (between + 1) * readers
        self._spec = spec
        self._grid = -(-spec.height // self.patch), -(-spec.width // self.patch)
        self._top = int(np.iinfo(spec.dtype).max)
        self._thumbnails: dict[int, Image] = {}
        self._motions: dict[int, Image] = {}
        self._held: OrderedDict[int, tuple[Image, set[int]]] = OrderedDict()  # frames in grey, partners they wait for

    def see(self, index: int, pixels: Image, partners: Sequence[tuple[int, int]], sampled: bool) -> None:
        """Takes a frame (H, W[, 3]). `partners` are the pairs of (sample, neighbour) that it belongs to."""
        if sampled:
            self._thumbnails[index] = self._pooled(pixels)
        if not partners:
            return
        grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        waits = set()
        for sample, neighbour in partners:
            partner = neighbour if sample == index else sample
            if partner not in self._held:
                waits.add(partner)
                continue
            other, _ = self._held[partner]
            self._motions[sample] = self._motion(grey, other) if sample == index else self._motion(other, grey)
        for partner in [partner for partner, (_, awaited) in self._held.items() if index in awaited]:
            self._held[partner][1].discard(index)
            if not self._held[partner][1]:
                del self._held[partner]
        if waits:
            self._held[index] = grey.copy() if grey is pixels else grey, waits
            while len(self._held) > self._most_held:
                self._held.popitem(last=False)

    def _pooled(self, picture: Image) -> Image:
        """The mean of each patch, rounded."""
        rows, columns = self._grid
        bottom, right = rows * self.patch - self._spec.height, columns * self.patch - self._spec.width
        if bottom or right:
            picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        pooled: Image = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
        return pooled

    def _motion(self, sample: Image, neighbour: Image) -> Image:
        """(PH, PW), in eighths of a level, when the neighbour has been brought to the sample's light."""
        gain = self._gain(self._pooled(sample), self._pooled(neighbour))
        if gain != 1.0:
            scaled = np.rint(np.arange(self._top + 1) * gain).clip(0, self._top).astype(self._spec.dtype)
            neighbour = cv2.LUT(neighbour, scaled) if self._top == 255 else scaled[neighbour]
        difference = cv2.absdiff(sample, neighbour)
        if self._top == 255:
            return self._pooled(cv2.convertScaleAbs(difference, alpha=EIGHTHS))  # 255 is where it overflows
        return self._pooled(np.minimum(difference, self._top // EIGHTHS) * np.uint16(EIGHTHS))

    def _gain(self, sample: Image, neighbour: Image) -> float:
        """By how much the sample's light is brighter: the middle ratio of two thumbnails in grey."""
        low, high = _DARKEST * self._top, _BRIGHTEST * self._top
        if self._top > 255:  # nobody knows what white is
            low, high = 1.0, float(self._top)
        usable = (np.minimum(sample, neighbour) >= low) & (np.maximum(sample, neighbour) <= high)
        if not usable.any():
            return 1.0
        gain = float(np.median(sample[usable] / neighbour[usable].astype(np.float64)))
        return gain if 1 / _MOST_GAIN < gain < _MOST_GAIN else 1.0

    def awaited(self) -> set[int]:
        """Samples whose neighbour may still come."""
        return {index for index in self._thumbnails if index not in self._motions}

    def forget(self, index: int) -> None:
        """The sample was dropped."""
        self._thumbnails.pop(index, None)
        self._motions.pop(index, None)

    def keep(self, samples: Sequence[Sample]) -> None:
        """Forgets all but these."""
        kept = {sample.index for sample in samples}
        for index in [index for index in self._thumbnails if index not in kept]:
            self.forget(index)

    def of(self, samples: Sequence[Sample]) -> Coarse:
        """What is remembered of these samples, in their order."""
        unknown = np.full(self._grid, self._top, self._spec.dtype)
        shape = (*self._grid, self._spec.channels)
        return Coarse(
            thumbnails=np.stack([self._thumbnails[sample.index].reshape(shape) for sample in samples]),
            motions=np.stack([self._motions.get(sample.index, unknown) for sample in samples]),
            known=np.array([sample.index in self._motions for sample in samples]),
            patch=self.patch,
        )

    def to_text(self, index: int) -> str:
        """What is remembered of a sample, for a journal."""
        motion = self._motions.get(index)
        data = self._thumbnails[index].tobytes() + (b"" if motion is None else motion.tobytes())
        return base64.b64encode(zlib.compress(data, 1)).decode("ascii")

    def recall(self, index: int, text: str) -> None:
        """The inverse of `to_text`; raises FrameError if it is of something else."""
        try:
            data = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), self._spec.dtype)
        except (ValueError, zlib.error) as error:
            raise FrameError(f"what is remembered of sample {index} cannot be understood ({error})") from error
        patches = self._grid[0] * self._grid[1]
        values = patches * self._spec.channels
        if len(data) not in (values, values + patches):
            raise FrameError(f"what is remembered of sample {index} has {len(data)} values, not {values + patches}")
        self._thumbnails[index] = data[:values].reshape(*self._grid, self._spec.channels)
        if len(data) > values:
            self._motions[index] = data[values:].reshape(self._grid)
