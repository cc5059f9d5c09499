"""What is odd about the samples: another size in the middle, black ones, frozen pictures, a moved camera.

Each sample leaves a small `Look` when it is added. They are judged together, in the order of their indices, when the
background is made: in which order decoders delivered them must not matter.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image, Sample

_WIDE = 160  # pixels of a thumbnail, at most
_MOST_BYTES = 1 << 26  # of all thumbnails together: from some 4,600 samples on, they are smaller
_ROWS = 4  # of a sample for each row of its thumbnail; all of them would cost three times as much
_BLOCK = 4093  # words of 8 bytes; a prime, so that what moves down by whole rows does not cancel out
_BLACK = 16.0  # mean grey level of 255; video black is 16 where its range was not expanded
_FLAT = 4.0  # grey levels of 255: the standard deviation of a black sample's thumbnail
_DARK_SHARE = 1 / 16  # of the middle sample's level and deviation: black where 16 bits do not tell what white is
_FROZEN = 5  # identical samples in a row
_GROUP = 5  # samples, at least, whose median shows the scene without what moves
_GROUPS = 12  # at most; four are needed
_MOVED = 0.007  # of the width: a shift of 1 % is found although half a group may be from before it
_ALIKE = 0.5  # correlation of gradients, once the pictures are aligned
_BETTER = 0.06  # by which aligning them must raise it
_DISTORTED = 0.15  # a map that turns or zooms by more than this fits noise
_NAMED = 5  # stretches that are listed one by one
_LONG_S = 600.0  # recordings longer than this have clock times


@dataclass(frozen=True, eq=False)
class Look:
    """What is remembered of a sample: some kilobytes, whatever its size."""

    checksum: int  # of all its bytes
    level: float  # mean, and
    deviation: float  # standard deviation of the thumbnail, in the sample's own grey levels
    white: int  # 255 or 65535
    width: int  # of the sample
    resized: bool
    thumbnail: NDArray[np.uint8]  # grey; 16-bit samples are stretched to 0..255 each by itself

    def to_json(self) -> str:
        fields = {name: value for name, value in vars(self).items() if name != "thumbnail"}
        fields["shape"] = self.thumbnail.shape
        fields["thumbnail"] = base64.b64encode(self.thumbnail.tobytes()).decode("ascii")
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Look:
        """The inverse of `to_json`; raises ValueError, KeyError or TypeError on anything else."""
        fields: dict[str, Any] = json.loads(text)
        pixels = np.frombuffer(base64.b64decode(fields.pop("thumbnail"), validate=True), np.uint8)
        shape = fields.pop("shape")
        return cls(**fields, thumbnail=pixels.reshape(shape))

    @classmethod
    def at(cls, pixels: Image, resized: bool, most_bytes: int = _MOST_BYTES) -> Look:
        """The look of a sample (H, W[, 3]), uint8 or uint16; its thumbnail takes about `most_bytes` at most."""
        height, width = pixels.shape[:2]
        wide = max(1, min(_WIDE, width, math.isqrt(most_bytes * width // height)))
        size = (wide, max(1, min(round(height * wide / width), most_bytes)))
        rows = pixels[:: max(1, height // (_ROWS * size[1]))]  # the same ones of each sample: a shift stays a shift
        grey = rows if rows.ndim == 2 else cv2.cvtColor(rows, cv2.COLOR_BGR2GRAY)
        small: Any = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        white = int(np.iinfo(pixels.dtype).max)
        level, deviation = float(small.mean()), float(small.std())
        if white > 255:
            low, high = int(small.min()), int(small.max())
            small = ((small.astype(np.float32) - low) * (255 / max(1, high - low))).astype(np.uint8)
        return cls(checksum(pixels), level, deviation, white, width, resized, small)


def checksum(pixels: Image) -> int:
    """32 bits of all bytes; several times as fast as CRC-32 alone, which comes last, over blocks folded by XOR."""
    data: Any = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    blocks = len(data) // (8 * _BLOCK)
    words: Any = data[: blocks * 8 * _BLOCK].view(np.uint64).reshape(blocks, _BLOCK)
    folded = np.bitwise_xor.reduce(words, axis=0) if blocks else words
    return zlib.crc32(data[blocks * 8 * _BLOCK :], zlib.crc32(folded))


class Watch:
    """The looks of the samples that the ring holds."""

    def __init__(self, samples: int = 1) -> None:
        """`samples` is how many there will be at most: the memory of all thumbnails together is bounded."""
        self._looks: dict[int, Look] = {}
        self._most_bytes = _MOST_BYTES // max(1, samples)

    def see(self, index: int, pixels: Image, resized: bool) -> Look:
        """Remembers a sample; its look is returned for a journal."""
        look = self._looks[index] = Look.at(pixels, resized, self._most_bytes)
        return look

    def look(self, index: int) -> Look:
        return self._looks[index]

    def recall(self, index: int, look: Look) -> None:
        """Takes a look that was remembered elsewhere."""
        self._looks[index] = look

    def forget(self, index: int) -> None:
        """The sample was dropped; forgetting one that is not known is no error."""
        self._looks.pop(index, None)

    def keep(self, samples: Sequence[Sample]) -> None:
        """Forgets all but these."""
        self._looks = {sample.index: self._looks[sample.index] for sample in samples if sample.index in self._looks}

    def resized(self, samples: Sequence[Sample]) -> int:
        """How many of these samples had another size than the first frame."""
        return sum(self._looks[sample.index].resized for sample in samples if sample.index in self._looks)

    def told(self, samples: Sequence[Sample]) -> list[str]:
        """Warnings, with times; samples in the order of their indices. One without a look is not judged."""
        seen = [sample for sample in samples if sample.index in self._looks]
        looks = [self._looks[sample.index] for sample in seen]
        where = words_of(seen)
        resized = [look.resized for look in looks]
        black = _black(looks)
        frozen = _frozen(looks, black)
        told = []
        if any(resized):
            stretches = where(runs(resized))
            told.append(f"{sum(resized)} samples had another size than the first and were resized to it: {stretches}")
        if any(black):
            told.append(f"{sum(black)} samples are black: {where(runs(black))}; --exclude leaves them out")
        if any(frozen):
            told.append(
                f"the picture is frozen, {sum(frozen)} samples in a row are equal bit for bit: {where(runs(frozen))}"
            )
        lit = [place for place, dark in enumerate(black) if not dark]
        for place, pixels in moves([looks[place] for place in lit]):
            told.append(
                f"the camera moved by about {pixels:.0f} pixels at {where([(lit[place], lit[place])])}: the background "
                "is a mixture; estimate before and after by themselves with --end and --start"
            )
        return told


def _black(looks: Sequence[Look]) -> list[bool]:
    """Which samples are dark and without structure; of 16 bits, compared with the middle one."""
    if not looks:
        return []
    middle_level = float(np.median([look.level for look in looks]))
    middle_deviation = float(np.median([look.deviation for look in looks]))
    return [
        (look.level <= _BLACK and look.deviation <= _FLAT)
        if look.white == 255
        else look.level <= _DARK_SHARE * middle_level and look.deviation <= _DARK_SHARE * middle_deviation
        for look in looks
    ]


def _frozen(looks: Sequence[Look], black: Sequence[bool]) -> list[bool]:
    """Which samples belong to a stretch of identical ones; black ones are told of by themselves."""
    same = [False, *(a.checksum == b.checksum for a, b in pairwise(looks))][: len(looks)]
    frozen = [False] * len(looks)
    for first, last in runs([here and not dark for here, dark in zip(same, black, strict=True)]):
        if last - first + 2 >= _FROZEN:  # with the sample before, which they repeat
            frozen[first - 1 : last + 1] = [True] * (last - first + 2)
    return frozen


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last place of each stretch of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]])))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]


def words_of(samples: Sequence[Sample]) -> Callable[[Sequence[tuple[int, int]]], str]:
    """What says in words where stretches of samples lie: in time, or in frame numbers where no times are known."""
    timed = all(sample.time_s is not None for sample in samples)
    long = timed and bool(samples) and (samples[-1].time_s or 0.0) >= _LONG_S

    def place(number: int) -> str:
        seconds = samples[number].time_s
        if not timed or seconds is None:
            return f"frame {samples[number].index}"
        if not long:
            return f"{seconds:.1f} s"
        minutes, rest = divmod(int(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

    def words(stretches: Sequence[tuple[int, int]]) -> str:
        named = [
            place(first) if first == last else f"{place(first)} to {place(last)}" for first, last in stretches[:_NAMED]
        ]
        more = len(stretches) - _NAMED
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")

    return words


def moves(looks: Sequence[Look]) -> Iterator[tuple[int, float]]:
    """Where a camera moved and stayed so: the place of the first sample after it, and by how many pixels of a frame.

    looks     ........|........|........|........      The median of each group is aligned with that of the first one;
    groups     A        A        A'       A'           two groups in a row must agree that it lies elsewhere.
    """
    step = max(_GROUP, -(-len(looks) // _GROUPS))
    groups = len(looks) // step
    if groups < 4 or min(looks[0].thumbnail.shape) < 16:
        return
    scale = looks[0].width / looks[0].thumbnail.shape[1]
    scenes = [
        _edges(np.median([look.thumbnail for look in looks[k * step : (k + 1) * step]], axis=0)) for k in range(groups)
    ]
    least = _MOVED * looks[0].thumbnail.shape[1]
    reference = 0
    group = 1
    while group + 1 < groups:
        after = min(group + 1, groups - 1)
        near, far = (_displacement(scenes[reference], scenes[k]) for k in (group, after))
        if min(near, far) < least:
            group += 1
            continue
        first, last = (group - 1) * step, (group + 1) * step
        before = _edges(np.median([look.thumbnail for look in looks[reference * step : first + 1]], axis=0))
        yield first + _split(looks[first:last], before, scenes[after]), far * scale
        reference, group = after, after + 1


def _edges(grey: NDArray[Any]) -> NDArray[np.float32]:
    """The gradients' strength, of which light changes little."""
    smooth = cv2.GaussianBlur(np.asarray(grey, np.float32), (5, 5), 0)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    edges: NDArray[np.float32] = np.hypot(dx, dy)
    return edges


def _alike(one: NDArray[np.float32], other: NDArray[np.float32], rim: int) -> float:
    """The correlation coefficient of two pictures without their rim; 0 if one is flat."""
    a, b = (np.asarray(picture)[rim:-rim, rim:-rim].ravel() for picture in (one, other))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def _displacement(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """By how many pixels of the thumbnail the scene moved, in the mean; 0 if that explains nothing.

    The peak of the normalised correlation tells the shift to a pixel, and the enhanced correlation coefficient
    (Evangelidis and Psarakis, PAMI 2008) goes on from there to its fractions, rotation and zoom.
    """
    height, width = before.shape
    rim = max(2, round(0.06 * min(height, width)))
    far_x, far_y = max(2, width // 8), max(2, height // 8)
    found = cv2.matchTemplate(after, before[far_y:-far_y, far_x:-far_x], cv2.TM_CCOEFF_NORMED)
    peak_x, peak_y = cv2.minMaxLoc(found)[3]
    dx, dy = peak_x - far_x, peak_y - far_y
    unmoved = _alike(before, after, rim)
    best, moved = unmoved, 0.0
    shift: Any = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    for warp in (shift, _refined(before, after, shift)):
        back: Any = cv2.warpAffine(after, warp, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        alike = _alike(before, back, rim)
        if alike > best:
            best, moved = alike, _mean_shift(warp, width, height)
    return moved if best >= _ALIKE and best - unmoved >= _BETTER else 0.0


def _refined(before: NDArray[np.float32], after: NDArray[np.float32], warp: Any) -> Any:
    """The affine map that aligns the two best, from this one on; this one itself if that ends in a distortion."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    align: Any = cv2.findTransformECC  # its stubs refuse None as the mask
    try:
        _, refined = align(before, after, warp.copy(), cv2.MOTION_AFFINE, criteria, None, 5)
    except cv2.error:  # it does not converge
        return warp
    return refined if np.abs(refined[:, :2] - np.eye(2)).max() <= _DISTORTED else warp


def _mean_shift(warp: Any, width: int, height: int) -> float:
    """By how many pixels this map moves the points of a picture, in the mean."""
    y, x = np.mgrid[0:height, 0:width]
    far_x = warp[0, 0] * x + warp[0, 1] * y + warp[0, 2] - x
    far_y = warp[1, 0] * x + warp[1, 1] * y + warp[1, 2] - y
    return float(np.hypot(far_x, far_y).mean())


def _split(looks: Sequence[Look], before: NDArray[np.float32], after: NDArray[np.float32]) -> int:
    """How many of these samples are from before the move."""
    gains = [_alike(edges, after, 2) - _alike(edges, before, 2) for edges in (_edges(look.thumbnail) for look in looks)]
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    return min(int(sums.argmin()), len(looks) - 1)
