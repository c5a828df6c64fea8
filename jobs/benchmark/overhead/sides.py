"""The two sides of the comparison: the same loop over the same data, as Ray Train's worker and without Ray."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray.train.torch
import torch

from jobs.benchmark.overhead.side import Target
from jobs.benchmark.overhead.turns import Turns, TurnTrainer
from pipeline.cluster.launch import task_of, trainer
from pipeline.cluster.start import cluster
from pipeline.cluster.worker import RayHost, quieten_ray_train
from pipeline.run.plan import plan_training
from pipeline.settings import Settings
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.trainer import Task

# Ray's default for the processes of its workers (worker_niceness in its ray_config_def.h).
_NICENESS = 15


def train_plain(settings: dict[str, Any], folder: Path) -> None:
    """Train in this process."""
    be_as_nice_as_ray()
    plan = plan_training(Settings.from_flat(settings))
    trainer = TurnTrainer(Turns(folder), task_of(plan), 0, 1, torch.device("cpu"))
    with Checkpointer(trainer, folder / "run") as checkpointer:
        train(trainer, checkpointer, LoopHooks(), "plain")


def train_with_ray(settings: dict[str, Any], folder: Path) -> None:
    """Train as jobs.train does, with a cluster of its own; delivery to MLflow is another benchmark's."""
    plan = plan_training(Settings.from_flat(settings))
    with cluster("local"):
        loop = partial(train_in_turns, folder=folder)
        trainer(plan, task_of(plan, "Ray"), loop).fit()


def train_in_turns(task: dict[str, Any], folder: Path) -> None:
    """What each of Ray Train's workers runs."""
    quieten_ray_train()
    told, host, context = Task(**task), RayHost(), ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    trainer = TurnTrainer(Turns(folder), told, rank, workers, ray.train.torch.get_device())
    with Checkpointer(
        trainer, Path(told.folder), preemption_check_s=host.preemption_check_s
    ) as checkpointer:
        train(trainer, checkpointer, host, told.label)


def be_as_nice_as_ray() -> None:
    """Give way to other programs as Ray's workers do: otherwise whatever else the machine does would count as Ray's."""
    os.nice(int(os.environ.get("RAY_worker_niceness", _NICENESS)))  # noqa: SIM112  (the name is Ray's)


TARGETS: Mapping[str, Target] = {"plain": train_plain, "ray": train_with_ray}
