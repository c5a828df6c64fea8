"""Several ranks that train in turns without Ray: one process that starts the others, and ends with them."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jobs.benchmark.overhead.sides import be_as_nice_as_ray
from jobs.benchmark.overhead.turns import Turns, TurnTrainer
from jobs.benchmark.scaling.exchange import measure_exchange
from jobs.benchmark.scaling.fit import is_apart
from pipeline.cluster.launch import task_of
from pipeline.run.plan import plan_training
from pipeline.settings import Settings
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.trainer import Task


class GroupTrainer(TurnTrainer):
    """A rank of several that exchanges gradients in every other step alone, and measures exchange by itself after a turn.

    So steps with and without it are timed side by side. The ranks' weights
    drift apart, which no clock notices.
    """

    def around(self, step: int) -> AbstractContextManager[None]:
        alone: Callable[[], AbstractContextManager[None]]
        alone = getattr(self.state.parallel, "no_sync", nullcontext)
        return alone() if is_apart(step) else nullcontext()

    def beside(self) -> dict[str, Any]:
        """Seconds of all-reduces; nothing where there is one rank."""
        if self.workers == 1:
            return {}
        parameters = sum(weight.numel() for weight in self.state.network.parameters())
        return {"exchange": measure_exchange(parameters, self.device)}


def train_together(settings: dict[str, Any], folder: Path) -> None:
    """Train with `ray.workers` ranks, of which this process is the first."""
    be_as_nice_as_ray()
    plan = plan_training(Settings.from_flat(settings))
    task = task_of(plan, plan.settings.ray.name)
    workers = plan.settings.ray.most_workers
    others = [
        get_context("spawn").Process(target=_follow, args=(task, rank, workers, folder))
        for rank in range(1, workers)
    ]
    for other in others:
        other.start()
    _train_rank(task, 0, workers, folder)
    for other in others:
        other.join()


def _follow(task: Task, rank: int, workers: int, folder: Path) -> None:
    # The first rank may be ended from outside, in the middle of an exchange.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _train_rank(task, rank, workers, folder)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train_rank(task: Task, rank: int, workers: int, folder: Path) -> None:
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    with ExitStack() as ending:
        if workers > 1:
            ending.enter_context(_meeting(device, rank, workers, folder / "meeting"))
        trainer = GroupTrainer(Turns(folder), task, rank, workers, device)
        checkpointer = ending.enter_context(Checkpointer(trainer, folder / "run"))
        train(trainer, checkpointer, LoopHooks(), task.label)


@contextmanager
def _meeting(device: torch.device, rank: int, workers: int, file: Path) -> Iterator[None]:
    """Connect the ranks through a file and over loopback, as a cluster of this machine alone does."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{file}",
        rank=rank,
        world_size=workers,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
