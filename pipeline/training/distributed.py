"""Collectives of a run's ranks: gradients, statistics, results of an evaluation, requests."""

import warnings
from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.pose.shapes import Float

Value = TypeVar("Value")


def parallel(network: nn.Module, device: torch.device, *, sync_batchnorm: bool) -> nn.Module:
    """Wrap the network in DDP; a single worker gets it back unchanged.

    `sync_batchnorm` replaces BatchNorm layers by SyncBatchNorm in place, with the same weights.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return network
    if sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    with warnings.catch_warnings():
        # Its successor does not exist in older torch, and still broadcasts at the start.
        warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def all_reduce_sum(value: Tensor, workers: int) -> float:
    """Return the sum of every rank's value. Every rank must call it."""
    if workers > 1:
        dist.all_reduce(value)
    return float(value)


def start_sum(value: Tensor, workers: int) -> Callable[[], Tensor]:
    """Start summing every rank's value in place; return a function that waits for the sum.

    Every rank must call it.
    """
    work = dist.all_reduce(value, async_op=True) if workers > 1 else None

    def summed() -> Tensor:
        if work is not None:
            work.wait()
        return value

    return summed


def broadcast(value: Value, workers: int, device: torch.device, source: int = 0) -> Value:
    """Return the value of rank `source` on every rank. Every rank must call it."""
    box = [value]
    if workers > 1:
        dist.broadcast_object_list(box, src=source, device=device)
    return box[0]


def gather(value: Value, workers: int, device: torch.device) -> list[Value]:
    """Return every rank's value, in order of ranks. Every rank must call it."""
    return [broadcast(value, workers, device, rank) for rank in range(workers)]


def gather_rows(row: Float[Tensor, " value"], workers: int) -> Float[Tensor, "rank value"]:
    """Return every rank's row, in order of ranks. Every rank must call it."""
    if workers == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(workers)]
    dist.all_gather(rows, row)
    return torch.stack(rows)


def all_reduce_mean(tensors: Sequence[Tensor], workers: int) -> None:
    """Replace each tensor by its mean over the ranks, in place. Every rank must call it."""
    if workers > 1 and tensors:
        # One collective for all: hundreds of small ones take as long as their latencies.
        row = torch.cat([tensor.ravel() for tensor in tensors])
        dist.all_reduce(row)
        spread(row / workers, tensors)


def spread(row: Float[Tensor, " value"], tensors: Sequence[Tensor]) -> None:
    """Copy consecutive pieces of a row into tensors."""
    pieces = row.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


class Request(IntFlag):
    """An action that all ranks take together after a step."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2
    # Ask the cluster for preemption notices, which all ranks must do together.
    ASK = 4


class RequestSync:
    """Combines the requests of all ranks one step later, so that no step waits for it.

    Every rank must call `after_step` after each of its steps.
    """

    def __init__(self, workers: int) -> None:
        # Gloo's threads send a few bytes while the network computes; NCCL would wait for kernels.
        self._group = dist.new_group(backend="gloo") if workers > 1 else None
        self._asked: torch.Tensor | None = None
        self._sent: dist.Work | None = None

    def after_step(self, request: Request) -> Request:
        """Send this rank's request; return the requests of all ranks one step ago."""
        if self._group is None:
            return request
        agreed = Request.NONE
        if self._sent is not None and self._asked is not None:
            self._sent.wait()
            agreed = Request(int(self._asked))
        self._asked = torch.tensor(int(request))
        self._sent = dist.all_reduce(
            self._asked, op=dist.ReduceOp.BOR, group=self._group, async_op=True
        )
        return agreed
