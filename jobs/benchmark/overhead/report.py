"""Ray's share as a person reads it."""

from collections.abc import Mapping
from typing import Any

from jobs.benchmark.overhead.first_step import STAGES
from jobs.benchmark.report import aligned


def ray_report(result: Mapping[str, Any]) -> str:
    """Tables of all that was measured."""
    return "\n\n".join(part(result) for part in (_head, _overhead, _first_step, _headline))


def _head(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"{machine['cores']} cores, load {machine['load_average']:.1f}, Ray {machine['ray']}, "
        f"torch {machine['torch']}"
    )


def _overhead(result: Mapping[str, Any]) -> str:
    found = result["overhead"]
    rows = [["steady state", "median", "min", "max"]]
    for key, unit in (("samples_per_s", "samples/s"), ("cpu_ms", "CPU ms a sample")):
        for name, held in found[key].items():
            figures = (held["median"], min(held["rounds"]), max(held["rounds"]))
            rows.append([f"{name}, {unit}", *(f"{value:,.2f}" for value in figures)])
    figures = (result["overhead_percent"], found["min"], found["max"])
    rows.append(["overhead, %", *(f"{value:.2f}" for value in figures)])
    rows.append(["overhead in CPU time, %", f"{found['cpu_overhead_percent']:.2f}"])
    beside = found["cores_beside"]["ray"]["median"]
    return aligned(rows) + (
        "\none worker of one thread; each side in turn, with the other stopped; overheads are medians of the turns'\n"
        f"own, that in CPU time of the process that trains; Ray's other processes keep {beside:.2f} cores busy"
    )


def _first_step(result: Mapping[str, Any]) -> str:
    found = result["first_step"]
    rows = [["from command to first step", "s", "with a new database"]]
    for stage, name in STAGES.items():
        seconds = (found["stages"][stage], found["with_new_database"][stage])
        rows.append([name, *(f"{value:.2f}" for value in seconds)])
    whole = (result["first_step_s"], sum(found["with_new_database"].values()))
    rows.append(["all", *(f"{value:.2f}" for value in whole)])
    return aligned(rows) + (
        f"\nmedians of {len(found['rounds'])} starts, of {found['min']:.2f} to {found['max']:.2f} s"
    )


def _headline(result: Mapping[str, Any]) -> str:
    return (
        f"overhead_percent {result['overhead_percent']:.2f}   "
        f"first_step_s {result['first_step_s']:.2f}"
    )
