"""Trainers of tiny networks, alone or one of several."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from factories import pack_samples, samples

from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import write_checkpoint
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.ownership import Writer
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.trainer import Task, Trainer

CPU = torch.device("cpu")
# A network that learns within some steps of two samples, in float32.
SMALL = {
    "model.features": 8,
    "model.input_px": 64,
    "optim.optimizer": "adamw",
    "optim.learning_rate": 1e-2,
    "optim.target_peak": 10.0,
    "optim.precision": "fp32",
    "optim.batch_size": 2,
}


def task_of(train: list[Path], val: list[Path], **changes) -> Task:
    """A tiny network in float32, without augmentation, two samples a step."""
    settings = {
        "data.scale_jitter": 0.0,
        "data.rotation_deg": 0.0,
        "data.flip_share": 0.0,
        "data.color_jitter": 0.0,
        "model.stacks": 1,
        "model.joints": 16,
        "optim.epochs": 3,
        "evaluation.batch_size": 2,
    }
    return Task(
        settings=SMALL | settings | changes,
        joint_set=MPII.to_json(),
        train=tuple(map(str, train)),
        val=tuple(map(str, val)),
    )


def alone(task: Task) -> Trainer:
    return Trainer(task, 0, 1, CPU)


def train_alone(task: Task, folder: Path, writer: Writer | None = None) -> None:
    """Train to the end as the only rank, with checkpoints in a run's folder."""
    trainer = alone(task)
    with Checkpointer(trainer, folder, writer=writer) as checkpointer:
        train(trainer, checkpointer, LoopHooks())


def save(trainer: Trainer, folder: Path, metrics: dict[str, float]) -> None:
    write_checkpoint(folder, trainer.state.snapshot(metrics))


def start_ranks(function: Callable[..., None], arguments: tuple[Any, ...], ranks: int) -> None:
    """Run `function(rank, *arguments)` as every rank, each in a process of its own.

    The processes are forked from one that has loaded torch and a trainer, and that this process
    keeps: loading takes longer than most trainings here. Raises what torch's `spawn` raises.
    """
    # DDP and the optimizers would load torch._dynamo, each rank for itself.
    multiprocessing.set_forkserver_preload(["torch._dynamo", "pipeline.training.checkpointing"])
    torch.multiprocessing.start_processes(
        function, arguments, nprocs=ranks, start_method="forkserver"
    )


EPOCHS = 3


def eventful_task(folder: Path, workers: int) -> Task:
    """Three epochs of five steps with all kinds of state: average, warm-up, plateau."""
    people = samples(11)
    shards = pack_samples(folder / "train", [people[:4], people[4:5], people[5:]])
    val = pack_samples(folder / "val", [samples(5, first=20)], split="val")
    settings = {
        "data.rotation_deg": 30.0,
        "data.flip_share": 0.5,
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 3,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.optimizer": "adamw",
        "optim.learning_rate": 1e-3,
        "optim.schedule": "plateau",
        "optim.patience": 1,
        "optim.warmup_samples": 6,
        "optim.ema_samples": 20,
        "optim.precision": "fp32",
        "optim.batch_size": 2,
        "optim.epochs": EPOCHS,
        "evaluation.batch_size": 2,
        "evaluation.overlays": 1,
        "ray.workers": workers,
        "ray.checkpoint_steps": 2,
        "ray.checkpoint_minutes": 0.0,
    }
    return Task(
        settings=settings,
        joint_set=MPII.to_json(),
        train=tuple(map(str, shards)),
        val=tuple(map(str, val)),
    )


def kept(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]
