"""What a cluster of GPUs would give: arithmetic on what was measured here and on stated assumptions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.model.cost import Cost

# DDP's defaults: a small bucket first, so that the exchange begins early; then of so many bytes at most.
_FIRST_BUCKET_BYTES, _BUCKET_BYTES = 2**20, 25 * 2**20
# Weights are fp32 whatever the network computes in, and so are their gradients.
_GRADIENT_BYTES = 4
# Of a step's operations: the backward pass takes twice those of the forward pass.
BACKWARD_SHARE = 2 / 3
# Share of a step from which the all-reduce, not the GPU, is what limits.
_NOTICED = 0.1
GPUS = (8, 64, 512)


@dataclass(frozen=True, kw_only=True)
class Link:
    """What joins GPUs in an all-reduce: bytes a second each way, and seconds that a hop takes."""

    name: str
    bytes_per_s: float
    hop_s: float


# The whole nominal rate, NVLink's that of an H100. Hops: a tree's (protocol Simple) over the network
# and over NVLink in the cost model by which NCCL itself chooses (src/graph/tuning.cc of NCCL 2.2x).
LINKS = (
    Link(name="10 Gbit/s", bytes_per_s=10e9 / 8, hop_s=14e-6),
    Link(name="25 Gbit/s", bytes_per_s=25e9 / 8, hop_s=14e-6),
    Link(name="100 Gbit/s", bytes_per_s=100e9 / 8, hop_s=14e-6),
    Link(name="NVLink", bytes_per_s=450e9, hop_s=4e-6),
)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a GPU and its node are taken to do: training images/s by stacks, alone and never waiting.

    A GPU gets `cpus_per_gpu` cores for its `data.threads`, as in jobs/cluster;
    each decodes `loader_samples_per_s` (README, "The data path").
    """

    gpu_images_per_s: Mapping[int, float]
    batch_per_gpu: int = 32
    cpus_per_gpu: int = 6
    loader_samples_per_s: float = 1880.0

    def __post_init__(self) -> None:
        for stacks, images in self.gpu_images_per_s.items():
            if not (math.isfinite(images) and images > 0):
                raise ValueError(
                    f"--gpu-images-per-s must be above 0, got {images:g} for {stacks} stacks"
                )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was measured here: the share of the all-reduce that a backward pass as long hides, and Ray's of a step."""

    overlap: float
    ray_share: float


def buckets(parameters: int) -> list[int]:
    """Bytes of the pieces in which DDP exchanges the gradients of so many parameters."""
    left = parameters * _GRADIENT_BYTES
    found = [min(left, _FIRST_BUCKET_BYTES)]
    while left := left - found[-1]:
        found.append(min(left, _BUCKET_BYTES))
    return found


def all_reduce_s(workers: int, sizes: Sequence[int], link: Link) -> tuple[float, float]:
    """Seconds of all-reduces of so many bytes each, by latency and by bandwidth.

    Each link carries 2(n-1)/n of the bytes, as around a ring. NCCL takes a tree
    where a ring would have too many hops: up and down it is 2 log n, for some
    bandwidth, which is left out.
    """
    hops = 2 * math.ceil(math.log2(workers))
    carried = 2 * (workers - 1) / workers * sum(sizes)
    return len(sizes) * hops * link.hop_s, carried / link.bytes_per_s


def exposed_s(all_reduce_s: float, backward_s: float, overlap: float) -> float:
    """Seconds of an all-reduce that the backward pass beside it does not hide."""
    return all_reduce_s - overlap * min(all_reduce_s, backward_s)


def predict(
    stacks: int, cost: Cost, gpus: int, link: Link, assumed: Assumptions, fitted: Fitted
) -> dict[str, Any]:
    """A step on so many GPUs: images/s, efficiency (of as many GPUs that never wait), its times in ms, and what limits it.

    `efficiency_at_best` is with all hidden that the backward pass can hide;
    `batch_per_gpu_enough`: images a GPU from which the all-reduce takes no more than a tenth of a step.
    """
    batch, images_per_s = assumed.batch_per_gpu, assumed.gpu_images_per_s[stacks]
    latency, transfer = all_reduce_s(gpus, buckets(cost.parameters), link)
    all_reduce = latency + transfer
    compute = batch / images_per_s
    backward = BACKWARD_SHARE * compute
    exposed = exposed_s(all_reduce, backward, fitted.overlap)
    loading = batch / (assumed.loader_samples_per_s * assumed.cpus_per_gpu)
    # Batches are decoded while the GPU computes.
    step, at_best = (
        max(compute + shown, loading) / (1 - fitted.ray_share)
        for shown in (exposed, exposed_s(all_reduce, backward, 1.0))
    )
    return {
        "stacks": stacks,
        "gpus": gpus,
        "link": link.name,
        "images_per_s": gpus * batch / step,
        "efficiency": compute / step,
        "efficiency_at_best": compute / at_best,
        "step_ms": 1000 * step,
        "compute_ms": 1000 * compute,
        "all_reduce_ms": 1000 * all_reduce,
        "exposed_ms": 1000 * exposed,
        "loading_ms": 1000 * loading,
        "limit": limit(compute, exposed, loading, latency / all_reduce),
        "batch_per_gpu_enough": batch_enough(images_per_s, all_reduce, fitted.overlap),
    }


def limit(compute_s: float, exposed_s: float, loading_s: float, latency_share: float) -> str:
    """What a step spends most of its time on beyond what it must: `input`, `bandwidth`, `latency`; else `compute`."""
    if loading_s > compute_s + exposed_s:
        return "input"
    if exposed_s <= _NOTICED * (compute_s + exposed_s):
        return "compute"
    return "latency" if latency_share > 0.5 else "bandwidth"


def batch_enough(images_per_s: float, all_reduce_s: float, overlap: float) -> int:
    """Images a worker from which the exposed all-reduce takes no more than a tenth of compute and itself."""

    def is_enough(batch: int) -> bool:
        compute = batch / images_per_s
        exposed = exposed_s(all_reduce_s, BACKWARD_SHARE * compute, overlap)
        return exposed <= _NOTICED * (compute + exposed)

    # More images hide more and dilute the rest: once enough, always enough. Doubled, then halved in between.
    enough = 1
    while not is_enough(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if is_enough(middle) else (enough, middle)
    return enough


def table(costs: Mapping[int, Cost], assumed: Assumptions, fitted: Fitted) -> list[dict[str, Any]]:
    """A prediction for every network, by its stacks, on every link, with few GPUs and many."""
    return [
        predict(stacks, cost, gpus, link, assumed, fitted)
        for stacks, cost in costs.items()
        for link in LINKS
        for gpus in GPUS
    ]
