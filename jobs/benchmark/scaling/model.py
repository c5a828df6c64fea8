"""Prediction for clusters of GPUs, from bytes moved, kernel launches and measured ceilings.

Nothing here has been measured on a cluster. Predictions have two significant digits.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.model.cost import Cost, network_cost
from pipeline.settings import ModelSettings

# The backward pass takes twice the operations of the forward pass.
BACKWARD_SHARE = 2 / 3
# Share of a step from which on the all-reduce is named as the limit.
_NOTICED = 0.1
# Weights and gradients are fp32, whatever the network computes in.
GRADIENT_BYTES = 4
GPUS = (8, 64, 512)
# Nominal bytes a second each way between GPUs; NVLink's are those of an H100.
LINKS = {
    "10 Gbit/s": 10e9 / 8,
    "25 Gbit/s": 25e9 / 8,
    "100 Gbit/s": 100e9 / 8,
    "NVLink": 450e9,
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A GPU's work in training: bytes that an image moves, and kernels of a step."""

    convolution_bytes: float
    other_bytes: float
    kernels: int


# By stacks. Counted on fake tensors: eager, bf16 autocast, channels_last, 256 px, batches of 32,
# every read and write of an operator, without optimizer and EMA. Extrapolated for 8 stacks.
WORK = {
    1: Work(convolution_bytes=245e6, other_bytes=515e6, kernels=1113),
    2: Work(convolution_bytes=379e6, other_bytes=815e6, kernels=1981),
    8: Work(convolution_bytes=1180e6, other_bytes=2615e6, kernels=7189),
}


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """An H100 and its share of a node.

    The ceilings `copy_bytes_per_s` and `matmul_flops_per_s` (bf16) were measured;
    training is assumed to reach the shares `of_copy` and `of_matmul` of them.
    Each of `cpus_per_gpu` cores loads `loader_samples_per_s` (docs/benchmarks.md,
    "Data path"), and each sample holds Python's lock for `lock_s`.
    """

    copy_bytes_per_s: float = 3.0e12
    of_copy: float = 0.85
    matmul_flops_per_s: float = 788e12
    of_matmul: float = 0.55
    launch_s: float = 6e-6
    batch_per_gpu: int = 32
    cpus_per_gpu: int = 6
    loader_samples_per_s: float = 1880.0
    lock_s: float = 0.155e-3

    def image_s(self, work: Work, training_flops: float) -> float:
        """Return a GPU's seconds for an image; convolutions move bytes while they compute."""
        bytes_per_s = self.of_copy * self.copy_bytes_per_s
        computing = training_flops / (self.of_matmul * self.matmul_flops_per_s)
        return max(work.convolution_bytes / bytes_per_s, computing) + work.other_bytes / bytes_per_s


def predict(work: Work, cost: Cost, gpus: int, link: str, assumed: Assumptions) -> dict[str, Any]:
    """Predict a step: images/s, efficiency against GPUs that never wait, times, and the limit.

    The all-reduce takes 2(n-1)/n of the gradients' bytes over each link, as in a
    ring. `efficiency` hides nothing of it, `efficiency_at_best` all that a
    backward pass can hide. From `batch_per_gpu_enough` images a GPU on, it takes
    at most a tenth of a step, though nothing is hidden.
    """
    batch, image_s = assumed.batch_per_gpu, assumed.image_s(work, cost.training_flops)
    launching = work.kernels * assumed.launch_s
    computing = max(batch * image_s, launching)
    cores = assumed.cpus_per_gpu * assumed.loader_samples_per_s
    loading = batch * max(1 / cores, assumed.lock_s)
    exchange = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * cost.parameters / LINKS[link]
    hidden = min(exchange, BACKWARD_SHARE * computing)
    # Batches are loaded while the GPU computes.
    step, best = (max(computing + exposed, loading) for exposed in (exchange, exchange - hidden))
    if step == loading:
        limit = "input"
    elif exchange > _NOTICED * step:
        limit = "link"
    else:
        limit = "launches" if computing == launching else "gpu"
    figures = {
        "images_per_s": gpus * batch / step,
        "images_per_s_at_best": gpus * batch / best,
        "efficiency": computing / step,
        "efficiency_at_best": computing / best,
        "step_ms": 1000 * step,
        "gpu_ms": 1000 * batch * image_s,
        "launch_ms": 1000 * launching,
        "all_reduce_ms": 1000 * exchange,
        "loading_ms": 1000 * loading,
        "batch_per_gpu_enough": max(1.0, (1 / _NOTICED - 1) * exchange / image_s),
    }
    rounded = {name: two_digits(value) for name, value in figures.items()}
    return {"gpus": gpus, "link": link, "limit": limit} | rounded


def two_digits(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.2g}")


def table(assumed: Assumptions) -> list[dict[str, Any]]:
    """Predict every network on every link, for each number of GPUs."""
    costs = {stacks: network_cost(ModelSettings(stacks=stacks, joints=16)) for stacks in WORK}
    return [
        {"stacks": stacks} | predict(work, costs[stacks], gpus, link, assumed)
        for stacks, work in WORK.items()
        for gpus in GPUS
        for link in LINKS
    ]
