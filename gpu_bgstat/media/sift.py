"""Holds the frames that come out of a decoder against the index: none is handed on that it did not foretell.

A keyframe must be one, frames must keep their size, and each must come out once, in order, and at a time that belongs
to one of its packets. Anything else raises `FalseIndexError`; errors and marks of the decoder raise `DamageError`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from av.video.frame import VideoFrame

from gpu_bgstat.media.decode_plan import Stretch
from gpu_bgstat.media.packets import PacketIndex


class FalseIndexError(Exception):
    """The file is not as its index says; the message says how."""


class DamageError(Exception):
    """A packet or frame of this stretch could not be decoded whole."""


class Sift:
    """Lets the wanted pictures of a stretch through; whatever should not be there raises.

    A picture waits until all that it may refer to have come out whole: pictures are shown in another order than they
    are decoded in, and damage to a reference shows only when that one comes out.
    """

    def __init__(self, index: PacketIndex, stretch: Stretch, size: tuple[int, int]) -> None:
        self._index = index
        self._stretch = stretch
        self._size = size
        self._begin = int(index.pts[stretch.first])
        self._numbers = {int(index.pts[row]): number for number, row in stretch.wanted}
        self._latest = np.maximum.accumulate(index.pts[stretch.first : stretch.stop])
        self._last: int | None = None
        self._waiting: deque[tuple[int, int, VideoFrame]] = deque()  # until which time, frame number, picture

    def __call__(self, pictures: Iterable[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        """(frame number, picture) for those that can be handed on now; raises FalseIndexError, DamageError."""
        for picture in pictures:
            row = self._index.row(picture.pts)
            if not self._stretch.first <= row < self._stretch.stop:
                raise FalseIndexError(f"a frame came out at {picture.pts}, where none of its packets is shown")
            pts = int(self._index.pts[row])
            if pts < self._begin:
                continue  # a leading picture, whose references were not decoded
            self._check(picture, row, pts)
            self._last = pts
            if pts in self._numbers:
                self._waiting.append((int(self._latest[row - self._stretch.first]), self._numbers.pop(pts), picture))
            while self._waiting and self._waiting[0][0] <= pts:
                yield self._waiting.popleft()[1:]

    def _check(self, picture: VideoFrame, row: int, pts: int) -> None:
        first = self._stretch.first
        if row == first and not picture.key_frame:
            raise FalseIndexError(f"packet {row} is marked as a keyframe and is none")
        if (picture.width, picture.height) != self._size:
            raise FalseIndexError(f"frames change their size to {picture.width}x{picture.height}")
        if self._last is not None and pts <= self._last:
            raise FalseIndexError(f"the frame at {pts} came out after that at {self._last}")
        silent = self._last is None and row != first and self._index.shown[first]  # the keyframe gave no frame
        if silent or picture.is_corrupt:
            raise DamageError

    def rest(self) -> Iterator[tuple[int, VideoFrame]]:
        """Those that wait still, after the last packet; raises DamageError if a wanted one never came."""
        for _, number, picture in self._waiting:
            yield number, picture
        if self._numbers:
            raise DamageError
