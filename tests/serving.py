"""A real HTTP server of files on this machine: it serves ranges, counts the bytes, and misbehaves when asked to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread


@dataclass(frozen=True)
class Asked:
    """One request that was answered."""

    method: str
    path: str
    begin: int  # of the range; the whole file without one
    end: int
    authorization: str | None


@dataclass
class Server:
    """Its files, and what was asked of them."""

    files: dict[str, bytes]  # by path, such as /rec.mp4
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0  # bytes of bodies
    fault: Callable[[Answer], bool] | None = None  # answers instead, if it returns True
    marked: bool = True  # sends an ETag
    stalled: Event = field(default_factory=Event)  # set when a request gets no answer
    released: Event = field(default_factory=Event)  # set at the end: whoever stalls may go
    lock: Lock = field(default_factory=Lock)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges that were fetched, without the question whether it is a file."""
        return [(ask.begin, ask.end) for ask in self.asked if ask.method == "GET" and (ask.begin, ask.end) != (0, 1)]

    def forget(self) -> None:
        with self.lock:
            self.asked, self.sent = [], 0


class Answer(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a short body waits 40 ms for the header's acknowledgement
    files: Server  # set by `serving`
    data = b""  # the whole file
    begin = end = 0  # of what is asked for
    ranged = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.files
        path = self._locate()
        with server.lock:
            server.asked.append(Asked(self.command, path, self.begin, self.end, self.headers.get("Authorization")))
        try:
            if server.fault is not None and server.fault(self):
                return
            self._locate()  # the fault may have replaced it
            if path not in server.files:
                self.refuse(404)
            elif self.ranged and self.begin >= len(self.data):
                self.refuse(416)
            else:
                self.head(206 if self.ranged else 200)
                self.body(self.data[self.begin : self.end])
        except OSError:
            self.close_connection = True  # the client has gone

    def _locate(self) -> str:
        """The path, after a look at what is there now and at the range that is asked for."""
        path = self.path.partition("?")[0]
        self.data = self.files.files.get(path, b"")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.ranged, size = asked is not None, len(self.data)
        self.begin, self.end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        return path

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def head(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(self.end - self.begin))
        if self.files.marked:
            self.send_header("ETag", f'"{hashlib.md5(self.data).hexdigest()}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {self.begin}-{self.end - 1}/{len(self.data)}")
        self.end_headers()

    def body(self, data: bytes) -> None:
        if self.command == "HEAD":
            return
        for at in range(0, len(data), 1 << 16):
            part = data[at : at + (1 << 16)]
            self.wfile.write(part)
            with self.files.lock:
                self.files.sent += len(part)

    def part(self, share: float) -> None:
        """The head of an answer, and this share of its body."""
        self.head(206)
        self.body(self.data[self.begin : self.begin + int(share * (self.end - self.begin))])

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # connections that are kept alive would hold it up
    request_queue_size = 64


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """The server; it is gone afterwards."""
    server = Server(files)
    with _Quiet(("127.0.0.1", 0), type("Bound", (Answer,), {"files": server})) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            http.shutdown()
            thread.join()


# --- faults --------------------------------------------------------------------------------------------------------

Fault = Callable[[Answer], bool]


def far(behind: int, fault: Fault) -> Fault:
    """The fault of ranges that go beyond this byte; what is read at first stays well."""
    return lambda answer: answer.command == "GET" and answer.end > behind and fault(answer)


def status(code: int, times: int = 10**9) -> Fault:
    """Answers with this status so many times."""
    left = iter(range(times))

    def fault(answer: Answer) -> bool:
        if next(left, None) is None:
            return False
        answer.refuse(code)
        return True

    return fault


def stall(server: Server, share: float = 0.0) -> Fault:
    """Never answers, or sends this share of what was asked for and no more."""

    def fault(answer: Answer) -> bool:
        if share:
            answer.part(share)
        server.stalled.set()
        server.released.wait()
        answer.close_connection = True
        return True

    return fault


def cut(share: float) -> Fault:
    """Sends a share of what was asked for, and hangs up."""

    def fault(answer: Answer) -> bool:
        answer.part(share)
        answer.close_connection = True
        return True

    return fault


def short(answer: Answer) -> bool:
    """Gives fewer bytes than were asked for, and says so."""
    answer.end -= (answer.end - answer.begin) // 2
    answer.head(206)
    answer.body(answer.data[answer.begin : answer.end])
    return True


def whole(answer: Answer) -> bool:
    """Has never heard of ranges."""
    answer.begin, answer.end = 0, len(answer.data)
    answer.head(200)
    answer.body(answer.data)
    return True
