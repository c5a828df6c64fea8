"""Progress of a stage: a bar below all other lines in terminals and notebooks, else lines."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TextIO, cast
from weakref import WeakSet

from pipeline.io.console import Pace, bar, duration, say

# Seconds between two drawings of a bar.
_DRAW_EVERY_S = 0.1
# Seconds for which a thread waits for another that writes.
_TURN_S = 1.0
# Width of a bar where the output has none.
_COLUMNS = 110
# A note on a stage keeps what leaves the bar as many columns.
_LEAST_BAR = 10
# A bar's layout for tqdm. A note on the stage comes in place of its speed.
_FORM = "{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} [{{elapsed}}<{{remaining}}{0}]"


def has_bars() -> bool:
    """Whether bars can be drawn: on a terminal or in a notebook, unless one is drawn already."""
    out = sys.stdout
    if type(out).__module__.startswith("ipykernel."):
        return True
    return not isinstance(out, _Above) and out.isatty() and os.environ.get("TERM") != "dumb"


class ProgressBar:
    """Progress of one stage of `total` units, while the context lasts.

    Without a terminal or notebook it is a line at most every `every_s` seconds.
    """

    def __init__(self, total: int, unit: str, title: str, every_s: float = 2.0) -> None:
        self._total, self._unit, self._title, self._pace = total, unit, title, Pace(every_s)
        self._screen = Screen() if has_bars() else None

    def to(self, done: int, note: str = "") -> None:
        """Show that `done` units are complete; `note` says more."""
        if self._screen is not None:
            self._screen.show(self._title, done, self._total, self._unit, note)
        elif self._pace.is_due():
            left = duration(self._pace.left_s(done, self._total))
            more = f", {note}" if note else ""
            say(f"{bar(done, self._total)} {self._unit}{more}  left {left}")

    def __enter__(self) -> Self:
        if self._screen is not None:
            self._screen.__enter__()
            self.to(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._screen.__exit__()


class Screen:
    """The last line of a terminal or notebook, which has a bar; all other lines go above it.

    While the context lasts it stands between this process and its standard output and error.
    `takes` is called with every line, and tells whether the bar shows it. A stage that ends leaves
    its bar as a line unless `leaves` is False.
    """

    def __init__(
        self, takes: Callable[[str], bool] = lambda line: False, *, leaves: bool = True
    ) -> None:
        self._takes, self._leaves, self._lock = takes, leaves, threading.RLock()
        self._meter: Any = None
        self._stage, self._drawn_at = "", 0.0

    def __enter__(self) -> Self:
        self._out, self._before = sys.stdout, (sys.stdout, sys.stderr)
        self._above = (_Above(self, sys.stdout), _Above(self, sys.stderr))
        # They have all that is needed of a text stream.
        sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], self._above)
        _hand_over(self._before, self._above)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before
        _hand_over(self._above, self._before)
        with self.turn():
            self._end()
            for stream in self._above:
                stream.finish()

    def show(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Draw the bar of a stage; that of another stage ends."""
        with self.turn():
            if stage != self._stage:
                self._end()
                self._stage = stage
                self._meter = _meter(stage, total, unit, self._out, leaves=self._leaves)
            now = time.monotonic()
            self._meter.n, self._meter.ncols = done, _columns(self._out)
            note = _fitting(note, self._meter.ncols - _others(stage, total))
            self._meter.set_postfix_str(note, refresh=False)
            self._meter.bar_format = _FORM.format("{postfix}" if note else ", {rate_fmt}")
            if done >= total or now - self._drawn_at >= _DRAW_EVERY_S:
                self._drawn_at = now
                self._meter.refresh(nolock=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread write at a time. None waits for long: it may have to end the process."""
        is_mine = self._lock.acquire(timeout=_TURN_S)
        try:
            yield
        finally:
            if is_mine:
                self._lock.release()

    def write(self, stream: Any, lines: list[str]) -> None:
        """Write whole lines above the bar, except those that it shows itself."""
        if self._meter is not None:
            self._meter.clear(nolock=True)
        stream.write("".join(f"{line}\n" for line in lines if not self._takes(line)))
        stream.flush()
        if self._meter is not None:
            self._meter.refresh(nolock=True)

    def _end(self) -> None:
        """End the bar of the stage."""
        if self._meter is not None:
            self._meter.close()
        self._stage, self._meter = "", None


class _Above:
    """A stream in place of standard output or error: its lines go above the bar."""

    def __init__(self, screen: Screen, stream: Any) -> None:
        self._screen, self._stream = screen, stream
        self._rest = ""

    def write(self, text: str) -> int:
        with self._screen.turn():
            *lines, self._rest = (self._rest + text).split("\n")
            if lines:
                self._screen.write(self._stream, lines)
        return len(text)

    def finish(self) -> None:
        """Write what has no line end yet."""
        self._stream.write(self._rest)
        self._stream.flush()

    def flush(self) -> None:
        """Do nothing: lines are flushed as they are written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _hand_over(before: Sequence[Any], after: Sequence[Any]) -> None:
    """Let the loggers that write to one of the streams write to that which takes its place."""
    # A copy: other threads may add to it.
    names = list(logging.root.manager.loggerDict)
    loggers = [logging.getLogger(), *map(logging.getLogger, names)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        for old, new in zip(before, after, strict=True):
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)
                break


def _columns(out: Any) -> int:
    """Return the width of a bar: a terminal's, without its last column, if that is known."""
    try:
        columns = os.get_terminal_size(out.fileno()).columns if out.isatty() else 0
    except (OSError, ValueError):
        columns = 0
    return columns - 1 if columns else _COLUMNS


def _others(stage: str, total: int) -> int:
    """Return the columns that a bar has beside its note."""
    return len(f"{stage}: 100%|| {total}/{total} [00:00<00:00, ]") + _LEAST_BAR


def _fitting(note: str, columns: int) -> str:
    """Drop parts of a note, the last but one first, until it fits into `columns` columns."""
    parts = note.split("  ")
    while len(parts) > 1 and len("  ".join(parts)) > columns:
        del parts[-2]
    return "  ".join(parts)


def _meter(stage: str, total: int, unit: str, out: Any, *, leaves: bool) -> Any:
    """Return a bar of tqdm's, without its thread, and apart from a caller's own bars."""
    # Only where a bar is drawn.
    from tqdm import tqdm

    class Meter(tqdm):
        monitor_interval = 0
        _lock = threading.RLock()
        _instances: ClassVar[WeakSet[Any]] = WeakSet()

    return Meter(
        desc=stage,
        total=total,
        unit=f" {unit}",
        file=out,
        leave=leaves,
        ncols=_columns(out),
        mininterval=0,
        miniters=1,
    )
