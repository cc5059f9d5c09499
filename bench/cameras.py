"""Real cameras on this machine: HTTP servers that send what they are told, drop out, and come back or do not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

import cv2
import numpy as np

MJPEG = "multipart/x-mixed-replace; boundary=frame"
MPEG_TS = "video/mp2t"


@dataclass
class Camera:
    """What it sends, and who asked for it."""

    film: Callable[
        [int], Iterable[bytes] | None
    ]  # number of the connection -> what it sends; None: it hangs up at once
    content_type: str = MJPEG
    url: str = ""
    asked: list[float] = field(default_factory=list)  # when, by the monotonic clock
    released: Event = field(default_factory=Event)  # set at the end: whoever stalls may go
    lock: Lock = field(default_factory=Lock)
    stop: Callable[[], None] = lambda: None  # for ever; not from within the film


class _Connection(BaseHTTPRequestHandler):
    camera: Camera  # set by `filming`

    def do_GET(self) -> None:
        camera = self.camera
        if self.headers.get("Range") == "bytes=0-0":  # the question whether this is a file
            self._head()
            return
        with camera.lock:
            number = len(camera.asked)
            camera.asked.append(time.monotonic())
        chunks = camera.film(number)
        if chunks is None:
            return
        try:
            self._head()
            for chunk in chunks:
                self.wfile.write(chunk)
                if camera.released.is_set():
                    return
        except OSError:
            return  # the viewer has gone

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", self.camera.content_type)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def filming(film: Callable[[int], Iterable[bytes] | None], content_type: str = MJPEG) -> Iterator[Camera]:
    """The camera; it and all its connections have ended afterwards."""
    camera = Camera(film, content_type)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Connection,), {"camera": camera})) as http:
        camera.url = f"http://127.0.0.1:{http.server_port}/stream"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()

        def stop() -> None:
            camera.released.set()
            http.shutdown()
            thread.join()
            http.server_close()

        camera.stop = stop
        try:
            yield camera
        finally:
            stop()


def jpeg_part(level: int, width: int = 64, height: int = 48) -> bytes:
    """One frame of an MJPEG stream, all of one grey level."""
    image: Any = np.full((height, width, 3), level, np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"
