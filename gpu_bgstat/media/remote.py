"""A video file behind a URL (https://, s3://, anything that fsspec reads): only the ranges that are needed are fetched.

    https://host/rec.mp4   [header]····[stretch]·······[stretch]····[index]      [ ] fetched, · never

FFmpeg reads through `_Reader`, decoders share what was fetched. Where the plan has said which bytes come next, a range
is fetched as one piece; elsewhere pieces begin small and double while reading goes straight on.
"""

from __future__ import annotations

import io
from base64 import b64encode
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPException
from threading import Lock
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from gpu_bgstat.errors import SourceError
from gpu_bgstat.media.addresses import without_secrets
from gpu_bgstat.media.identity import FIRST_BYTES
from gpu_bgstat.media.video_file import open_container
from gpu_bgstat.media.waiting import interruptibly

TIMEOUT_S = 30.0  # without an answer to one request
_ASK_S = 10.0  # for the question whether a URL is a file
_ATTEMPTS = 3
_FIRST_BYTES = 1 << 16  # of a piece where nothing is known about what comes next
_MOST_BYTES = 1 << 22  # of any piece
_KEPT_BYTES = 1 << 26  # of pieces, for the other decoders, and for what is read twice
# by which a file is known again, in the words of HTTP and of several stores
_MARKS = {"size", "etag", "last-modified", "lastmodified", "last_modified", "mtime", "content-md5", "generation"}
INSTALL = "pip install 'gpu-bgstat[remote]'"


class _UnreachableError(SourceError):
    """Nobody tells which state the file is in."""


class Interrupted(Exception):  # noqa: N818 (not an error)
    """A signal while FFmpeg asks for bytes. PyAV would print the exception, and tell FFmpeg that the file ended."""

    def __init__(self, signal: KeyboardInterrupt) -> None:
        super().__init__()
        self.signal = signal


@contextmanager
def hearing_interrupts() -> Iterator[None]:
    """What FFmpeg reads in here from a remote file, a signal stops as it does elsewhere."""
    try:
        yield
    except Interrupted as heard:
        raise heard.signal from None


class RemoteFile:
    """A URL. Safe to be read by several threads."""

    def __init__(self, url: str) -> None:
        """Raises SourceError if it cannot be reached, or cannot be read in parts."""
        self.name = without_secrets(url)
        self._closed: Future[None] = Future()
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise SourceError(f"{self.name} is read by fsspec, which is not installed: {INSTALL}") from error
        try:
            self._fs, self._path = url_to_fs(url)
            self._marks = self._look()
        except ImportError as error:
            raise SourceError(
                f"{self.name}: a library for this protocol is missing ({_words(error)}); for http and s3: {INSTALL}"
            ) from error
        except ValueError as error:
            raise SourceError(f"{self.name}: {without_secrets(str(error).splitlines()[0])}") from error
        if self._marks.get("size") is None:
            raise SourceError(f"{self.name}: the server does not tell its size, so it cannot be read in parts")
        self.size = int(self._marks["size"])
        if not self.size:
            raise SourceError(f"{self.name} is empty")
        self._pieces: OrderedDict[int, bytes] = OrderedDict()  # by where they begin; the last used last
        self._kept = 0
        self._expected: list[tuple[int, int]] = []
        self._ahead = (0, _FIRST_BYTES)  # where unforeseen reading would go on, and how much comes then
        self._lock = Lock()
        self.fetched = 0  # bytes

    def _look(self) -> dict[str, Any]:
        """What tells one state of the file from another."""
        try:
            self._fs.invalidate_cache()
            found = interruptibly(lambda: self._fs.info(self._path), TIMEOUT_S, self._closed)
        except (ImportError, ValueError):
            raise
        except Exception as error:
            raise _UnreachableError(f"{self.name} cannot be reached ({_words(error)}): check the address") from error
        return {mark.lower(): value for mark, value in found.items() if mark.lower() in _MARKS and value is not None}

    def open(self, **options: Any) -> Any:
        self._check()
        return open_container(_Reader(self), self.name, **options)

    def _check(self) -> None:
        if self._look() != self._marks:
            raise SourceError(f"{self.name} was replaced while it was read: start again")

    def raw(self) -> BinaryIO:
        return io.BufferedReader(_Reader(self))

    def identity(self) -> dict[str, Any]:
        """Its marks, such as size and ETag, and its first bytes."""
        with self.raw() as file:
            beginning = file.read(FIRST_BYTES)
        marks = {mark: str(value) for mark, value in self._marks.items()}
        return {**marks, "first_bytes": sha256(beginning).hexdigest()}

    def changes(self) -> list[str]:
        try:
            now = self._look()
        except _UnreachableError:
            return [f"{self.name} cannot be reached any more; all that was needed had been read by then"]
        if now != self._marks:
            raise SourceError(f"{self.name} was changed while it was read: start again when it is finished")
        return []

    def expect(self, ranges: list[tuple[int, int]]) -> None:
        with self._lock:
            self._expected = sorted(ranges)

    def close(self) -> None:
        with self._lock, suppress(InvalidStateError):  # closed before
            self._closed.set_result(None)

    def read(self, at: int, most: int) -> bytes:
        """Up to so many bytes from there; fewer at the end of a piece, none at the end of the file."""
        if at >= self.size or most <= 0:
            return b""
        with self._lock:
            found = self._from_pieces(at, most)
            if found is not None:
                return found
            begin, end = self._range(at)
        data = self._fetch(begin, end)
        with self._lock:
            self._keep(begin, data)
        return data[at - begin : at - begin + most]

    def _from_pieces(self, at: int, most: int) -> bytes | None:
        for begin, piece in self._pieces.items():
            if begin <= at < begin + len(piece):
                self._pieces.move_to_end(begin)
                if begin == self._ahead[0]:  # reading goes straight on through what was here already
                    self._ahead = begin + len(piece), self._ahead[1]
                return piece[at - begin : at - begin + most]
        return None

    def _range(self, at: int) -> tuple[int, int]:
        """What to fetch, when the byte at `at` is wanted."""
        place = bisect_right(self._expected, (at, self.size)) - 1
        kept = min((begin for begin in self._pieces if begin > at), default=self.size)
        if place >= 0 and at < self._expected[place][1]:
            return at, min(self._expected[place][1], at + _MOST_BYTES, kept)
        straight_on, size = self._ahead
        size = min(2 * size, _MOST_BYTES) if at == straight_on else _FIRST_BYTES
        following = self._expected[place + 1][0] if place + 1 < len(self._expected) else self.size
        end = min(at + size, following if following > at else self.size, kept)
        self._ahead = end, size
        return at, end

    def _keep(self, begin: int, data: bytes) -> None:
        self.fetched += len(data)
        self._kept += len(data) - len(self._pieces.get(begin, b""))
        self._pieces[begin] = data
        while self._kept > _KEPT_BYTES and len(self._pieces) > 1:
            self._kept -= len(self._pieces.popitem(last=False)[1])

    def _fetch(self, begin: int, end: int) -> bytes:
        """These bytes; raises SourceError after some attempts."""
        for attempt in range(1, _ATTEMPTS + 1):
            if self._closed.done():
                raise SourceError(f"{self.name} was closed while it was read")
            try:
                data = interruptibly(
                    lambda: self._fs.cat_file(self._path, start=begin, end=end), TIMEOUT_S, self._closed
                )
                if len(data) < end - begin:
                    raise EOFError(f"only {len(data)} bytes came")
            except Exception as error:
                if attempt < _ATTEMPTS and not isinstance(error, FileNotFoundError | PermissionError):
                    continue
                if not isinstance(error, TimeoutError):
                    with suppress(_UnreachableError):  # the bytes say more
                        self._check()
                raise SourceError(
                    f"{self.name}: bytes {begin} to {end} cannot be had ({_words(error)}, {attempt} attempts): "
                    "is the server up?"
                ) from error
            if len(data) > end - begin:
                self._check()
                raise SourceError(
                    f"{self.name}: the server gave {len(data)} bytes for a range of {end - begin}: "
                    "it does not serve ranges, so download the file first"
                )
            return bytes(data)
        raise AssertionError


class _Reader(io.RawIOBase):
    """A file object with a place of its own, for one container."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self._failed = False
        self.name = file.name  # FFmpeg looks at its ending

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Empty after a failure, which PyAV raises later: FFmpeg would first try other places, and wait for each."""
        if self._failed:
            return 0
        self._failed = True
        try:
            data = self._file.read(self._at, len(buffer))
        except KeyboardInterrupt as signal:
            raise Interrupted(signal) from None
        buffer[: len(data)] = data
        self._at += len(data)
        self._failed = False
        return len(data)


def is_file(url: str) -> bool:
    """Whether an http(s) server gives a part of this, as of files and not of live streams.

    False also if nobody answers. Raises SourceError if the server refuses, or has a file and gives no parts of it.
    """
    name = without_secrets(url)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urlopen(_question(url), timeout=_ASK_S) as answer:
                if answer.status == HTTPStatus.PARTIAL_CONTENT:
                    return True
                kind, length = answer.headers.get_content_maintype(), answer.headers.get("Content-Length")
        except HTTPError as error:
            error.close()
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True  # an empty file
            if "digest" in error.headers.get("WWW-Authenticate", "").lower():
                return False  # as cameras ask for passwords, and FFmpeg gives them
            if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR and attempt < _ATTEMPTS:
                continue
            raise SourceError(f"{name} cannot be opened: the server answers {error.code} ({error.reason})") from error
        except (OSError, HTTPException, ValueError):
            return False
        if length is not None and kind != "multipart":
            raise SourceError(f"{name}: the server does not serve ranges, so download the file first")
        return False
    raise AssertionError


def _question(url: str) -> Request:
    """For the first byte of a URL as people write them: with a login before the host, and any letters in its path."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    path, query = (quote(part, safe="%/:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    request = Request(parts._replace(netloc=host, path=path, query=query).geturl(), headers={"Range": "bytes=0-0"})
    if login:
        request.add_header("Authorization", "Basic " + b64encode(unquote(login).encode()).decode())
    return request


def _words(error: BaseException) -> str:
    """What went wrong; of fsspec's FileNotFoundError, which stands for any refusal, what the server said."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).splitlines()
    return f"{type(error).__name__}: {without_secrets(text[0])}" if text and text[0] else type(error).__name__
