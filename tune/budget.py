"""The end of a sweep before its last trial: by its budget, or by a signal."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.tune

from pipeline.io.console import say
from pipeline.io.interruption import orderly_stop
from pipeline.run.checkpoint_manager import awaits_evaluation
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.layout import STARTING_NAME, STOP_NAME
from pipeline.run.ownership import Writer
from tune.epochs import has_ended, is_cut, last_of
from tune.settings import Budget

# Time for trials to write a checkpoint and close their records.
_PATIENCE_S = 120.0
_LOOK_S = 0.5


class Ending:
    """A graceful end of the sweep in `folder`, once: trials write a checkpoint, then Ray Tune ends.

    `running` returns the folders of the runs in progress, which evaluate `metric`. Once another
    start than `writer`'s owns the sweep, SupersededError is raised in place of an end.
    """

    def __init__(
        self,
        folder: Path,
        running: Callable[[], list[Path]],
        metric: str,
        writer: Writer | None = None,
    ) -> None:
        self._file, self._running, self._writer = folder / STOP_NAME, running, writer
        self._metric = metric
        self._begun = threading.Lock()
        self._waiting = threading.Thread(target=self._wait, name="ending", daemon=True)
        self.interruption = ""
        self._file.unlink(missing_ok=True)

    def interrupt(self, signal_name: str) -> None:
        """Ask the trials to stop and resume another time; return at once."""
        self.interruption = signal_name
        self._begin("", signal_name)

    def is_training(self) -> bool:
        """Whether a trial has workers, which could write a checkpoint."""
        return any(
            (folder / JOURNAL_NAME).exists() and not (folder / STARTING_NAME).exists()
            for folder in self._running()
        )

    def use_up(self, reason: str) -> None:
        """Ask the trials to stop with the results that they have; return at once."""
        self._begin(reason, reason)

    def over(self) -> None:
        """Withdraw the request to stop."""
        self._file.unlink(missing_ok=True)

    def _begin(self, reason: str, cause: str) -> None:
        if self._begun.acquire(blocking=False):
            if self._writer is not None:
                self._writer.check()
            self._file.write_text(reason)
            say(f"{cause}: the trials write a checkpoint and stop")
            self._waiting.start()

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            left = [folder for folder in self._running() if not has_ended(Journal(folder))]
            if not left:
                break
            if self.interruption and all(awaits_evaluation(run, self._metric) for run in left):
                # There is nothing to save: as by a second signal.
                os.kill(os.getpid(), signal.Signals[self.interruption])
                return
            time.sleep(_LOOK_S)
        # On this signal Ray Tune saves the state of the experiment and ends.
        os.kill(os.getpid(), signal.SIGUSR1)


@contextmanager
def ending_on_signals(ending: Ending) -> Iterator[None]:
    """End the sweep gracefully on a command's first signal, if a trial trains."""
    # Ray Tune's own handler would leave trials no time.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

    def ask(signal_name: str) -> bool:
        if not ending.is_training():
            return False
        ending.interrupt(signal_name)
        return True

    with orderly_stop(ask):
        try:
            yield
        finally:
            ending.over()


class Accountant(ray.tune.Callback):
    """Counter of what the trials in `folder` take; calls `end` when the budget is used up.

    `gpus` is the number of GPUs of one trial. Hours of wall time count from
    now, samples and GPU-hours from the start of the sweep.
    """

    def __init__(
        self, budget: Budget, gpus: float, folder: Path, end: Callable[[str], None]
    ) -> None:
        self._budget, self._gpus, self._folder, self._end = budget, gpus, folder, end
        self._start = time.monotonic()

    def used_up(self) -> str:
        """Name the bound of the budget that is used up; empty if none is."""
        samples, seconds = spent(self._folder)
        reached = self._budget.reached_by(
            samples=samples,
            gpu_hours=self._gpus * seconds / 3600,
            hours=(time.monotonic() - self._start) / 3600,
        )
        return f"{reached} is used up" if reached else ""

    def on_trial_result(self, *_: Any, **info: Any) -> None:
        """Check the budget after every epoch of a trial."""
        used_up = self.used_up()
        if used_up:
            self._end(used_up)


def spent(folder: Path) -> tuple[int, float]:
    """Add up the training samples and seconds of the trained runs in a folder so far."""
    journals = [Journal(path.parent) for path in folder.glob(f"*/{JOURNAL_NAME}")]
    runs = [last_of(journal) for journal in journals if not is_cut(journal)]
    return sum(samples for samples, _ in runs), sum(seconds for _, seconds in runs)
