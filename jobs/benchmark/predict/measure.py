"""The benchmark of prediction on CPU, from settings to a result that is plain JSON."""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from jobs.benchmark.predict.ways import PLAIN, Network, Way, default, noise, prepare, route, ways
from jobs.benchmark.timing import Laps, in_fresh_process, measure, ratio, speed
from pipeline.io.console import say


@dataclass(frozen=True, kw_only=True)
class PredictBenchmark:
    """What to measure. Without `memory_batch` peak memory is left out."""

    stacks: tuple[int, ...] = (1, 2, 8)
    batches: tuple[int, ...] = (1, 32)
    features: int = 256
    input_px: int = 256
    rounds: int = 5
    memory_batch: int = 32

    def __post_init__(self) -> None:
        for option, value in (
            ("--rounds", self.rounds),
            ("--stacks", min(self.stacks)),
            ("--batch", min(self.batches)),
        ):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")


def measure_predict(settings: PredictBenchmark) -> dict[str, Any]:
    """Measure everything: for each network and batch all ways in turns."""
    begin, machine = time.monotonic(), _machine()
    found, taken = ways(), default()
    result: dict[str, Any] = {
        "over_plain_fp32": {},
        "over_plain_fp32_by_way": {},
        "peak_memory_mib": {},
        "machine": machine,
        "settings": asdict(settings) | {"default": taken, "ways": list(found)},
        "speed": [],
    }
    for stacks, batch in product(settings.stacks, settings.batches):
        network = _network(settings, stacks)
        # A fresh process: what one network leaves in memory would slow the next.
        laps = in_fresh_process(_laps, network, batch, settings.rounds, found)
        over = over_plain(laps)
        result["over_plain_fp32_by_way"].setdefault(str(stacks), {})[str(batch)] = over
        result["over_plain_fp32"].setdefault(str(stacks), {})[str(batch)] = over[taken]
        result["speed"] += [
            {"stacks": stacks, "batch": batch, "way": way} | _speed(laps[way]) for way in found
        ]
    if settings.memory_batch:
        for stacks, way in product(settings.stacks, found):
            mib = in_fresh_process(
                peak_memory_mib, way, _network(settings, stacks), settings.memory_batch
            )
            result["peak_memory_mib"].setdefault(str(stacks), {})[way] = mib
            say(
                f"  peak memory, {stacks} stacks, batch {settings.memory_batch}, {way}: {mib:,.0f} MiB"
            )
    return result | {"seconds": time.monotonic() - begin}


def over_plain(laps: Mapping[Way, Laps]) -> dict[Way, float]:
    """How often faster than plain fp32 each way is, median of the rounds' own ratios."""
    plain = [lap.per_s for lap in laps[PLAIN]]
    return {way: ratio([lap.per_s for lap in mine], plain) for way, mine in laps.items()}


def peak_memory_mib(way: Way, network: Network, batch: int) -> float:
    """All that this process has held resident while predicting; it must be a fresh one."""
    predict, images = prepare(way, network), noise(batch, network.input_px)
    for _ in range(2):
        predict(images)
    status = Path("/proc/self/status").read_text()
    [kib] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kib) / 1024


def _network(settings: PredictBenchmark, stacks: int) -> Network:
    return Network(stacks=stacks, features=settings.features, input_px=settings.input_px)


def _laps(network: Network, batch: int, rounds: int, found: tuple[Way, ...]) -> dict[Way, Laps]:
    routes = {way: route(way, network, batch) for way in found}
    title = f"{network.stacks} stack{'s' * (network.stacks > 1)}, batch {batch}"
    laps = measure(title, {str(way): made for way, made in routes.items()}, rounds)
    return {way: laps[way] for way in found}


def _speed(laps: Laps) -> dict[str, Any]:
    found = speed(laps)
    return {
        "images_per_s": found["samples_per_s"],
        "min": found["min"],
        "max": found["max"],
        "rounds": found["rounds"],
    }


def _machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "device": names[0] if names else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
