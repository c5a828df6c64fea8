"""Ray's share of a training run, from settings to a result that is plain JSON."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from jobs.benchmark.overhead.data import pack_rendered
from jobs.benchmark.overhead.first_step import measure_first_step
from jobs.benchmark.overhead.overhead import WARM_STEPS, measure_overhead
from pipeline.io.console import say


@dataclass(frozen=True, kw_only=True)
class RayBenchmark:
    """What to measure: `rounds` starts, and as many times `turns` of `steps`, the first of which don't count."""

    rounds: int = 5
    turns: int = 3
    steps: int = 25
    batch_size: int = 24

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1, got {self.rounds}")
        assert self.steps > WARM_STEPS


def measure_ray(settings: RayBenchmark, folder: Path) -> dict[str, Any]:
    """Measure both, with `folder` for files."""
    begin = time.monotonic()
    say("1/3 render and pack people")
    data = folder / "data"
    pack_rendered(data, settings.steps * settings.batch_size)
    say("2/3 the same training loop with and without Ray Train")
    share = measure_overhead(data, settings.turns * settings.rounds, settings.batch_size)
    say("3/3 from the command to the first step")
    start = measure_first_step(data, settings.rounds)
    return {
        "overhead_percent": share.pop("overhead_percent"),
        "first_step_s": start.pop("first_step_s"),
        "overhead": share,
        "first_step": start,
        "machine": machine(),
        "settings": asdict(settings),
        "seconds": time.monotonic() - begin,
    }


def machine() -> dict[str, Any]:
    """What it was measured on, and how busy that was."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": torch.__version__,
    }
