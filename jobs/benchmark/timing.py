"""Fair timing on a machine: variants alternate, so that other programs slow all of them."""

import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from pipeline.io.console import bar, duration, say
from pipeline.io.processes import cpu_seconds
from pipeline.settings.check import require
from pipeline.settings.ray import KEEP_MEMORY

T = TypeVar("T")
# Does a variant's work once and returns the number of samples.
Run = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One variant in one round."""

    samples: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.samples / self.wall_s


Timings = Sequence[Timing]


def check_counts(counts: Mapping[str, int]) -> None:
    """Raise ValueError if the value of an option is below 1."""
    for option, value in counts.items():
        require(value >= 1, option, "at least 1", value)


def measure(title: str, variants: Mapping[str, Run], rounds: int) -> dict[str, list[Timing]]:
    """Time every variant and its child processes once in each round, after a warm-up round."""
    for run in variants.values():
        run()
    timings: dict[str, list[Timing]] = {name: [] for name in variants}
    start = time.monotonic()
    for done in range(rounds):
        for name in order(variants, done):
            timings[name].append(_time(variants[name]))
        left = (time.monotonic() - start) / (done + 1) * (rounds - done - 1)
        say(f"  {title}  {bar(done + 1, rounds)} rounds  left {duration(left)}")
    return timings


def order(variants: Mapping[str, Any], number: int) -> list[str]:
    """Return the order of variants in a round, reversed in every other one against drift."""
    return list(variants)[:: -1 if number % 2 else 1]


def _time(run: Run) -> Timing:
    cpu, wall = _cpu_s(), time.perf_counter()
    samples = run()
    return Timing(
        samples=samples, wall_s=time.perf_counter() - wall, cpu_s=max(0.0, _cpu_s() - cpu)
    )


def _cpu_s() -> float:
    pids = [child.pid for child in multiprocessing.active_children()]
    return time.process_time() + sum(cpu_seconds(pid) for pid in pids if pid is not None)


def by_cpu_time(timings: Timings) -> list[Timing]:
    """Replace the wall clock by CPU time, which on one core excludes what other programs take."""
    return [replace(timing, wall_s=timing.cpu_s) for timing in timings]


def pooled(*several: Timings) -> list[Timing]:
    """Add up the timings of each round."""
    return [
        Timing(
            samples=sum(timing.samples for timing in together),
            wall_s=sum(timing.wall_s for timing in together),
            cpu_s=sum(timing.cpu_s for timing in together),
        )
        for together in zip(*several, strict=True)
    ]


def speed(timings: Timings, name: str = "samples_per_s") -> dict[str, Any]:
    """Return the median speed as `name`, its range, each round's, and CPU ms a sample."""
    per_s = spread([timing.per_s for timing in timings])
    cpu_ms = statistics.median(1000 * timing.cpu_s / timing.samples for timing in timings)
    return {name: per_s.pop("median")} | per_s | {"cpu_ms": cpu_ms}


def ratio(above: Timings, below: Timings) -> float:
    """Return the median over rounds of how many times as fast `above` is as `below`."""
    return statistics.median(a.per_s / b.per_s for a, b in zip(above, below, strict=True))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, range and all values."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread, and those that it starts, to one core, and libraries to one thread."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a new process with the allocator settings of a training worker."""
    with (
        environment(KEEP_MEMORY),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change the environment that processes inherit which are started in the block."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in changes if name in before})


def machine(*packages: str) -> dict[str, Any]:
    """Describe this machine, its load, and the versions of Python and of packages."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "device": cpu,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    } | {name: importlib.metadata.version(name) for name in packages}


def machine_line(machine: Mapping[str, Any]) -> str:
    """Format the machine: device, cores, load and the version of torch."""
    return (
        f"{machine['device']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"load {machine['load_average']:.1f}, torch {machine['torch']}"
    )
