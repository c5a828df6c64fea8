"""The two sides of the comparison: the same loop over the same data, as Ray Train's worker and without Ray."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import ray.train.torch
import torch

from pipeline.benchmark.share.processes import family_cpu_s, stopped
from pipeline.benchmark.share.turns import TurnLearner, Turns
from pipeline.benchmark.timing import environment
from pipeline.cluster import cluster
from pipeline.keeper import Keeper
from pipeline.launch import task_of, trainer
from pipeline.learner import Task
from pipeline.loop import Host, train
from pipeline.plan import plan_training
from pipeline.recording import recording
from pipeline.settings import Settings
from pipeline.training import KEEP_MEMORY
from pipeline.worker import RayHost, quieten_ray_train

SIDES = ("plain", "ray")
# Ray's default for the processes of its workers (RAY_CONFIG worker_niceness in its ray_config_def.h).
_NICENESS = 15


class Side:
    """A process that trains in turns, alive until its epochs are over."""

    def __init__(self, name: str, settings: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        self.name, self.turns = name, Turns(folder)
        target = {"plain": train_plain, "ray": train_with_ray}[name]
        # Ray Train's workers are given it by their trainer.
        with environment(KEEP_MEMORY if name == "plain" else {}):
            self.process: BaseProcess = get_context("spawn").Process(
                target=target, args=(settings, folder), name=name
            )
            self.process.start()

    def is_ready(self, turn: int) -> bool:
        """Whether it waits for the turn. Raises RuntimeError if it has failed."""
        self.check()
        return self.turns.ready(turn).exists()

    def is_done(self, turn: int) -> bool:
        """Whether it has taken the turn. Raises RuntimeError if it has failed."""
        self.check()
        return self.turns.done(turn).exists()

    def has_ended(self) -> bool:
        """Whether it has ended well. Raises RuntimeError if it has failed."""
        self.check()
        return self.process.exitcode == 0

    def others_cpu_s(self, turn: int) -> float:
        """CPU seconds so far of all its processes but the one that trains, which waits for the turn or takes it."""
        trains = json.loads(self.turns.ready(turn).read_text())["pid"]
        return family_cpu_s(self.pid, but=trains)

    @property
    def pid(self) -> int:
        """Number of the process that started all others."""
        assert self.process.pid is not None
        return self.process.pid

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop it for the duration, with all the processes that it has started."""
        with stopped(self.pid) if self.process.is_alive() else nullcontext():
            yield

    def check(self) -> None:
        """Raise RuntimeError if the process has failed, which has said why."""
        if self.process.exitcode:
            raise RuntimeError(f"the {self.name} side ended with status {self.process.exitcode}")


def train_plain(settings: dict[str, Any], folder: Path) -> None:
    """Train in this process."""
    # As Ray's workers are: otherwise whatever else the machine does would count as Ray's.
    os.nice(int(os.environ.get("RAY_worker_niceness", _NICENESS)))  # noqa: SIM112  (the name is Ray's)
    plan = plan_training(Settings.from_flat(settings))
    learner = TurnLearner(Turns(folder), task_of(plan), 0, 1, torch.device("cpu"))
    with Keeper(learner, folder / "run") as keeper:
        train(learner, keeper, Host(), "plain")


def train_with_ray(settings: dict[str, Any], folder: Path) -> None:
    """Train as jobs.train does, with a cluster of its own."""
    plan = plan_training(Settings.from_flat(settings))
    with recording(plan) as record, cluster("local"):
        record.begin()
        loop = partial(train_in_turns, folder=folder)
        trainer(plan, task_of(plan, "Ray"), loop).fit()


def train_in_turns(task: dict[str, Any], folder: Path) -> None:
    """What Ray Train's one worker runs."""
    quieten_ray_train()
    told, host = Task(**task), RayHost()
    learner = TurnLearner(Turns(folder), told, 0, 1, ray.train.torch.get_device())
    with Keeper(learner, Path(told.folder), ask_every_s=host.asks_every_s) as keeper:
        train(learner, keeper, host, told.label)
