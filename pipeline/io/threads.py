"""Calls on threads beside the caller, which can't keep the program from ending."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def beside(call: Callable[[], Result], name: str = "beside") -> Future[Result]:
    """Begin a call on a thread of its own; return the future of its result."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return the result of a call that has no time limit of its own, or raise its error.

    Raises TimeoutError when the time is over. The call then continues, and its result is dropped.
    """
    future = beside(call)
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise  # the call's own
        raise TimeoutError(f"no answer within {seconds:g} s") from None
