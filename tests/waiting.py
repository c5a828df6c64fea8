"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable


def until(is_so: Callable[[], bool], limit_s: float = 60) -> None:
    """Wait for a condition; the generous limit only keeps a failure from hanging."""
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.05)
