"""Signals: SIGINT (Ctrl-C), and SIGTERM, which schedulers send before they take a machine away.

    the first ──► KeyboardInterrupt or Terminated in the main thread ──► things are put away ──► exit code 130 or 143
    a second one, or LIMIT_S after the first ──► the same exit code at once, as after kill -9

Importing this changes nothing: only the command calls `install`. In a program that uses the library, signals do what
that program says.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import NoReturn

LIMIT_S = 4.0  # to put things away, whatever hangs: a scheduler that waits 5 s finds the process gone
_ECHO_S = 0.25  # `timeout` and some launchers send each signal twice: to the process, and to its group
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM. Whoever treats it as Ctrl-C does right, apart from the exit code."""


def install() -> None:
    """From now on, a signal ends this process with one line and its exit code, also one that the parent had ignored.

    At once, outside of `raised`: while modules load, an exception may get lost or change its type, and there is nothing
    to put away. For the command alone.
    """
    command = _Command()
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    Thread(target=_watch, args=(ear, mouth), daemon=True, name="signals").start()
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    for number in _WORDS:
        signal.signal(number, command)


@contextmanager
def raised() -> Iterator[None]:
    """In here, the command's first signal is an exception in the main thread."""
    command = signal.getsignal(signal.SIGTERM)
    assert isinstance(command, _Command)
    command.raises = True
    try:
        yield
    finally:
        command.raises = False


def farewell(error: BaseException) -> int:
    """Says on stderr which signal it was; its exit code."""
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    with suppress(OSError, ValueError):  # nobody listens any more
        print(_WORDS[number], file=sys.stderr, flush=True)
    return EXIT_CODES[number]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A signal waits until the block is done: all of it happens, or an earlier signal has prevented it.

    A second signal does not wait. May be nested. In other threads than the main one, which alone hears signals, this
    does nothing.
    """
    if current_thread() is not main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _WORDS}
    # not what is ignored, and not what Python could not give back
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    waiting: list[signal.Signals] = []

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hear_waiting() -> None:
        while waiting:
            number = waiting.pop(0)
            handler = before[number]
            if callable(handler):  # not `raise_signal`, which the command would take for a second signal
                handler(number, None)
            else:
                signal.raise_signal(number)

    def wait(number: int, _: FrameType | None) -> None:
        waiting.append(signal.Signals(number))
        # a second signal ends the command in `_watch`: what comes here is an echo
        if len(waiting) > 1 and not isinstance(before[waiting[-1]], _Command):
            give_back()
            hear_waiting()

    try:
        for number in before:
            signal.signal(number, wait)
        yield
    finally:
        give_back()
        hear_waiting()


class _Command:
    """The command's handler."""

    def __init__(self) -> None:
        self.raises = False
        self.heard = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if not self.raises:
            _end(number)
        if not self.heard:
            self.heard = True
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _watch(ear: socket.socket, _: socket.socket) -> None:
    """Ends the process with a second signal, and in time after the first. It keeps both ends of the pair open.

    A thread, which the numbers of signals reach at once: the main thread may be inside a library and hear nothing, or
    the exception may have been lost in a destructor.
    """
    first: int | None = None
    since = 0.0
    while True:
        ear.settimeout(None if first is None else max(0.001, since + LIMIT_S - time.monotonic()))
        try:
            numbers = ear.recv(64)
        except TimeoutError:
            assert first is not None
            _end(first)
        now = time.monotonic()
        for number in numbers:
            if number not in _WORDS:  # another one that Python hears, such as SIGWINCH
                continue
            if first is None:
                first, since = number, now
            elif number != first or now - since > _ECHO_S:
                _end(number)


def _end(number: int) -> NoReturn:
    """The end, with one line if it can be written without waiting."""
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{_WORDS[signal.Signals(number)]}\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])
