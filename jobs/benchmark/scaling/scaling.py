"""Scaling over the workers of this machine, from settings to a JSON result."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.benchmark.rounds.data import PEOPLE_PER_SHARD, pack_rendered, settings_for
from jobs.benchmark.rounds.group import train_without_ray
from jobs.benchmark.rounds.processes import VariantProcess, run_rounds
from jobs.benchmark.rounds.trainer import train_with_ray
from jobs.benchmark.scaling.model import Assumptions, table
from jobs.benchmark.scaling.summary import WITH_RAY, WITHOUT_RAY, summary, variant_name
from jobs.benchmark.timing import check_counts, environment, machine
from pipeline.io.console import say
from pipeline.settings import Settings
from pipeline.settings.check import require
from pipeline.settings.ray import KEEP_MEMORY

# The paper's single hourglass, for its size of gradients. On CPU small images keep steps short.
_NETWORK = {"model.stacks": 1, "model.features": 256, "optim.optimizer": "adamw"}
_ON_CPU = {"model.input_px": 64}
_ON_GPU = {"model.input_px": 256, "ray.gpus_per_worker": 1.0}


@dataclass(frozen=True, kw_only=True)
class ScalingBenchmark:
    """Settings: numbers of workers; rounds of `steps` of `batch_per_worker` images."""

    workers: tuple[int, ...]
    rounds: int = 7
    steps: int = 40
    batch_per_worker: int = 8

    def __post_init__(self) -> None:
        check_counts({"--rounds": self.rounds})
        most = most_workers()
        for count in self.workers:
            require(1 <= count <= most, "--workers", f"from 1 to this machine's {most}", count)


def most_workers() -> int:
    """Return how many workers this machine has room for: its GPUs, or without any its cores."""
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def default_workers(most: int = 0) -> tuple[int, ...]:
    """Return 1, 2, 4 and so on, and `most`, by default this machine's."""
    most = most or most_workers()
    return (*(2**power for power in range((most - 1).bit_length())), most)


def measure_scaling(settings: ScalingBenchmark, folder: Path) -> dict[str, Any]:
    """Measure, with `folder` for files, and predict. Raises RuntimeError if training fails."""
    assumed = Assumptions()
    described = machine("torch", "ray") | {"gpus": torch.cuda.device_count()}
    say("1/2 render and pack people")
    counts = sorted({1, *settings.workers})
    data = folder / "data"
    pack_rendered(data, settings.steps * settings.batch_per_worker * max(counts))
    say("2/2 the same training loop with every number of workers, with and without Ray Train")
    with environment({"OMP_NUM_THREADS": "1"}), variants(settings, counts, data) as started:
        _, *measured = run_rounds(started, settings.rounds)
    return summary(measured, counts, settings.batch_per_worker) | {
        "predicted": table(assumed),
        "assumptions": asdict(assumed),
        "machine": described,
        "settings": asdict(settings),
    }


@contextmanager
def variants(
    settings: ScalingBenchmark, counts: Sequence[int], data: Path
) -> Iterator[dict[str, VariantProcess]]:
    """Start two variants for each number of workers, and end them with the block."""
    targets = {WITHOUT_RAY: train_without_ray, WITH_RAY: train_with_ray}
    with ExitStack() as ending:
        started: dict[str, VariantProcess] = {}
        for workers in counts:
            for how, target in targets.items():
                name = variant_name(workers, how)
                flat = _settings(settings, workers, data, name).flat()
                # Ray Train gives its workers KEEP_MEMORY itself.
                inherits = {} if how == WITH_RAY else KEEP_MEMORY
                process = VariantProcess(name, target, flat, data.parent / name, inherits=inherits)
                started[name] = ending.enter_context(process)
                # One after another: clusters that start at once slow each other down.
                process.read(process.files.ready(0))
        yield started


def _settings(benchmark: ScalingBenchmark, workers: int, data: Path, name: str) -> Settings:
    """Return settings with the same number of samples a worker, and so of steps, for any count."""
    batch = workers * benchmark.batch_per_worker
    last = math.ceil(benchmark.steps * batch / PEOPLE_PER_SHARD) - 1
    on_gpu = torch.cuda.is_available()
    threads = max(1, len(os.sched_getaffinity(0)) // most_workers()) if on_gpu else 1
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
