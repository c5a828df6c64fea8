"""The training loop as one Ray Train worker runs it."""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from pipeline.cluster.heartbeats import remove_heartbeats
from pipeline.cluster.ray_private import TRACEBACKS
from pipeline.cluster.watchdog import Watchdog
from pipeline.data.shards.sample import BadSampleError
from pipeline.pose.shapes import Positions
from pipeline.run.layout import LostError, StorageError
from pipeline.run.ownership import Owner, SupersededError, Writer
from pipeline.run.provenance import equipment
from pipeline.run.storage import fetch_patiently, folder_here, working
from pipeline.run.system_metrics import Monitor
from pipeline.settings import Settings
from pipeline.training.bad_steps import BadStepsError
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.distributed import broadcast
from pipeline.training.loop import LoopHooks, train
from pipeline.training.probes import TRACE_FOLDER, ProgressMarker, StepTrace, no_trace, note_startup
from pipeline.training.trainer import Task, Trainer

# Preemption notices come at least 30 s ahead.
_PREEMPTION_CHECK_S = 5.0


class RayHost(LoopHooks):
    """The loop's hooks on Ray Train: reports of epochs, and preemption notices."""

    def __init__(self) -> None:
        # On by default; off where the cluster is this machine.
        watches = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") not in ("0", "false")
        self.preemption_check_s = _PREEMPTION_CHECK_S if watches else 0.0

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report an epoch's metrics; a checkpoint in the report would only be copied."""
        ray.train.report(dict(metrics))

    def nodes_to_drain(self) -> Collection[str]:
        """Return the nodes that run ranks and are about to be preempted."""
        notice = ray.train.get_preemption_info()
        return () if notice is None else notice.preempted_node_ids


def train_worker(fields: dict[str, Any]) -> None:
    """Train as one rank on a `Task` with these fields; end early, with a checkpoint, on request."""
    note_startup("worker")
    quieten_ray_train()
    context = ray.train.get_context()
    task, host, marker = Task(**fields), RayHost(), ProgressMarker()
    rank, workers = context.get_world_rank(), context.get_world_size()
    settings = Settings.from_flat(task.settings).ray
    folder, patience_s = folder_here(settings, task.folder), 60 * settings.hang_minutes
    device, owner = own_device(), Owner(**task.owner)
    # Of the ranks, the first writes. The others share its generation.
    first: AbstractContextManager[Writer | None] = nullcontext()
    if rank == 0:
        first = working(settings, folder, owner)
    try:
        with first as writer:
            generation = int(broadcast(str(writer.check()) if writer else "", workers, device))
            if writer is not None:
                remove_heartbeats(folder, before=generation)
            else:
                fetch_patiently(settings)
            with (
                Watchdog(marker, folder, generation, rank, workers, patience_s),
                _trace(folder.name, rank, workers, device) as stepped,
                nullcontext() if writer is None else Monitor(folder, writer),
            ):
                trainer = Trainer(task, rank, workers, device, marker, stepped)
                note_startup("trainer")
                with Checkpointer(
                    trainer, folder, writer=writer, preemption_check_s=host.preemption_check_s
                ) as checkpointer:
                    checkpointer.tag(equipment(device, workers, trainer.settings))
                    train(trainer, checkpointer, host, task.label, task.line_every_s)
    except (BadStepsError, BadSampleError, StorageError, SupersededError, LostError):
        # Their messages are complete; a stack would only hide them.
        logging.getLogger(TRACEBACKS).disabled = True
        raise


def own_device() -> torch.device:
    """Return the device that Ray gave this rank, which becomes the process's default device."""
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def quieten_ray_train() -> None:
    """Keep Ray Train from printing every epoch's metrics from every rank."""
    # Some of its loggers inherit their level from the root, not from LoggingConfig.
    logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def _trace(
    run: str, rank: int, workers: int, device: torch.device
) -> Iterator[Callable[[int, int, Positions], None]]:
    """Yield a function that traces this rank's steps, a no-op unless TRACE_FOLDER is set."""
    folder = os.environ.get(TRACE_FOLDER)
    if not folder:
        yield no_trace
        return
    group = broadcast(f"{time.time_ns()}-{os.getpid()}", workers, device)
    with StepTrace(Path(folder), run, group, rank, workers) as trace:
        yield trace.stepped
