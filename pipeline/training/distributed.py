"""What the ranks of a run do together: one gradient, one set of statistics, one total."""

import warnings
from collections.abc import Sequence
from enum import IntFlag

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.metrics import JointCounts
from pipeline.evaluation.per_person import PersonResults
from pipeline.pose.shapes import Float


def parallel(network: nn.Module, device: torch.device, *, sync_batchnorm: bool) -> nn.Module:
    """Wrap the network for training together; a worker that is alone gets it back as it is.

    With `sync_batchnorm` its norms become synchronised ones in place, with the same weights.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return network
    if sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    with warnings.catch_warnings():
        # Its successor is unknown to older torch, and still broadcasts at the start.
        warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def all_reduce_sum(value: Tensor, workers: int) -> float:
    """Sum of every rank's value; every rank must call it."""
    if workers > 1:
        dist.all_reduce(value)
    return float(value)


def broadcast_text(value: str, workers: int, device: torch.device) -> str:
    """Rank 0's value, on every rank; every rank must call it."""
    box = [value]
    if workers > 1:
        dist.broadcast_object_list(box, src=0, device=device)
    return box[0]


def gather_texts(value: str, workers: int, device: torch.device) -> list[str]:
    """Every rank's value, in order, on every rank; every rank must call it."""
    told = []
    for rank in range(workers):
        box = [value]
        if workers > 1:
            dist.broadcast_object_list(box, src=rank, device=device)
        told.append(box[0])
    return told


def gather_rows(row: Float[Tensor, " value"], workers: int) -> Float[Tensor, "rank value"]:
    """Every rank's row, on every rank; every rank must call it."""
    rows = [torch.empty_like(row) for _ in range(workers)]
    if workers > 1:
        dist.all_gather(rows, row)
        return torch.stack(rows)
    return row[None]


def average_statistics(network: nn.Module, workers: int) -> None:
    """Give every rank the mean of all ranks' BatchNorm statistics.

    Each rank's own have seen its own samples only; broadcasting one rank's
    at every step, as DDP would, waits for the slowest and uses less data.
    """
    if workers > 1:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= workers


def total_evaluation(mine: Evaluation, device: torch.device, workers: int) -> Evaluation:
    """Add up every rank's evaluation; every rank gets the total and must call it."""
    if workers == 1:
        return mine
    # Counts stay whole numbers below 2**53, which float64 adds exactly.
    flat = [array for c in mine.counts.values() for array in (c.correct, c.annotated)]
    packed = np.concatenate([a.ravel() for a in flat] + [[mine.loss_sum, mine.people, mine.flat]])
    together = torch.from_numpy(packed.astype(np.float64)).to(device)
    dist.all_reduce(together)
    return _unpack(together.cpu().numpy(), mine)


def _unpack(all_reduce_sum: np.ndarray, like: Evaluation) -> Evaluation:
    counts, start = {}, 0
    for key, theirs in like.counts.items():
        middle = start + theirs.correct.size
        end = middle + theirs.annotated.size
        counts[key] = JointCounts(
            correct=all_reduce_sum[start:middle].reshape(theirs.correct.shape).astype(np.int64),
            annotated=all_reduce_sum[middle:end].astype(np.int64),
        )
        start = end
    loss_sum, people, flat = all_reduce_sum[-3:].tolist()
    return Evaluation(counts=counts, loss_sum=loss_sum, people=int(people), flat=int(flat))


def all_results(
    mine: PersonResults, everybody: Sequence[str], device: torch.device, workers: int
) -> PersonResults:
    """The cases of every rank in the order of their keys; every rank gets them and must call it.

    `everybody` are the keys of all samples by position, each on one rank at the most.
    """
    if workers == 1:
        return mine.by_key()
    columns = [mine.joints[..., 0], mine.joints[..., 1], *mine.errors.values()]
    heads = np.stack([np.ones(len(mine), np.uint32), mine.truths.astype(np.uint32)], axis=1)
    # As whole numbers: zeros added to them leave the bits of any float, NaN and all, as they are.
    bits = np.concatenate([part.view(np.int32) for part in (heads, np.concatenate(columns, 1))], 1)
    together = torch.zeros(len(everybody), bits.shape[1], dtype=torch.int32)
    together[torch.from_numpy(mine.positions)] = torch.from_numpy(bits)
    together = together.to(device)
    dist.all_reduce(together)
    found = together.cpu().numpy()
    positions = np.flatnonzero(found[:, 0])
    rows = np.ascontiguousarray(found[positions, 2:]).view(np.float32)
    x, y, *errors = np.split(rows, len(columns), axis=1)
    return PersonResults(
        keys=tuple(everybody[position] for position in positions.tolist()),
        positions=positions,
        truths=found[positions, 1].view(np.uint32).astype(np.int64),
        joints=np.stack([x, y], axis=-1),
        errors=dict(zip(mine.errors, errors, strict=True)),
    ).by_key()


class Request(IntFlag):
    """What all ranks do together after a step."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2
    # Ask the cluster whether a node is about to be taken away, which all ranks must do together.
    ASK = 4


class RequestSync:
    """Brings the requests of all ranks together, a step after they were made, and never holds a step up.

    Every rank must call `after_step` after each of its steps.
    """

    def __init__(self, workers: int) -> None:
        # Gloo's threads carry a few bytes while the network computes; NCCL would wait for its kernels.
        self._group = dist.new_group(backend="gloo") if workers > 1 else None
        self._asked: torch.Tensor | None = None
        self._sent: dist.Work | None = None

    def after_step(self, request: Request) -> Request:
        """Send this rank's request; return what any rank requested a step ago, the same on every rank."""
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
