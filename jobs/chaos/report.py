"""The result of a soak as plain data and as a table."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from jobs.chaos.evidence import Taking
from jobs.chaos.faults import OF_STORE, Fault, Kind
from pipeline.io.console import aligned, duration

# Most seconds between two steps of undisturbed training, an evaluation included.
_USUAL_S = 5.0
_TOTALS = (
    *("runs", "epochs", "steps", "steps_repeated", "samples", "samples_lost", "samples_doubled"),
    *("metrics", "metrics_lost", "metrics_doubled", "checkpoints", "checkpoints_lost"),
)
_MUST_BE_0 = (
    *("samples_lost", "samples_doubled", "metrics_lost", "metrics_doubled"),
    "checkpoints_lost",
)


def result_of(faults: Sequence[Fault], totals: Mapping[str, int]) -> dict[str, Any]:
    """Return the figures of a soak by name, times in seconds."""
    by_kind = {}
    for kind in Kind:
        of_kind = [fault for fault in faults if fault.kind is kind]
        if not of_kind and kind in OF_STORE:
            continue  # runs lie on a disk
        lost = [round(fault.lost_s, 2) for fault in of_kind if fault.lost_s is not None]
        by_kind[kind.value] = _counts(of_kind) | {"lost_s": lost}
    return _counts(faults) | {name: totals[name] for name in _TOTALS} | {"faults": by_kind}


def _counts(faults: Sequence[Fault]) -> dict[str, Any]:
    return {"injected": len(faults), "survived": sum(fault.is_survived for fault in faults)}


def stalled_s(steps: Sequence[Taking]) -> float:
    """Sum the gaps between steps that are longer than in undisturbed training."""
    gaps = [after.time - before.time for before, after in pairwise(steps)]
    return sum(gap for gap in gaps if gap > _USUAL_S)


def is_good(result: Mapping[str, Any]) -> bool:
    """Whether every fault was survived, and nothing of what was trained is lost or doubled."""
    is_complete = not any(result[name] for name in _MUST_BE_0)
    return is_complete and result["survived"] == result["injected"] and result["samples"] > 0


def report(result: Mapping[str, Any]) -> str:
    """Format the tables of a soak."""
    rows = [["fault", "injected", "survived", "median s lost", "most s lost"]]
    for kind, held in result["faults"].items():
        lost = held["lost_s"]
        times = [f"{median(lost):.1f}", f"{max(lost):.1f}"] if lost else ["-", "-"]
        rows.append([kind, str(held["injected"]), str(held["survived"]), *times])
    rows.append(["all", str(result["injected"]), str(result["survived"])])
    books = [["", "count", "of"]]
    for head, name in (
        ("samples lost", "samples_lost"),
        ("samples seen twice", "samples_doubled"),
        ("metrics lost", "metrics_lost"),
        ("metrics doubled", "metrics_doubled"),
        ("checkpoints lost", "checkpoints_lost"),
        ("steps repeated", "steps_repeated"),
    ):
        whole = name.partition("_")[0]
        books.append([head, f"{result[name]:,}", f"{result[whole]:,}"])
    exits = ", ".join(f"{how} ({count} times)" for how, count in sorted(result["exits"].items()))
    times = result["delivered_s"]
    return (
        f"{aligned(rows)}\n\n{aligned(books)}\n\n"
        f"{duration(result['seconds'])}, seed {result['seed']}, {result['runs']} runs of "
        f"{result['epochs']} epochs in all; no new step for {duration(result['stalled_s'])}\n"
        "seconds lost: until the first step beyond those before the fault; load average "
        f"{result['load'][0]:.1f} at the start, {result['load'][1]:.1f} at the end\n"
        f"drivers ended: {exits}\nseconds from MLflow's return until it was complete: "
        + (f"median {median(times):.1f}, most {max(times):.1f}" if times else "no outage")
        + f"; {result['delivered_by_command']} runs had ended before and needed jobs.deliver"
    )
