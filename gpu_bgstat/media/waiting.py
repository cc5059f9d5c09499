"""Calls that may wait for ever, made so that Ctrl-C is heard and a time-out holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import Any, TypeVar

STEP_S = 0.2  # a Ctrl-C that comes just before Python begins to wait is heard at the end of the wait
Result = TypeVar("Result")


def interruptibly(
    call: Callable[[], Result], seconds: float | None = None, given_up: Future[None] | None = None
) -> Result:
    """The call's result, from a thread of its own, since libraries hear no Ctrl-C while they wait.

    Raises TimeoutError after so many seconds, if any are given, and at once when `given_up` is done; the thread is left
    behind then.
    """
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 (raised again by the caller)
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    waited: list[Future[Any]] = [answer, given_up] if given_up else [answer]
    end = math.inf if seconds is None else time.monotonic() + seconds
    while not wait(waited, min(STEP_S, max(0.0, end - time.monotonic())), FIRST_COMPLETED).done:
        if time.monotonic() >= end:
            raise TimeoutError(f"no answer within {seconds:g} s")
    if not answer.done():
        raise TimeoutError("nobody waits any more")
    return answer.result()
