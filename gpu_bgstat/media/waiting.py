"""Calls that may wait for ever, made so that Ctrl-C is heard and a time-out holds."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def interruptibly(call: Callable[[], Result], seconds: float | None = None) -> Result:
    """The call's result, from a thread of its own, since libraries hear no Ctrl-C while they wait.

    Raises TimeoutError after so many seconds, if any are given; the thread is left behind then.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 (raised again by the caller)
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]
