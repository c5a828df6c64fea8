"""A sweep's end before its last trial's: because its budget is used up, or because someone asks for it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray.tune

from pipeline.io.console import say
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.layout import STOP_NAME
from tune.epochs import has_ended, last_of
from tune.settings import Budget

# What trials have to keep a checkpoint and close their records in.
_PATIENCE_S = 120.0
_LOOK_S = 0.5


class Ending:
    """Ends the sweep in `folder` in good order, once: its trials keep a checkpoint and stop, then Ray Tune does.

    `running` gives the folders of the runs that are going on.
    """

    def __init__(self, folder: Path, running: Callable[[], list[Path]]) -> None:
        self._file, self._running = folder / STOP_NAME, running
        self._begun = threading.Lock()
        self._waiting = threading.Thread(target=self._wait, name="ending", daemon=True)
        self.interruption = ""
        self._file.unlink(missing_ok=True)

    def interrupt(self, signal_name: str) -> None:
        """Have the trials stop, to go on another time; returns at once."""
        self.interruption = signal_name
        self._begin("", f"{signal_name}: the trials keep a checkpoint and stop")

    def use_up(self, reason: str) -> None:
        """Have the trials stop, whose results stand as they are; returns at once."""
        self._begin(reason, f"{reason}: the trials keep a checkpoint and stop")

    def join(self, limit_s: float) -> None:
        """Wait until Ray Tune has been asked to end, for so many seconds at most."""
        self._waiting.join(limit_s)

    def over(self) -> None:
        """Take back what was asked."""
        self._file.unlink(missing_ok=True)

    def _begin(self, told: str, said: str) -> None:
        if self._begun.acquire(blocking=False):
            self._file.write_text(told)
            say(said)
            self._waiting.start()

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            if all(has_ended(Journal(folder)) for folder in self._running()):
                break
            time.sleep(_LOOK_S)
        # Ray Tune ends at it, having kept where the experiment stands.
        os.kill(os.getpid(), signal.SIGUSR1)


@contextmanager
def ending_on_signals(ending: Ending) -> Iterator[None]:
    """Have a first SIGTERM or SIGINT end the sweep in good order; a second one ends the process as it would have."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    # Ray Tune's own would leave trials no time.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

    def asked(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        ending.interrupt(signal.Signals(number).name)

    for number in numbers:
        signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ending.over()


class Accountant(ray.tune.Callback):
    """Adds up what the trials of the sweep in `folder` take, and has it ended when the budget is used up.

    `gpus` are those of one trial. Hours of wall time count from now on, the
    rest since the sweep began.
    """

    def __init__(
        self, budget: Budget, gpus: float, folder: Path, end: Callable[[str], None]
    ) -> None:
        self._budget, self._gpus, self._folder, self._end = budget, gpus, folder, end
        self._start = time.monotonic()

    def used_up(self) -> str:
        """What of the budget is used up, in words; empty if nothing is."""
        samples, seconds = spent(self._folder)
        reached = self._budget.reached_by(
            samples=samples,
            gpu_hours=self._gpus * seconds / 3600,
            hours=(time.monotonic() - self._start) / 3600,
        )
        return f"{reached} is used up" if reached else ""

    def on_trial_result(self, *_: Any, **info: Any) -> None:
        """Look after every epoch of a trial."""
        used_up = self.used_up()
        if used_up:
            self._end(used_up)


def spent(folder: Path) -> tuple[int, float]:
    """Training samples and seconds that the runs in a folder have taken so far."""
    samples, seconds = 0, 0.0
    for path in folder.glob(f"*/{JOURNAL_NAME}"):
        in_run = last_of(Journal(path.parent))
        samples, seconds = samples + in_run[0], seconds + in_run[1]
    return samples, seconds
