"""Lines that show how far a long piece of work has come."""

import time
from collections.abc import Callable

from pipeline.io.redaction import redacted


def say(line: str) -> None:
    """Print a line at once, so that it passes through Ray's log streams as it happens; without secrets."""
    print(redacted(line), flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Pace:
    """Says when a line is due, and how long the rest will take at the pace so far."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every_s, clock
        self._start = self._last = clock()

    def is_due(self) -> bool:
        """Whether `every_s` seconds have passed since the last time that it was."""
        now = self._clock()
        if now - self._last < self._every:
            return False
        self._last = now
        return True

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def left_s(self, done: int, total: int) -> float:
        """Seconds that the rest takes at the mean pace so far; `done` counts from the start."""
        return self.elapsed_s() / max(done, 1) * (total - done)


def bar(done: int, total: int, width: int = 24) -> str:
    """A progress bar as text."""
    filled = width * done // max(total, 1)
    return "[" + "#" * filled + "." * (width - filled) + f"] {done:,}/{total:,}"
