"""A live stream, read by a thread of its own, so that collecting may take its time now and then.

    stream ──► grab ──► due? ──► retrieve ──► [ ][ ][ ][ ] ──► whoever collects
                                  if all are taken, the frame is dropped, and counted

A stream that drops out is opened again, if that is wanted, with pauses that double.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread

import cv2

from gpu_bgstat.frames import Frame, Plan
from gpu_bgstat.media.waiting import STEP_S

ROOM = 4  # frames that may wait to be collected
TIMEOUT_S = 10.0  # to connect, and to wait for the next frame
FIRST_PAUSE_S = 0.5  # before a stream that dropped out is opened again; each further pause is twice as long
LONGEST_PAUSE_S = 30.0
_LEAST_S = 1.0  # for an attempt to connect, however little is left of the time to reconnect
_NAMED = 20  # stretches that a warning lists one by one
_LEAVING_S = 0.3  # that a thread may take to end while somebody waits for Ctrl-C to be heard
_LOG = logging.getLogger("gpu_bgstat")

Connect = Callable[[float], cv2.VideoCapture]  # within so many seconds; the stream is open, or could not be opened


class Tally:
    """Stretches of time: how many there were, and when the first of them. As text: their times."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._first: list[tuple[float, float]] = []  # a stream may run for months

    def add(self, begin_s: float, end_s: float) -> None:
        self.count += 1
        self.total_s += end_s - begin_s
        if len(self._first) < _NAMED:
            self._first.append((begin_s, end_s))

    def extend(self, end_s: float) -> None:
        """The last stretch goes on to here."""
        if self.count == len(self._first):
            self._first[-1] = (self._first[-1][0], end_s)

    def __str__(self) -> str:
        named = ", ".join(f"{begin:.1f} s to {end:.1f} s" for begin, end in self._first)
        return f"{named} and {self.count - _NAMED} more" if self.count > _NAMED else named


class LiveReader:
    """Reads a stream from its construction on; `frames` gives those that are due. A frame's time is its arrival's.

    The plan is asked by the reading thread as frames arrive. It may have been thinned by the time that a frame leaves
    the queue, so that whoever takes it asks once more.
    """

    def __init__(self, name: str, capture: cv2.VideoCapture, connect: Connect, plan: Plan, reconnect_s: float | None):
        self.seen = self.damaged = self.dropped = 0
        self.gaps = Tally()  # from the last frame before a stream dropped out to the first one after
        self._name = name
        self._capture = capture
        self._connect = connect
        self._plan = plan
        self._reconnect_s = reconnect_s
        self._drops = Tally()
        self._dropping = False
        self._away = False  # the stream has dropped out, and no frame has come since
        self._end = ""
        self._started: float | None = None  # when the first frame came, by the monotonic clock
        self._heard = time.monotonic()  # when the last one came
        self._queue: SimpleQueue[Frame | BaseException | None] = SimpleQueue()  # one that Ctrl-C cannot leave locked
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="gpu_bgstat live", daemon=True)
        self._thread.start()

    def frames(self) -> Iterator[Frame]:
        """The frames that were due when they came, until the range is over or the stream has ended."""
        while True:
            try:
                found = self._queue.get(timeout=STEP_S)
            except Empty:
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def stop(self) -> None:
        """No further frame is read; what waits at the stream notices when its waiting ends."""
        self._stopped.set()

    def close(self, hurried: bool) -> None:
        """Ends the thread, which gives the stream back.

        hurried  leaves it behind if it waits for the stream, for which it has `TIMEOUT_S`
        """
        self.stop()
        end = time.monotonic() + _LEAVING_S
        while self._thread.is_alive() and not (hurried and time.monotonic() >= end):
            self._thread.join(STEP_S)

    def told(self) -> list[str]:
        """What is to be said of the reading so far."""
        notes = []
        if self.dropped:
            notes.append(
                f"{self.dropped} frames that were due were dropped, because collecting was slower than the stream, "
                f"within {self._drops}: raise every, or make frames smaller"
            )
        if self.gaps.count:
            times = "once" if self.gaps.count == 1 else f"{self.gaps.count} times"
            notes.append(f"the stream dropped out {times}: no frames from {self.gaps}")
        return [*notes, self._end] if self._end else notes

    def _run(self) -> None:
        try:
            while not self._stopped.is_set() and self._grab() and self._take(time.monotonic()):
                pass
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 (raised again by whoever collects)
            self._queue.put(error)
        finally:
            self._capture.release()

    def _take(self, now: float) -> bool:
        """Passes the grabbed frame on if it is due; False if the range is over."""
        self._started = now if self._started is None else self._started
        index, time_s = self.seen, now - self._started
        if self._away:
            self._away = False
            self.gaps.add(self._heard - self._started, time_s)
            _LOG.warning("%s is back at %.1f s", self._name, time_s)
        if self._plan.over(index, time_s):
            return False
        self._heard = now
        self.seen += 1
        if self._plan.due(index, time_s):
            self._pass_on(index, time_s)
        return True

    def _pass_on(self, index: int, time_s: float) -> None:
        if self._queue.qsize() >= ROOM:
            self.dropped += 1
            if self._dropping:
                self._drops.extend(time_s)
            else:
                self._drops.add(time_s, time_s)
            self._dropping = True
            return
        self._dropping = False
        found, pixels = self._capture.retrieve()
        if found:
            self._queue.put(Frame(index, time_s, pixels))
        else:
            self.damaged += 1

    def _grab(self) -> bool:
        """Whether there is a next frame, be it that of a stream opened again."""
        if self._capture.grab():
            return True
        if self._reconnect_s is None:
            self._end = f"the stream ended by itself after {self.seen} frames"
            return False
        self._away = True
        _LOG.warning("%s dropped out after %d frames: it is opened again", self._name, self.seen)
        if self._reopened(self._heard + self._reconnect_s):
            return True
        now_s = self._since_first(time.monotonic())
        self.gaps.add(self._since_first(self._heard), now_s)
        self._end = f"the stream ended after {self.seen} frames: it was not back by {now_s:.1f} s"
        return False

    def _reopened(self, deadline: float) -> bool:
        """Whether a frame came before the deadline, and before the range was over."""
        pause_s = FIRST_PAUSE_S
        while (left_s := deadline - time.monotonic()) > 0:
            self._capture.release()
            if not self._paused(min(pause_s, left_s)):
                return False
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._capture = self._connect(max(_LEAST_S, deadline - time.monotonic()))
            if self._capture.isOpened() and self._capture.grab():
                return True
        return False

    def _paused(self, seconds: float) -> bool:
        """Waits so long; False, and at once, if no frame is wanted any more."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            if self._stopped.wait(min(STEP_S, left_s)) or self._over():
                return False
        return True

    def _over(self) -> bool:
        return self._started is not None and self._plan.over(self.seen, self._since_first(time.monotonic()))

    def _since_first(self, moment: float) -> float:
        return 0.0 if self._started is None else moment - self._started
