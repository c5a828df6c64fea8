"""A trainer that waits for its round before each epoch and measures every step."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist

from jobs.benchmark.rounds.processes import RoundFiles, wait_until, write_json
from pipeline.cluster.launch import task_of, trainer
from pipeline.cluster.start import cluster
from pipeline.cluster.worker import RayHost, own_device, quieten_ray_train
from pipeline.run.plan import plan_training
from pipeline.settings import Settings
from pipeline.settings.ray import KEEP_MEMORY
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.distributed import Request
from pipeline.training.loop import train
from pipeline.training.trainer import StepReport, Task, Trainer

# The part of the environment that decides how fast a training process computes.
_DECISIVE = ("OMP_NUM_THREADS", *KEEP_MEMORY)


class RoundTrainer(Trainer):
    """A trainer that waits for its round before each epoch, and measures clock, CPU and waits."""

    def __init__(
        self, files: RoundFiles, task: Task, rank: int, workers: int, device: torch.device
    ) -> None:
        super().__init__(task, rank, workers, device)
        self._files = files

    def train_epoch(
        self, every_s: float, request: Callable[[], Request] = lambda: Request.NONE
    ) -> Iterator[StepReport]:
        """Train the epoch in its round; yield only its last report."""
        number, is_first = self.state.progress.epochs, self.rank == 0
        if is_first:
            write_json(self._files.ready(number), {"pid": os.getpid()})
            wait_until(self._files.go(number).exists)
        _barrier()
        ends, cpu_s, waited_s = [], [], []
        for report in self._steps(super().train_epoch(0.0, request)):
            ends.append(time.monotonic())
            cpu_s.append(time.process_time())
            elapsed = report.step * self.settings.optim.batch_size / report.samples_per_s
            waited_s.append(report.input_wait_share * elapsed)
            last = report
        more = self.measure_more()
        if is_first:
            measured = {"ends": ends, "cpu_s": cpu_s, "waited_s": waited_s}
            write_json(self._files.done(number), measured | {"conditions": conditions()} | more)
        yield last

    def _steps(self, reports: Iterator[StepReport]) -> Iterator[StepReport]:
        for step in itertools.count():
            with self.around(step):
                report = next(reports, None)
            if report is None:
                return
            # A step has ended when it has on all ranks.
            _barrier()
            yield report

    def around(self, step: int) -> AbstractContextManager[None]:
        """Return the context of a step of the round, counted from 0."""
        return nullcontext()

    def measure_more(self) -> dict[str, Any]:
        """Measure something else at the end of a round; every rank calls it."""
        return {}


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def conditions() -> dict[str, Any]:
    """Return what decides the speed of this process."""
    return {
        "nice": os.nice(0),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "environment": {name: os.environ.get(name) for name in _DECISIVE},
    }


def train_with_ray(settings: dict[str, Any], folder: Path) -> None:
    """Train in rounds as jobs.train does, on a cluster started here, without MLflow."""
    plan = plan_training(Settings.from_flat(settings))
    with cluster("local"):
        loop = partial(_train_worker, folder=folder)
        trainer(plan, task_of(plan, "Ray"), loop).fit()


def _train_worker(fields: dict[str, Any], folder: Path) -> None:
    quieten_ray_train()
    task, host, context = Task(**fields), RayHost(), ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    worker = RoundTrainer(RoundFiles(folder), task, rank, workers, own_device())
    with Checkpointer(
        worker, Path(task.folder), preemption_check_s=host.preemption_check_s
    ) as checkpointer:
        train(worker, checkpointer, host, task.label)
