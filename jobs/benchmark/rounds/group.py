"""Ranks that train in rounds without Ray: one process starts the others and ends with them."""

import os
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jobs.benchmark.rounds.processes import RoundFiles
from jobs.benchmark.rounds.trainer import RoundTrainer
from jobs.benchmark.scaling.model import GRADIENT_BYTES
from jobs.benchmark.step.variants import synchronize
from pipeline.cluster.launch import task_of
from pipeline.run.plan import plan_training
from pipeline.settings import Settings
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.step import without_exchange
from pipeline.training.trainer import Task

# DDP's defaults: a small first bucket, so that the exchange begins early, then larger ones.
_FIRST_BUCKET_BYTES, _BUCKET_BYTES = 2**20, 25 * 2**20
# Ray's default for the processes of its workers (worker_niceness in its ray_config_def.h).
_NICENESS = 15
# Bytes of all-reduces, from those that latency decides to those that bandwidth decides.
SIZES = tuple(2**power for power in range(10, 27, 2))
_REPEATS = 5


def is_local(step: int) -> bool:
    """Whether ranks without Ray keep their gradients to themselves in this step of a round."""
    return step % 2 == 1


class GroupTrainer(RoundTrainer):
    """A rank that exchanges gradients only in every other step, so both kinds are timed.

    The ranks' weights drift apart, which does not change the times. After a
    round it times all-reduces alone.
    """

    def around(self, step: int) -> AbstractContextManager[None]:
        return without_exchange(self.state.parallel) if is_local(step) else nullcontext()

    def measure_more(self) -> dict[str, Any]:
        """Return the seconds of all-reduces; nothing where there is one rank."""
        if self.workers == 1:
            return {}
        parameters = sum(weight.numel() for weight in self.state.network.parameters())
        by_bytes = {size: _all_reduce_s([size], self.device) for size in SIZES}
        buckets_s = _all_reduce_s(buckets(parameters), self.device)
        return {"exchange": {"buckets_s": buckets_s, "by_bytes_s": by_bytes}}


def buckets(parameters: int) -> list[int]:
    """Return the bytes of the buckets in which DDP exchanges gradients."""
    left = parameters * GRADIENT_BYTES
    found = [min(left, _FIRST_BUCKET_BYTES)]
    while left := left - found[-1]:
        found.append(min(left, _BUCKET_BYTES))
    return found


def _all_reduce_s(sizes: Sequence[int], device: torch.device) -> float:
    """Return the median seconds of all-reduces of that many bytes, queued at once."""
    pieces = [torch.zeros(size // 4, device=device) for size in sizes]
    seconds = []
    for _ in range(1 + _REPEATS):
        dist.barrier()
        synchronize(device)
        start = time.perf_counter()
        # Queued one after another, as DDP sends its buckets.
        for work in [dist.all_reduce(piece, async_op=True) for piece in pieces]:
            work.wait()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    # The first one is a warm-up.
    return statistics.median(seconds[1:])


def train_without_ray(settings: dict[str, Any], folder: Path) -> None:
    """Train with `ray.workers` ranks, of which this process is the first."""
    # As nice as Ray's workers: otherwise other programs would slow those only.
    os.nice(int(os.environ.get("RAY_worker_niceness", _NICENESS)))  # noqa: SIM112  (Ray's name)
    plan = plan_training(Settings.from_flat(settings))
    task, workers = task_of(plan, plan.settings.ray.name), plan.settings.ray.most_workers
    on_gpu = plan.settings.ray.gpus_per_worker > 0
    others = [
        get_context("spawn").Process(target=_follow, args=(task, rank, workers, folder, on_gpu))
        for rank in range(1, workers)
    ]
    for other in others:
        other.start()
    _train_rank(task, 0, workers, folder, on_gpu)
    for other in others:
        other.join()


def _follow(task: Task, rank: int, workers: int, folder: Path, on_gpu: bool) -> None:
    # The first rank may be ended from outside in the middle of an exchange.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _train_rank(task, rank, workers, folder, on_gpu)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train_rank(task: Task, rank: int, workers: int, folder: Path, on_gpu: bool) -> None:
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    with ExitStack() as ending:
        if workers > 1:
            _join_group(device, rank, workers, folder / "rendezvous")
            ending.callback(dist.destroy_process_group)
        trainer = GroupTrainer(RoundFiles(folder), task, rank, workers, device)
        checkpointer = ending.enter_context(Checkpointer(trainer, folder / "run"))
        train(trainer, checkpointer, LoopHooks(), task.label)


def _join_group(device: torch.device, rank: int, workers: int, file: Path) -> None:
    """Connect the ranks through a file and over loopback, as a cluster of this machine does."""
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
