"""What Ray Train costs in steady state: the same steps with and without it, in turns."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jobs.benchmark.overhead.data import settings_for
from jobs.benchmark.overhead.rounds import take_turns
from jobs.benchmark.overhead.side import Side
from jobs.benchmark.overhead.sides import TARGETS
from jobs.benchmark.timing import environment
from pipeline.settings.ray import KEEP_MEMORY

# A turn's first steps fill caches and queues.
WARM_STEPS = 5


def measure_overhead(data: Path, rounds: int, batch_size: int) -> dict[str, Any]:
    """Let both sides train in turns on the packed folder `data`; one turn of each does not count.

    Raises RuntimeError if a side fails, or if both don't train alike.
    """
    settings = settings_for(
        data,
        "train-*.tar",
        {
            "optim.epochs": rounds + 1,
            "optim.batch_size": batch_size,
            "ray.max_failures": 0,
            "ray.name": "turns",
        },
    ).flat()
    with environment({"OMP_NUM_THREADS": "1"}), _sides(settings, data.parent) as sides:
        turns = list(take_turns(sides, rounds))
    check_alike(turns[0])
    speeds, costs, beside = (
        {name: [of_turn(turn[name], batch_size) for turn in turns[1:]] for name in TARGETS}
        for of_turn in (samples_per_s, cpu_ms, cores_beside)
    )
    return overhead(speeds, costs) | {
        "cores_beside": {name: _spread(found) for name, found in beside.items()},
        "conditions": turns[0]["plain"]["conditions"],
        "steps_a_turn": len(turns[0]["plain"]["ends"]) - WARM_STEPS,
        "batch_size": batch_size,
    }


def overhead(
    speeds: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """By how many percent the plain side is faster, from samples/s of each side and round; median and spread.

    Beside it how much more CPU time the process that trains takes with Ray, from
    milliseconds a sample: other programs change that less than what the clock says.
    """
    percents = [
        100 * (plain / with_ray - 1)
        for plain, with_ray in zip(speeds["plain"], speeds["ray"], strict=True)
    ]
    return {
        "overhead_percent": statistics.median(percents),
        "min": min(percents),
        "max": max(percents),
        "rounds": percents,
        "samples_per_s": {name: _spread(found) for name, found in speeds.items()},
        "cpu_overhead_percent": statistics.median(
            100 * (with_ray / plain - 1)
            for plain, with_ray in zip(costs["plain"], costs["ray"], strict=True)
        ),
        "cpu_ms": {name: _spread(found) for name, found in costs.items()},
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "rounds": list(values)}


def samples_per_s(turn: Mapping[str, Any], batch_size: int) -> float:
    """Speed of a turn in steady state, from the seconds at which its steps ended."""
    ends = turn["ends"]
    return (len(ends) - WARM_STEPS) * batch_size / (ends[-1] - ends[WARM_STEPS - 1])


def cpu_ms(turn: Mapping[str, Any], batch_size: int) -> float:
    """CPU milliseconds a sample in steady state, of the process that trains."""
    cpu_s = turn["cpu_s"]
    steps = len(cpu_s) - WARM_STEPS
    return 1000 * (cpu_s[-1] - cpu_s[WARM_STEPS - 1]) / (steps * batch_size)


def cores_beside(turn: Mapping[str, Any], batch_size: int) -> float:
    """Cores that a side's other processes kept busy in a turn, on average."""
    return turn["others_cpu_s"] / turn["seconds"]


def check_alike(turn: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RuntimeError if the sides differ in threads, cores, environment or steps."""
    plain, with_ray = (
        turn[name]["conditions"] | {"steps": len(turn[name]["ends"])} for name in TARGETS
    )
    if plain != with_ray:
        raise RuntimeError(f"the sides train under other conditions: {plain} and {with_ray}")


@contextmanager
def _sides(settings: dict[str, Any], folder: Path) -> Iterator[dict[str, Side]]:
    """Both sides, started; ended in any case."""
    with ExitStack() as ending:
        yield {
            # Ray Train's workers are given KEEP_MEMORY by their trainer.
            name: ending.enter_context(
                Side(
                    *(name, target, settings, folder / name),
                    inherits=KEEP_MEMORY if name == "plain" else {},
                )
            )
            for name, target in TARGETS.items()
        }
