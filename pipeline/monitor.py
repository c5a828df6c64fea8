"""Records how busy rank 0's machine is while a run goes on: in a journal of its own, since one process alone may add to a journal."""

import threading
from pathlib import Path
from typing import Self

from pipeline.io.console import say
from pipeline.journal import SYSTEM_NAME, Journal
from pipeline.system import System

# Seconds between samples, and samples that make an entry.
_EVERY_S, _SAMPLES = 5.0, 6


class Monitor:
    """A thread that adds the means of half a minute to the journal of the machine in `folder`, and the rest at the end.

    What goes wrong with it is said, and does not reach the run.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder, SYSTEM_NAME)
        self._system = System(folder)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            is_over = False
            while not is_over:
                for _ in range(_SAMPLES):
                    is_over = self._over.wait(_EVERY_S)
                    self._system.sample()
                    if is_over:
                        break
                self._enter()
        except Exception as error:
            # A slip of ours, or a driver's: the run is worth more than its machine's figures.
            say(f"the machine is no longer watched: {type(error).__name__}: {error}")

    def _enter(self) -> None:
        """Add an entry, at a step of its own, as MLflow counts them."""
        try:
            self._journal.metrics(self._system.summary(), len(self._journal.entries()) + 1)
        except OSError as error:
            say(f"{self._journal.path}: the last half minute is not recorded: {error}")
