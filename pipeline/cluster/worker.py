"""The training loop as one Ray Train worker runs it."""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from pipeline.cluster.rendezvous import name_of_start
from pipeline.cluster.watchdog import Watchdog
from pipeline.data.shards.sample import BadSampleError
from pipeline.pose.shapes import Positions
from pipeline.run.checkpoint_manager import StorageError
from pipeline.run.provenance import equipment
from pipeline.run.system_metrics import Monitor
from pipeline.settings import Settings
from pipeline.training.bad_steps import BadStepsError
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.distributed import broadcast_text
from pipeline.training.loop import LoopHooks, train
from pipeline.training.probes import TRACE_FOLDER, ProgressMarker, StepTrace, no_trace, note_startup
from pipeline.training.trainer import Task, Trainer

# Notices that a node is to be taken away come 30 s ahead or more.
_ASK_EVERY_S = 5.0
# The logger by which Ray Train prints where in the program a worker failed.
_TRACEBACKS = "ray.train.v2._internal.util"


class RayHost(LoopHooks):
    """Ray Train, which hears of every epoch, and knows which of the cluster's nodes are to be drained."""

    def __init__(self) -> None:
        # On by default; off where the cluster is this machine.
        watches = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") not in ("0", "false")
        self.preemption_check_s = _ASK_EVERY_S if watches else 0.0

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hand an epoch's metrics on; its checkpoint is the checkpointer's, which a report would only copy."""
        ray.train.report(dict(metrics))

    def nodes_to_drain(self) -> Collection[str]:
        """Nodes that run ranks and are about to be taken away."""
        notice = ray.train.get_preemption_info()
        return () if notice is None else notice.preempted_node_ids


def train_worker(task: dict[str, Any]) -> None:
    """Train as one rank. `task` holds the fields of a `Task`. Ends early, with a checkpoint, when asked to."""
    note_startup("worker")
    quieten_ray_train()
    context = ray.train.get_context()
    told, host, marker = Task(**task), RayHost(), ProgressMarker()
    rank, workers, folder = context.get_world_rank(), context.get_world_size(), Path(told.folder)
    patience_s = 60 * Settings.from_flat(told.settings).ray.hang_minutes
    device = ray.train.torch.get_device()
    try:
        with (
            Watchdog(marker, folder, name_of_start(), rank, workers, patience_s),
            _trace(told, rank, workers, device) as stepped,
            Monitor(folder) if rank == 0 else nullcontext(),
        ):
            trainer = Trainer(told, rank, workers, device, marker, stepped)
            note_startup("trainer")
            with Checkpointer(
                trainer, folder, preemption_check_s=host.preemption_check_s
            ) as checkpointer:
                checkpointer.tag(equipment(device, workers))
                train(trainer, checkpointer, host, told.label)
    except (BadStepsError, BadSampleError, StorageError):
        # They say all there is to say; where in the program they arose is nobody's concern.
        logging.getLogger(_TRACEBACKS).disabled = True
        raise


def quieten_ray_train() -> None:
    """Keep Ray Train from printing every epoch's metrics from every rank."""
    # Some of its loggers hang from the root, past LoggingConfig.
    logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def _trace(
    told: Task, rank: int, workers: int, device: torch.device
) -> Iterator[Callable[[int, int, Positions], None]]:
    """Who notes this rank's steps: nobody, unless the environment says where to, as `jobs.chaos` does."""
    folder = os.environ.get(TRACE_FOLDER)
    if not folder:
        yield no_trace
        return
    group = broadcast_text(f"{time.time_ns()}-{os.getpid()}", workers, device)
    with StepTrace(Path(folder), Path(told.folder).name, group, rank, workers) as trace:
        yield trace.stepped
