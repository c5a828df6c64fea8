"""SIGTERM to a run's driver: the workers write a checkpoint and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipeline.io.console import say
from pipeline.run.layout import STOP_NAME


class Stop:
    """The request to stop a run: a file in its folder, which its workers look for."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / STOP_NAME

    @property
    def is_asked(self) -> bool:
        """Whether the run has been asked to stop."""
        return self._file.exists()

    def ask(self) -> None:
        """Ask the workers to stop after the current step, or after the epoch's evaluation."""
        self._file.touch()

    def forget(self) -> None:
        """Withdraw the request, also that of an earlier start of the run."""
        self._file.unlink(missing_ok=True)


@contextmanager
def stopping(folder: Path) -> Iterator[Stop]:
    """Make the first SIGTERM stop the run in `folder`; a second one has its former effect.

    Only the main thread can receive signals. In other threads only the file stops the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = Stop(folder)
    stop.forget()
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        say("SIGTERM: stopping after a checkpoint; a second SIGTERM ends the process at once")
        stop.ask()

    if is_main:
        signal.signal(signal.SIGTERM, on_signal)
    try:
        yield stop
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
        stop.forget()
