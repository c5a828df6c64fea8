"""Output of the commands without secrets: progress lines, tables, and the message of an end."""

import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from pipeline.io.interruption import WITHIN_S, ended_by_signals
from pipeline.io.redaction import redacted
from pipeline.io.text import one_line, visible

_FAILED, _BAD_INPUT = 1, 2
# A shell's status of a program that SIGPIPE has ended.
_UNREAD = 128 + signal.SIGPIPE
# Smaller quantities are written with an exponent.
_MOST_DECIMALS = 8


def say(line: str) -> None:
    """Print a line and flush it, so that Ray's log streams show it at once.

    Line ends in it, and other characters that would act on the terminal, are shown as escapes: a
    name from outside can't pass for a line of its own.
    """
    print(one_line(redacted(line)), flush=True)


def say_text(text: str) -> None:
    """Print lines like `say`. Names from outside in them must hold no line end."""
    print(visible(redacted(text)), flush=True)


def duration(seconds: float) -> str:
    """Format seconds for people: `45 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(value: float, decimals: int = 2) -> str:
    """Format a quantity with `decimals`, or a small one with two digits of its own: `0.0034`.

    Thousands are separated. Not finite: empty.
    """
    if not math.isfinite(value):
        return ""
    if value:
        decimals = max(decimals, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}" if decimals <= _MOST_DECIMALS else f"{value:.1e}"


class Pace:
    """Timer of progress lines: tells when the next one is due, and estimates the time left."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every_s, clock
        self._start = self._last = clock()

    def is_due(self) -> bool:
        """Whether `every_s` seconds have passed since this was last true, or since the start."""
        now = self._clock()
        if now - self._last < self._every:
            return False
        self._last = now
        return True

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def left_s(self, done: int, total: int) -> float:
        """Estimate the seconds left from the mean pace of the `done` items since the start."""
        return self.elapsed_s() / max(done, 1) * (total - done)


def bar(done: int, total: int, width: int = 24) -> str:
    """Draw a progress bar as text."""
    filled = width * done // max(total, 1)
    return "[" + "#" * filled + "." * (width - filled) + f"] {done:,}/{total:,}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows in columns, the first flush left, the others right; short rows end early.

    Line ends in cells are shown as escapes.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(max(map(len, rows)))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    )


@contextmanager
def clear_errors(advice: str = "", within_s: float = WITHIN_S) -> Iterator[None]:
    """End the program with a message: status 2 on ValueError, status 1 on OSError.

    It also ends by SIGINT, SIGTERM and SIGHUP with a message, which `advice` completes, and within
    `within_s` seconds. Without a message it ends where no one reads its output any more, as after
    `| head`.
    """
    with ended_by_signals(advice, within_s):
        try:
            yield
            # Else the interpreter would find out at its end, and print so.
            sys.stdout.flush()
        except ValueError as error:
            fail(str(error), _BAD_INPUT)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _is_unread():
                raise SystemExit(_UNREAD) from None
            fail(_described(error), _FAILED)
        finally:
            if _is_unread():
                _drop_output()


def _described(error: OSError) -> str:
    """Format an error of the system as `FILE: reason`, without its number."""
    if not error.strerror:
        return str(error)
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*([" -> ".join(files)] if files else []), error.strerror])


def _is_unread() -> bool:
    """Whether the reader of the output has closed its pipe."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False  # no file, as in a notebook
    return bool(poll.poll(0))


def _drop_output() -> None:
    """Discard the rest of the output."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def fail(message: str, status: int = _FAILED) -> NoReturn:
    """Print a message on standard error and end the program; further lines of it are indented."""
    shown = re.sub(r"\n(?=\S)", "\n  ", visible(redacted(message)))
    print(f"error: {shown}", file=sys.stderr, flush=True)
    raise SystemExit(status)
