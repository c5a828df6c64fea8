"""A signal to a run's driver: the workers write a checkpoint and stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.io.console import say
from pipeline.io.interruption import orderly_stop
from pipeline.run.checkpoint_manager import awaits_evaluation
from pipeline.run.layout import STARTING_NAME, STOP_NAME
from pipeline.run.ownership import Writer

_LOOK_S = 0.25


class Stop:
    """The request to stop a run: the start by the owner with the token `start`, or any.

    It is a file in the run's folder, which its workers look for.
    """

    def __init__(self, folder: Path, start: str = "") -> None:
        self._file, self._start = folder / STOP_NAME, start
        # Whether a signal to this process asked, and not another process.
        self.is_by_signal = False

    @property
    def is_asked(self) -> bool:
        """Whether the run has been asked to stop."""
        return self._file.exists()

    def ask(self) -> None:
        """Ask the workers to stop after the current step, or else after the evaluation."""
        self._file.write_text(self._start)

    def forget(self) -> None:
        """Withdraw the request, also that of an earlier start of the run."""
        self._file.unlink(missing_ok=True)


@contextmanager
def stopping(folder: Path, writer: Writer, metric: str) -> Iterator[Stop]:
    """Make a command's first signal stop the run in `folder`, while it has workers.

    While they evaluate `metric`, there is nothing to save: then it ends the program at once. In
    other threads than the command's only the file stops the run. Once another start than
    `writer`'s owns the run, a signal raises SupersededError: the request would reach that start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = Stop(folder, writer.owner.token)
    stop.forget()
    over = threading.Event()

    def end_before_evaluation(number: signal.Signals) -> None:
        while not over.wait(_LOOK_S):
            if awaits_evaluation(folder, metric):
                os.kill(os.getpid(), number)
                return

    def ask(signal_name: str) -> bool:
        if (folder / STARTING_NAME).exists():
            return False
        writer.check()
        say(f"{signal_name}: stopping after a checkpoint; a second signal ends the process at once")
        stop.is_by_signal = True
        stop.ask()
        number = signal.Signals[signal_name]
        threading.Thread(target=end_before_evaluation, args=(number,), daemon=True).start()
        return True

    with orderly_stop(ask):
        try:
            yield stop
        finally:
            over.set()
            stop.forget()
