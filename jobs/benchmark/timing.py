"""Fair timing: routes take turns, round by round, so that a busy machine is busy for all of them."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from pipeline.io.console import bar, duration, say
from pipeline.settings.ray import KEEP_MEMORY

T = TypeVar("T")
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Route:
    """A way of loading: `run` returns how many samples it loaded, `cpu_s` the CPU seconds so far."""

    run: Callable[[], int]
    cpu_s: Callable[[], float] = time.process_time


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One route in one round."""

    samples: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Samples a second."""
        return self.samples / self.wall_s


Laps = Sequence[Lap]


def measure(title: str, routes: Mapping[str, Route], rounds: int) -> dict[str, list[Lap]]:
    """Run every route once in each of `rounds`, after one round that does not count."""
    for route in routes.values():
        route.run()
    laps: dict[str, list[Lap]] = {name: [] for name in routes}
    start = time.monotonic()
    for done in range(rounds):
        # Every other round goes backwards: a drift of the machine's pace favours nobody.
        for name in list(routes)[:: -1 if done % 2 else 1]:
            laps[name].append(_lap(routes[name]))
        left = (time.monotonic() - start) / (done + 1) * (rounds - done - 1)
        say(f"  {title}  {bar(done + 1, rounds)} rounds  left {duration(left)}")
    return laps


def _lap(route: Route) -> Lap:
    cpu, wall = route.cpu_s(), time.perf_counter()
    samples = route.run()
    return Lap(
        samples=samples, wall_s=time.perf_counter() - wall, cpu_s=max(0.0, route.cpu_s() - cpu)
    )


def by_cpu_time(laps: Laps) -> list[Lap]:
    """Laps timed by the CPU time that they took.

    On one core this is what the route needs of it; the clock would add what
    other programs take.
    """
    return [replace(lap, wall_s=lap.cpu_s) for lap in laps]


def pooled(*several: Laps) -> list[Lap]:
    """Laps one after another as one lap, round by round."""
    return [
        Lap(
            samples=sum(lap.samples for lap in together),
            wall_s=sum(lap.wall_s for lap in together),
            cpu_s=sum(lap.cpu_s for lap in together),
        )
        for together in zip(*several, strict=True)
    ]


def speed(laps: Laps) -> dict[str, Any]:
    """Samples/s of every round, their median and range, and CPU milliseconds a sample."""
    per_s = [lap.per_s for lap in laps]
    return {
        "samples_per_s": statistics.median(per_s),
        "min": min(per_s),
        "max": max(per_s),
        "rounds": per_s,
        "cpu_ms": statistics.median(1000 * lap.cpu_s / lap.samples for lap in laps),
    }


def process_cpu_s(pid: int) -> float:
    """CPU seconds of another process so far."""
    # A name in brackets may hold spaces; user and system time come 11 fields after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


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
    """Run a function in a process of its own, whose allocator is set as a training worker's is.

    What it raises is raised here.
    """
    with (
        environment(KEEP_MEMORY),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change what processes inherit that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in changes if name in before})
