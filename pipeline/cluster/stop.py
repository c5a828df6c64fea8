"""A signal to a run's driver: the workers write a checkpoint and stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.io.console import say
from pipeline.io.interruption import orderly_stop
from pipeline.run.layout import STARTING_NAME, STOP_NAME
from pipeline.run.ownership import Writer


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
def stopping(folder: Path, writer: Writer) -> Iterator[Stop]:
    """Make a command's first signal stop the run in `folder`, while it has workers.

    In other threads than the command's only the file stops the run. Once another start than
    `writer`'s owns the run, a signal raises SupersededError: the request would reach that start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = Stop(folder)
    stop.forget()

    def ask(signal_name: str) -> bool:
        if (folder / STARTING_NAME).exists():
            return False
        writer.check()
        say(f"{signal_name}: stopping after a checkpoint; a second signal ends the process at once")
        stop.ask()
        return True

    with orderly_stop(ask):
        try:
            yield stop
        finally:
            stop.forget()
