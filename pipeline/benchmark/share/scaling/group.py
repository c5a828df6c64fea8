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

from pipeline.benchmark.share.scaling.exchange import measure_exchange
from pipeline.benchmark.share.sides import be_as_nice_as_ray
from pipeline.benchmark.share.turns import TurnLearner, Turns
from pipeline.keeper import Keeper
from pipeline.launch import task_of
from pipeline.learner import StepReport, Task
from pipeline.loop import Host, train
from pipeline.plan import plan_training
from pipeline.settings import Settings
from pipeline.signals import Signal


class TogetherLearner(TurnLearner):
    """A rank that trains with others, and at the end of a turn measures what exchanging bytes with them takes alone."""

    def beside(self) -> dict[str, Any]:
        """Seconds of all-reduces; nothing where there is one rank."""
        if self.workers == 1:
            return {}
        parameters = sum(weight.numel() for weight in self.network.parameters())
        return {"exchange": measure_exchange(parameters, self.device)}


class ApartLearner(TurnLearner):
    """A rank that takes the same steps beside others, keeping its gradients to itself."""

    def train_epoch(
        self, every_s: float, wish: Callable[[], Signal] = lambda: Signal.NONE
    ) -> Iterator[StepReport]:
        with self._apart():
            yield from super().train_epoch(every_s, wish)

    def _apart(self) -> AbstractContextManager[None]:
        alone: AbstractContextManager[None] = getattr(
            self._trainee.parallel, "no_sync", nullcontext
        )()
        return alone


def train_together(settings: dict[str, Any], folder: Path) -> None:
    """Train with `ray.workers` ranks, of which this process is the first."""
    _train_group(TogetherLearner, settings, folder)


def train_apart(settings: dict[str, Any], folder: Path) -> None:
    """Train as `train_together` does, but exchange no gradients."""
    _train_group(ApartLearner, settings, folder)


def _train_group(learner: type[TurnLearner], settings: dict[str, Any], folder: Path) -> None:
    be_as_nice_as_ray()
    plan = plan_training(Settings.from_flat(settings))
    task = task_of(plan)
    workers = plan.settings.ray.most_workers
    others = [
        get_context("spawn").Process(target=_follow, args=(learner, task, rank, workers, folder))
        for rank in range(1, workers)
    ]
    for other in others:
        other.start()
    _train_rank(learner, task, 0, workers, folder)
    for other in others:
        other.join()


def _follow(learner: type[TurnLearner], task: Task, rank: int, workers: int, folder: Path) -> None:
    # The first rank may be ended from outside, in the middle of an exchange.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _train_rank(learner, task, rank, workers, folder)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train_rank(kind: type[TurnLearner], task: Task, rank: int, workers: int, folder: Path) -> None:
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    with ExitStack() as ending:
        if workers > 1:
            ending.enter_context(_meeting(device, rank, workers, folder / "meeting"))
        learner = kind(Turns(folder), task, rank, workers, device)
        keeper = ending.enter_context(Keeper(learner, folder / "run"))
        train(learner, keeper, Host(), "plain")


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
