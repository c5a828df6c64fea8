"""SIGTERM to a run's driver: the workers are asked to write a checkpoint and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipeline.io.console import say
from pipeline.run.layout import STOP_NAME


class Stop:
    """Whether a run has been asked to stop; asks its workers through a file in its folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / STOP_NAME

    @property
    def is_asked(self) -> bool:
        """Whether anyone has asked."""
        return self._file.exists()

    def ask(self) -> None:
        """Ask the workers; they stop after the step under way, or after the epoch's evaluation."""
        self._file.touch()

    def forget(self) -> None:
        """Take back what was asked, also of an earlier start of the run."""
        self._file.unlink(missing_ok=True)


@contextmanager
def stopping(folder: Path) -> Iterator[Stop]:
    """Have a first SIGTERM stop the run in `folder` in good order; a second one ends the process as it would have.

    Elsewhere than in the main thread signals can't be received; there only the file asks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = Stop(folder)
    stop.forget()
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)

    def asked(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        say("SIGTERM: stopping after a checkpoint; a second SIGTERM ends at once")
        stop.ask()

    if is_main:
        signal.signal(signal.SIGTERM, asked)
    try:
        yield stop
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
        stop.forget()
