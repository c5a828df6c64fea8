"""Ray Train's overhead: the same steps with and without it."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.benchmark.rounds.data import pack_rendered, settings_for
from jobs.benchmark.rounds.group import train_without_ray
from jobs.benchmark.rounds.processes import Target, VariantProcess, run_rounds
from jobs.benchmark.rounds.trainer import train_with_ray
from jobs.benchmark.timing import check_counts, environment, machine, machine_line, spread
from pipeline.io.console import aligned
from pipeline.settings.ray import KEEP_MEMORY

# The first steps of a round fill caches and queues.
WARM_STEPS = 5
_TARGETS: Mapping[str, Target] = {"plain": train_without_ray, "ray": train_with_ray}


@dataclass(frozen=True, kw_only=True)
class OverheadBenchmark:
    """Settings: the number of `rounds`, of `steps` each."""

    rounds: int = 15
    steps: int = 25
    batch_size: int = 24

    def __post_init__(self) -> None:
        check_counts({"--rounds": self.rounds})
        assert self.steps > WARM_STEPS


def measure_ray(settings: OverheadBenchmark, folder: Path) -> dict[str, Any]:
    """Measure the same training loop with and without Ray Train, with `folder` for files.

    Raises RuntimeError if training fails, or if the variants do not train alike.
    """
    data = folder / "data"
    pack_rendered(data, settings.steps * settings.batch_size)
    steady = _measure_overhead(data, settings.rounds, settings.batch_size)
    return {
        "overhead_percent": steady.pop("overhead_percent"),
        "overhead": steady,
        "machine": machine("torch", "ray"),
        "settings": asdict(settings),
    }


def _measure_overhead(data: Path, rounds: int, batch_size: int) -> dict[str, Any]:
    """Train with and without Ray in rounds on the packed folder `data`, after a warm-up round."""
    changes = {
        "optim.epochs": rounds + 1,
        "optim.batch_size": batch_size,
        "ray.max_failures": 0,
        "ray.name": "rounds",
    }
    settings = settings_for(data, "train-*.tar", changes).flat()
    with environment({"OMP_NUM_THREADS": "1"}), ExitStack() as ending:
        variants = {
            # Ray Train gives its workers KEEP_MEMORY itself.
            name: ending.enter_context(
                VariantProcess(
                    *(name, target, settings, data.parent / name),
                    inherits=KEEP_MEMORY if name == "plain" else {},
                )
            )
            for name, target in _TARGETS.items()
        }
        warm_up, *measured = run_rounds(variants, rounds)
    check_alike(warm_up)
    speeds, costs, others = (
        {name: [figure(of_round[name], batch_size) for of_round in measured] for name in _TARGETS}
        for figure in (samples_per_s, cpu_ms, cores_beside)
    )
    return overhead(speeds, costs) | {
        "cores_beside": {name: spread(cores) for name, cores in others.items()},
        "conditions": warm_up["plain"]["conditions"],
        "steps_a_round": len(warm_up["plain"]["ends"]) - WARM_STEPS,
        "batch_size": batch_size,
    }


def overhead(
    speeds: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return by how many percent training is faster without Ray, and how much less CPU it takes.

    From samples/s and CPU ms a sample of each round. Other programs change CPU time less.
    """
    found = spread(percents(speeds["plain"], speeds["ray"]))
    return (
        {"overhead_percent": found.pop("median")}
        | found
        | {
            "samples_per_s": {name: spread(speed) for name, speed in speeds.items()},
            "cpu_overhead_percent": statistics.median(percents(costs["ray"], costs["plain"])),
            "cpu_ms": {name: spread(cost) for name, cost in costs.items()},
        }
    )


def percents(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return by how many percent each value is above the one below it."""
    return [100 * (a / b - 1) for a, b in zip(above, below, strict=True)]


def samples_per_s(measured: Mapping[str, Any], batch_size: int) -> float:
    """Return the speed of a round in steady state, from the times at which its steps ended."""
    ends = measured["ends"]
    return (len(ends) - WARM_STEPS) * batch_size / (ends[-1] - ends[WARM_STEPS - 1])


def cpu_ms(measured: Mapping[str, Any], batch_size: int) -> float:
    """Return CPU milliseconds a sample in steady state, of the process that trains."""
    cpu_s = measured["cpu_s"]
    steps = len(cpu_s) - WARM_STEPS
    return 1000 * (cpu_s[-1] - cpu_s[WARM_STEPS - 1]) / (steps * batch_size)


def cores_beside(measured: Mapping[str, Any], batch_size: int) -> float:
    """Return the mean number of cores that a variant's other processes kept busy in a round."""
    return measured["others_cpu_s"] / measured["seconds"]


def check_alike(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RuntimeError if variants differ in threads, cores, environment or steps."""
    plain, with_ray = (
        measured[name]["conditions"] | {"steps": len(measured[name]["ends"])} for name in _TARGETS
    )
    if plain != with_ray:
        raise RuntimeError(f"the variants train under other conditions: {plain} and {with_ray}")


def ray_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured as a table."""
    primary = f"overhead_percent {result['overhead_percent']:.2f}"
    return "\n\n".join((machine_line(result["machine"]), _overhead(result), primary))


def _overhead(result: Mapping[str, Any]) -> str:
    found = result["overhead"]
    rows = [["steady state", "median", "min", "max"]]
    for key, unit in (("samples_per_s", "samples/s"), ("cpu_ms", "CPU ms a sample")):
        for name, held in found[key].items():
            cells = [f"{held[figure]:,.2f}" for figure in ("median", "min", "max")]
            rows.append([f"{name}, {unit}", *cells])
    figures = (result["overhead_percent"], found["min"], found["max"])
    rows.append(["overhead, %", *(f"{value:.2f}" for value in figures)])
    rows.append(["overhead in CPU time, %", f"{found['cpu_overhead_percent']:.2f}"])
    cores = found["cores_beside"]["ray"]["median"]
    return aligned(rows) + (
        "\none worker of one thread; each variant trains while the other is stopped; overheads are"
        "\nmedians over rounds, that in CPU time of the process that trains; Ray's other processes"
        f"\nkeep {cores:.2f} cores busy"
    )
