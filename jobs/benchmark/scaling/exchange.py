"""What an all-reduce takes by itself, while the ranks do nothing else."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from jobs.benchmark.scaling.model import buckets
from jobs.benchmark.step.variants import synchronize

# From what a hop decides to what the bandwidth decides.
SIZES = tuple(2**power for power in range(10, 27, 2))
_REPEATS = 5


def measure_exchange(parameters: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of all-reduces: of the gradients of so many parameters as DDP cuts them, and by bytes.

    Every rank must call it.
    """
    return {
        "buckets_s": _median_s(buckets(parameters), device),
        "by_bytes_s": {size: _median_s([size], device) for size in SIZES},
    }


def _median_s(sizes: Sequence[int], device: torch.device) -> float:
    pieces = [torch.zeros(size // 4, device=device) for size in sizes]
    # The first one does not count.
    return statistics.median([_seconds(pieces, device) for _ in range(1 + _REPEATS)][1:])


def _seconds(pieces: Sequence[torch.Tensor], device: torch.device) -> float:
    dist.barrier()
    synchronize(device)
    start = time.perf_counter()
    # One after another, all of them on their way, as DDP sends its buckets.
    under_way = [dist.all_reduce(piece, async_op=True) for piece in pieces]
    for work in under_way:
        work.wait()
    synchronize(device)
    return time.perf_counter() - start
