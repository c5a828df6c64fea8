"""The training loop as one Ray Train worker runs it."""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from pipeline.keeper import Keeper
from pipeline.learner import Learner, Task
from pipeline.loop import Host, train
from pipeline.ranks import from_first
from pipeline.shards.order import Positions
from pipeline.witness import WITNESS_FOLDER, Witness, unwitnessed

# Notices that a node is to be taken away come 30 s ahead or more.
_ASK_EVERY_S = 5.0


class RayHost(Host):
    """Ray Train, which hears of every epoch, and knows which of the cluster's nodes are to be drained."""

    def __init__(self) -> None:
        # On by default; off where the cluster is this machine.
        watches = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") not in ("0", "false")
        self.asks_every_s = _ASK_EVERY_S if watches else 0.0

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hand an epoch's metrics on; its checkpoint is the keeper's, which a report would only copy."""
        ray.train.report(dict(metrics))

    def going_nodes(self) -> Collection[str]:
        """Nodes that run ranks and are about to be taken away."""
        notice = ray.train.get_preemption_info()
        return () if notice is None else notice.preempted_node_ids


def train_worker(task: dict[str, Any]) -> None:
    """Train as one rank. `task` holds the fields of a `Task`. Ends early, with a checkpoint, when asked to."""
    # Some of Ray Train's loggers hang from the root, past LoggingConfig, and would
    # print every epoch's metrics from every rank.
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.train.get_context()
    told, host = Task(**task), RayHost()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    with _witness(told, rank, workers, device) as stepped:
        learner = Learner(told, rank, workers, device, stepped)
        with Keeper(learner, Path(told.folder), ask_every_s=host.asks_every_s) as keeper:
            train(learner, keeper, host, told.label)


@contextmanager
def _witness(
    told: Task, rank: int, workers: int, device: torch.device
) -> Iterator[Callable[[int, int, Positions], None]]:
    """Who notes this rank's steps: nobody, unless the environment says where to, as `jobs.chaos` does."""
    folder = os.environ.get(WITNESS_FOLDER)
    if not folder:
        yield unwitnessed
        return
    group = from_first(f"{time.time_ns()}-{os.getpid()}", workers, device)
    with Witness(Path(folder), Path(told.folder).name, group, rank, workers) as witness:
        yield witness.stepped
