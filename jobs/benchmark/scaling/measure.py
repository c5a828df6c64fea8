"""Scaling over the workers of this machine, from settings to a result that is plain JSON."""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.benchmark.overhead.data import PEOPLE_PER_SHARD, pack_rendered, settings_for
from jobs.benchmark.overhead.measure import machine
from jobs.benchmark.overhead.rounds import take_turns, wait_for_start
from jobs.benchmark.overhead.side import Side
from jobs.benchmark.overhead.sides import train_with_ray
from jobs.benchmark.scaling.group import train_together
from jobs.benchmark.scaling.model import Assumptions, table
from jobs.benchmark.scaling.summary import WITH_RAY, WITHOUT_RAY, fitted, side_name, summary
from jobs.benchmark.timing import environment
from pipeline.io.console import say
from pipeline.model.cost import Cost, network_cost
from pipeline.settings import ModelSettings, Settings
from pipeline.settings.ray import KEEP_MEMORY

# Networks of the prediction, by stacks, with MPII's joints.
STACKS = (1, 2, 8)
# No GPU has been measured: what one is taken to compute, of an H100's 989 TFLOP/s in bf16. Two stacks then make 6,000 images/s.
ASSUMED_FLOPS_PER_S = 300e12
# The paper's single hourglass: gradients as large as they are there. On CPU small images keep its steps short.
_NETWORK = {"model.stacks": 1, "model.features": 256, "optim.optimizer": "adamw"}
_ON_CPU = {"model.input_px": 64}
_ON_GPU = {"model.input_px": 256, "ray.gpus_per_worker": 1.0}


@dataclass(frozen=True, kw_only=True)
class ScalingBenchmark:
    """What to measure: turns of `steps` of `batch_per_worker` images for each number of workers.

    `gpu_images_per_s` are what the model takes a GPU to train, for each of STACKS; none: by ASSUMED_FLOPS_PER_S.
    """

    workers: tuple[int, ...]
    rounds: int = 7
    steps: int = 40
    batch_per_worker: int = 8
    gpu_images_per_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1, got {self.rounds}")
        most = places()
        for count in self.workers:
            if not 1 <= count <= most:
                raise ValueError(f"--workers must be from 1 to this machine's {most}, got {count}")


def places() -> int:
    """How many workers this machine has room for: its GPUs, or without any its cores."""
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def usual_workers(most: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and `most`."""
    return (*(2**power for power in range((most - 1).bit_length())), most)


def measure_scaling(settings: ScalingBenchmark, folder: Path) -> dict[str, Any]:
    """Measure, with `folder` for files, and predict. Raises RuntimeError if a side fails."""
    begin, load = time.monotonic(), os.getloadavg()[0]
    costs = {s: network_cost(ModelSettings(stacks=s, joints=16)) for s in STACKS}
    assumed = assumptions(settings, costs)
    say("1/2 render and pack people")
    counts = sorted({1, *settings.workers})
    data = folder / "data"
    pack_rendered(data, settings.steps * settings.batch_per_worker * max(counts))
    say("2/2 the same training loop with every number of workers, with and without Ray Train")
    with environment({"OMP_NUM_THREADS": "1"}), sides(settings, counts, data) as started:
        turns = list(take_turns(started, settings.rounds))
    found = summary(turns[1:], counts, settings.batch_per_worker)
    return found | {
        "model": table(costs, assumed, fitted(found)),
        "assumptions": asdict(assumed),
        "machine": machine() | {"load_average_before": load, "gpus": torch.cuda.device_count()},
        "settings": asdict(settings),
        "seconds": time.monotonic() - begin,
    }


def assumptions(settings: ScalingBenchmark, costs: Mapping[int, Cost]) -> Assumptions:
    """What the model takes a GPU to do. Raises ValueError about images/s."""
    given = settings.gpu_images_per_s
    images_per_s = (
        dict(zip(costs, given, strict=True))
        if given
        else {stacks: ASSUMED_FLOPS_PER_S / cost.training_flops for stacks, cost in costs.items()}
    )
    return Assumptions(gpu_images_per_s=images_per_s)


@contextmanager
def sides(
    settings: ScalingBenchmark, counts: Sequence[int], data: Path
) -> Iterator[dict[str, Side]]:
    """Two for each number of workers, started; ended in any case."""
    targets = {WITHOUT_RAY: train_together, WITH_RAY: train_with_ray}
    with ExitStack() as ending:
        started = {}
        for workers in counts:
            for way, target in targets.items():
                name = side_name(workers, way)
                told = _settings(settings, workers, data, name).flat()
                # Ray Train's workers are given KEEP_MEMORY by their trainer.
                inherits = {} if way == WITH_RAY else KEEP_MEMORY
                side = Side(name, target, told, data.parent / name, inherits=inherits)
                started[name] = ending.enter_context(side)
                # One after another: clusters that start at once hold each other up.
                wait_for_start({name: side})
        yield started


def _settings(benchmark: ScalingBenchmark, workers: int, data: Path, name: str) -> Settings:
    """As many samples for each worker, and so as many steps in a turn, however many there are."""
    batch = workers * benchmark.batch_per_worker
    last = math.ceil(benchmark.steps * batch / PEOPLE_PER_SHARD) - 1
    on_gpu = torch.cuda.is_available()
    threads = max(1, len(os.sched_getaffinity(0)) // places()) if on_gpu else 1
    return settings_for(
        data,
        f"train-{{000000..{last:06d}}}.tar",
        _NETWORK
        | (_ON_GPU if on_gpu else _ON_CPU)
        | {
            "data.threads": threads,
            "optim.epochs": benchmark.rounds + 1,
            "optim.batch_size": batch,
            "ray.workers": workers,
            "ray.max_failures": 0,
            "ray.name": name.replace(" ", "-"),
        },
    )
