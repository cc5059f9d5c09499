"""Live cameras and stream URLs, through OpenCV. Frames that are not due are grabbed but not decoded to pixels."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import cv2

from gpu_bgstat.config import Config
from gpu_bgstat.errors import ConfigError, SourceError
from gpu_bgstat.frames import Frame, Plan
from gpu_bgstat.media.addresses import without_secrets
from gpu_bgstat.media.live import TIMEOUT_S, LiveReader
from gpu_bgstat.media.waiting import interruptibly
from gpu_bgstat.sources.source import Source


class CameraSource(Source):
    """`camera:0` or a URL. A frame's time is when it arrived, since the first one.

    A frame that is due while several others wait to be collected is dropped and counted. With `config.reconnect`, a
    stream that drops out is opened again; time and numbers go on.
    """

    def __init__(self, address: str, config: Config | None = None) -> None:
        super().__init__(without_secrets(address))
        self._address = address
        self._reconnect_s = config.reconnect if config else None
        self._reader: LiveReader | None = None
        self._capture: cv2.VideoCapture | None = interruptibly(lambda: self._connect(TIMEOUT_S))
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
        if self._reader is not None:  # a second reading starts anew
            self.close()
        capture, self._capture = self._capture or self._connect(TIMEOUT_S), None
        self._reader = reader = LiveReader(self.name, capture, self._connect, plan, self._reconnect_s)
        try:
            for frame in reader.frames():
                self._gather(reader)
                # else the plan was thinned while this frame waited
                if plan.indices is not None or plan.due(frame.index, frame.time_s):
                    yield frame
        finally:
            reader.stop()
            self._gather(reader)
        if not self.seen:
            waited_s = max(TIMEOUT_S, self._reconnect_s or 0)
            raise SourceError(f"{self.name} gave no frame within {waited_s:.0f} s: is it running?")

    def _gather(self, reader: LiveReader) -> None:
        self.seen, self.damaged, self.dropped = reader.seen, reader.damaged, reader.dropped
        self.warnings = reader.told()
        self.decoding = {
            "way": "live",
            "why": "frames are taken as they come",
            "gaps": reader.gaps.count,
            "away_s": round(reader.gaps.total_s, 3),
        }

    def _connect(self, limit_s: float) -> cv2.VideoCapture:
        """The stream, open or not, after so many seconds at most."""
        if not self._address.startswith("camera:"):
            opening_ms = int(1000 * min(TIMEOUT_S, limit_s))
            reading_ms = int(1000 * TIMEOUT_S)
            if self._reconnect_s is not None:  # a stream that stalls leaves time to open it again
                reading_ms = int(1000 * min(TIMEOUT_S, max(1.0, self._reconnect_s / 2)))
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, opening_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, reading_ms]
            return cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, limits)
        number = self._address.removeprefix("camera:")
        if not number.isdecimal() or len(number) > 4:
            raise SourceError(f"{self._address} is no camera: give camera:0 for the first one")
        return cv2.VideoCapture(int(number))

    def close(self) -> None:
        """Waits for the reading thread, which may wait for the stream; but not if this is for Ctrl-C."""
        if self._reader is not None:
            error = sys.exception()
            self._reader.close(hurried=error is not None and not isinstance(error, Exception))
        elif self._capture is not None:
            self._capture.release()
