"""Several decoders beside each other, each a thread with a container of its own.

    stretches ──► decoder 0 ──► pictures ──► pixels ──┐
              └─► decoder 1 ──► pictures ──► pixels ──┴─► outbox ──► frames, in order or as they come

Decoding and conversion run outside Python's global lock. A lone decoder leaves the conversion to the reader's thread,
so that both go on at once. Memory is bounded by what the decoders hold and by the room in the outbox.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from gpu_bgstat.backends.tiles import cores
from gpu_bgstat.frames import Frame, Image
from gpu_bgstat.media.decode_plan import Stretch
from gpu_bgstat.media.decoder import Decoder, Toll
from gpu_bgstat.media.sift import DamageError, FalseIndexError
from gpu_bgstat.media.waiting import STEP_S

MOST_BYTES = 1 << 31  # that all decoders together may hold, unless their number was asked for
_PICTURES_HELD = 20  # by a decoder, at most: 16 references and those under way
_ROOM = 2  # frames in the outbox, for each decoder
_FEW_THREADS = 4  # of FFmpeg, for one decoder

Ready = Callable[[], Frame]  # makes the frame, or has it already


def division(
    stretches: int, size: tuple[int, int], deep: bool, asked: int | None, most_bytes: int = MOST_BYTES
) -> tuple[int, int]:
    """How many decoders share so many stretches, and how many of FFmpeg's threads each has.

    size        (width, height) of a picture, `deep` if its values have two bytes
    asked       that many decoders, however much memory they take
    most_bytes  that all of them may hold; one there is in any case
    """
    a_picture = size[0] * size[1] * (1 + deep)  # bytes, times 1.5 in 4:2:0 and 3 in BGR
    fitting = most_bytes // max(1, a_picture * (3 * _PICTURES_HELD // 2 + 3 * _ROOM))
    decoders = max(1, min(stretches, asked or min(cores(), max(1, fitting))))
    few = stretches <= 2 * decoders  # the last ones to work should not leave cores idle
    return decoders, min(cores(), _FEW_THREADS) if few else max(1, cores() // decoders)


class _Outbox:
    """Where decoders put frames, and the reader takes them: in order of their numbers, or as they come.

    At most `room` frames wait here. In order, a frame may be put only if fewer than `room` are to be taken before it.
    """

    def __init__(self, numbers: Sequence[int], room: int, ordered: bool) -> None:
        self._numbers = sorted(numbers)
        self._room = room
        self._ordered = ordered
        self._frames: dict[int, Ready | None] = {}  # by place among all; None: will not come
        self._taken = 0
        self.error: BaseException | None = None
        self.closed = False
        self._changed = threading.Condition()

    def put(self, number: int, frame: Ready | None) -> bool:
        """Waits for room; False if nobody wants frames any more."""
        place = bisect_left(self._numbers, number)
        with self._changed:
            while not self.closed and not self._fits(place):
                self._changed.wait()
            self._frames[place] = frame
            self._changed.notify_all()
            return not self.closed

    def _fits(self, place: int) -> bool:
        return place < self._taken + self._room if self._ordered else len(self._frames) < self._room

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def check(self) -> None:
        """Raises what a decoder raised, be it after the last frame: those before may have been false."""
        if self.error:
            raise self.error

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def take(self) -> Iterator[Ready]:
        """Every frame that comes; raises what a decoder raised."""
        while self._taken < len(self._numbers):
            with self._changed:
                while not self.error and not self._ready():
                    self._changed.wait(STEP_S)
                self.check()
                place = self._taken if self._ordered else next(iter(self._frames))
                frame = self._frames.pop(place)
                self._taken += 1
                self._changed.notify_all()
            if frame is not None:
                yield frame

    def _ready(self) -> bool:
        return self._taken in self._frames if self._ordered else bool(self._frames)


@dataclass(frozen=True)
class Crew:
    """How stretches are decoded: by how many decoders, how each is made, and what becomes of a picture."""

    decoders: int
    make: Callable[[bool], Decoder]  # True: one like a sequential decoder
    pixels: Callable[[], Callable[[VideoFrame], Image]]  # made once a thread
    times_s: NDArray[np.float64]
    give_up: Callable[[], None]  # lets decoders go that wait for bytes

    def frames(
        self, stretches: Sequence[Stretch], done: Callable[[Stretch, Toll], None], ordered: bool
    ) -> Iterator[Frame]:
        """The wanted frames of all stretches; `done` hears of each that is through, and what damage cost there.

        Raises FalseIndexError, SourceError.
        """
        numbers = [number for stretch in stretches for number, _ in stretch.wanted]
        outbox = _Outbox(numbers, _ROOM * self.decoders, ordered)
        queue, lock = iter(stretches), threading.Lock()

        def work() -> None:
            try:
                with closing(_Hand(self, outbox)) as hand:
                    while (stretch := _next(queue, lock)) is not None and hand.decode(stretch):
                        done(stretch, hand.toll)
                        hand.toll = Toll()
            except BaseException as error:  # noqa: BLE001 (raised again by the reader)
                outbox.fail(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.decoders, len(stretches)))]
        for thread in threads:
            thread.start()
        try:
            for ready in outbox.take():
                yield ready()
            for thread in threads:
                thread.join()
            outbox.check()
        except (FalseIndexError, GeneratorExit):
            raise  # the file may be read again
        except BaseException:
            self.give_up()
            raise
        finally:
            outbox.close()
            for thread in threads:
                thread.join()
        outbox.check()


def _next(queue: Iterator[Stretch], lock: threading.Lock) -> Stretch | None:
    with lock:
        return next(queue, None)


class _Hand:
    """One thread's decoder, and what it does with a stretch."""

    def __init__(self, crew: Crew, outbox: _Outbox) -> None:
        self._crew = crew
        self._outbox = outbox
        self._decoder = self._make(False)
        self._pixels = crew.pixels()
        self.toll = Toll()

    def decode(self, stretch: Stretch) -> bool:
        """Puts the wanted frames of a stretch into the outbox; False if nobody wants them any more."""
        left = dict(stretch.wanted)
        try:
            return self._hand_on(self._decoder.pictures(stretch), left)
        except DamageError:
            rest = Stretch(stretch.first, stretch.stop, tuple(left.items()))
            with closing(self._make(True)) as decoder:
                wanted = self._hand_on(decoder.tolerantly(rest, self.toll), left)
            self.toll.suspected += not self.toll.frames and not self.toll.lost
            return wanted and all(self._outbox.put(number, None) for number in left)

    def _make(self, tolerant: bool) -> Decoder:
        decoder = self._crew.make(tolerant)
        decoder.unwanted = lambda: self._outbox.closed
        return decoder

    def _hand_on(self, pictures: Iterator[tuple[int, VideoFrame]], left: dict[int, int]) -> bool:
        """Takes the frames that came out of `left`, and those before them, which will not come any more."""
        for number, picture in pictures:
            if number not in left:  # out of order, and given up before: only in a damaged stretch
                self.toll.suspected += 1
                continue
            for lost in [other for other in left if other < number]:
                del left[lost]
                self._outbox.put(lost, None)
            del left[number]
            ready = partial(self._frame, number, picture)
            if self._crew.decoders > 1:
                ready = partial(_given, ready())
            if not self._outbox.put(number, ready):
                return False
        return not self._outbox.closed

    def _frame(self, number: int, picture: VideoFrame) -> Frame:
        return Frame(number, float(self._crew.times_s[number]), self._pixels(picture))

    def close(self) -> None:
        self._decoder.close()


def _given(frame: Frame) -> Frame:
    return frame
