"""Live cameras and stream URLs, through OpenCV. Frames that are not due are grabbed but not decoded to pixels."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2

from gpu_bgstat.config import Config
from gpu_bgstat.errors import ConfigError, SourceError
from gpu_bgstat.frames import Frame, Plan
from gpu_bgstat.media.addresses import without_secrets
from gpu_bgstat.media.waiting import interruptibly
from gpu_bgstat.sources.source import Source

TIMEOUT_MS = 10_000  # to connect, and to wait for the next frame


class CameraSource(Source):
    """`camera:0` or a URL. A frame's time is when it arrived, since the first one."""

    def __init__(self, address: str) -> None:
        super().__init__(without_secrets(address))
        self._waiting = True  # a thread is inside the capture, which must not be released then
        self._capture = interruptibly(lambda: _capture(address))
        self._waiting = False
        if not self._capture.isOpened():
            raise SourceError(f"{self.name} cannot be opened: is it there, and free?")
        self.container = {
            "format": "live",
            "width": int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            "height": int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        }

    def check(self, config: Config) -> None:
        if config.duration is None and config.end is None:
            raise ConfigError(f"{self.name} never ends by itself: say for how many seconds with duration (--duration)")

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        started: float | None = None
        while self._grab():
            now = time.monotonic()
            started = now if started is None else started
            index, time_s = self.seen, now - started
            if plan.over(index, time_s):
                return
            self.seen += 1
            if not plan.due(index, time_s):
                continue
            found, pixels = self._capture.retrieve()
            if found:
                yield Frame(index, time_s, pixels)
            else:
                self.damaged += 1
        self.warnings.append(f"the stream ended by itself after {self.seen} frames")
        if not self.seen:
            raise SourceError(f"{self.name} gave no frame within {TIMEOUT_MS / 1000:.0f} s: is it running?")

    def _grab(self) -> bool:
        self._waiting = True
        found = interruptibly(self._capture.grab)
        self._waiting = False
        return found

    def close(self) -> None:
        if not self._waiting:
            self._capture.release()


def _capture(address: str) -> cv2.VideoCapture:
    if not address.startswith("camera:"):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    number = address.removeprefix("camera:")
    if not number.isdecimal() or len(number) > 4:
        raise SourceError(f"{address} is no camera: give camera:0 for the first one")
    return cv2.VideoCapture(int(number))
