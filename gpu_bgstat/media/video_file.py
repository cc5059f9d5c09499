"""A video file on this machine, as FFmpeg opens it; and whether it is still the file that it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import av.error
from av.stream import Disposition

from gpu_bgstat.errors import SourceError
from gpu_bgstat.media import identity

# titles that are no UTF-8; PyAV 19 knows the option no more
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg plays text files as films of a terminal


class VideoFile(Protocol):
    """Where the bytes of a video are: on this machine, or behind a URL."""

    name: str
    size: int  # bytes

    def open(self, **options: Any) -> Any:
        """A container of its own, for one thread; `options` are those of `av.open`.

        Raises SourceError with FFmpeg's reason, and if the file is not the one any more that was opened first.
        """

    def raw(self) -> BinaryIO:
        """The raw bytes."""

    def changes(self) -> list[str]:
        """What became of the file since it was first opened, in words; raises SourceError if it is another one now."""

    def expect(self, ranges: list[tuple[int, int]]) -> None:
        """Says which bytes, (begin, end), will be read next."""

    def identity(self) -> dict[str, Any]:
        """By what it is known again by another process."""

    def close(self) -> None:
        """Lets whoever waits for bytes go."""


class LocalFile:
    """A path."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._state = self._stat()
        self.size = self._state.st_size

    def _stat(self) -> os.stat_result:
        try:
            return self._path.stat()
        except OSError as error:
            raise SourceError(f"{self.name} is not there any more ({error.strerror}): was it moved?") from error

    def open(self, **options: Any) -> Any:
        # without "file:", a colon in a relative name would be a protocol's
        container = open_container(f"file:{self._path}", self.name, **options)
        now = self._stat()
        if not os.path.samestat(now, self._state) or now.st_size < self.size:
            container.close()
            raise SourceError(f"{self.name} was replaced while it was read: start again")
        return container

    def raw(self) -> BinaryIO:
        try:
            return self._path.open("rb")
        except OSError as error:
            raise SourceError(f"{self.name} cannot be opened ({error.strerror})") from error

    def changes(self) -> list[str]:
        try:
            now = self._path.stat()
        except OSError:
            return [f"{self.name} was removed while it was read; the result is that of the removed file"]
        if not os.path.samestat(now, self._state):
            return [f"{self.name} was replaced while it was read; the result is that of the earlier file"]
        if now.st_size > self.size:
            more = now.st_size - self.size
            return [f"the file grew by {more} bytes while it was read: only what was there at first is used"]
        if now.st_size < self.size or now.st_mtime_ns != self._state.st_mtime_ns:
            raise SourceError(f"{self.name} was changed while it was read: start again when it is finished")
        return []

    def expect(self, ranges: list[tuple[int, int]]) -> None:
        """The system reads ahead by itself."""

    def identity(self) -> dict[str, Any]:
        return identity.of_files([self._path])

    def close(self) -> None:
        """Nothing is held open."""


def open_container(file: Any, name: str, **options: Any) -> Any:
    """FFmpeg's view of a path or a file object, its video stream checked; raises SourceError with the reason."""
    try:
        container = av.open(file, **METADATA, **options)
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(f"{name} is no video that FFmpeg can read ({reason(error)})") from error
    if film(container) is None:
        container.close()
        raise SourceError(f"{name} has no video stream: give the file with the pictures")
    codec = film(container).codec_context
    if codec is None:
        container.close()
        raise SourceError(f"{name} is coded in a way that FFmpeg does not know: is it whole?")
    if codec.name in _TEXT_CODECS:
        container.close()
        raise SourceError(f"{name} is a text file, no video")
    return container


def film(container: Any) -> Any:
    """The first video stream that is no cover picture; None if there is none."""
    streams = container.streams.video
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)


def packets_of(container: Any) -> Iterator[Any]:
    """The packets of the film, and an empty one at the end; raises FFmpegError where the file cannot be read on.

    A damaged transport stream may announce streams in its middle. PyAV raises IndexError at the first packet of one,
    which is not the film's: reading goes on behind it.
    """
    while True:
        try:
            yield from container.demux(film(container))
        except IndexError:
            continue
        return


def reason(error: Exception) -> str:
    """FFmpeg's own words, without the number and the file name."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0]
