"""Turns of processes that all stay alive, handed over through files."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.settings.ray import KEEP_MEMORY
from pipeline.training.distributed import Request
from pipeline.training.trainer import StepReport, Task, Trainer

_POLL_S = 0.01
# Of the environment, what decides how fast a training process computes.
_DECISIVE = ("OMP_NUM_THREADS", *KEEP_MEMORY)


class Turns:
    """The files of one side: `ready-N.json`, `go-N` and `done-N.json` for turn N."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ready(self, turn: int) -> Path:
        """There, with the number of the process that trains, once the side waits for the turn."""
        return self._folder / f"ready-{turn}.json"

    def go(self, turn: int) -> Path:
        """There once the side may take it."""
        return self._folder / f"go-{turn}"

    def done(self, turn: int) -> Path:
        """There, with what was measured, once the side has taken it."""
        return self._folder / f"done-{turn}.json"


class TurnTrainer(Trainer):
    """A trainer that waits for its turn before each epoch, and notes clock, CPU time and waits for samples after every step.

    Of several ranks the first has the turns, and the others wait for it.
    """

    def __init__(
        self, turns: Turns, task: Task, rank: int, workers: int, device: torch.device
    ) -> None:
        super().__init__(task, rank, workers, device)
        self._turns = turns

    def train_epoch(
        self, every_s: float, request: Callable[[], Request] = lambda: Request.NONE
    ) -> Iterator[StepReport]:
        """Train the epoch in its turn; report at its end alone."""
        turn, is_first = self.state.progress.epochs, self.rank == 0
        if is_first:
            write(self._turns.ready(turn), {"pid": os.getpid()})
            wait_until(self._turns.go(turn).exists)
        _meet()
        ends, cpu_s, waited_s = [], [], []
        for report in self._steps(super().train_epoch(0.0, request)):
            ends.append(time.monotonic())
            cpu_s.append(time.process_time())
            elapsed = report.step * self.settings.optim.batch_size / report.samples_per_s
            waited_s.append(report.input_wait_share * elapsed)
            last = report
        beside = self.beside()
        if is_first:
            measured = {"ends": ends, "cpu_s": cpu_s, "waited_s": waited_s}
            write(self._turns.done(turn), measured | {"conditions": conditions()} | beside)
        yield last

    def _steps(self, reports: Iterator[StepReport]) -> Iterator[StepReport]:
        for step in itertools.count():
            with self.around(step):
                report = next(reports, None)
            if report is None:
                return
            # A step has ended when it has for all ranks.
            _meet()
            yield report

    def around(self, step: int) -> AbstractContextManager[None]:
        """What a turn's step, counted from 0, is taken within."""
        return nullcontext()

    def beside(self) -> dict[str, Any]:
        """Measure something else at the end of a turn; every rank calls it."""
        return {}


def _meet() -> None:
    """Wait until every rank is here; one that is alone does not wait."""
    if dist.is_initialized():
        dist.barrier()


def conditions() -> dict[str, Any]:
    """What of this process decides its speed."""
    return {
        "nice": os.nice(0),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "environment": {name: os.environ.get(name) for name in _DECISIVE},
    }


def wait_until(is_so: Callable[[], bool], limit_s: float = 600.0) -> None:
    """Look again and again. Raises TimeoutError past the limit."""
    end = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"the other side of the benchmark kept silent for {limit_s:g} s")
        time.sleep(_POLL_S)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that nobody sees half of it."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(content))
    aside.replace(path)
