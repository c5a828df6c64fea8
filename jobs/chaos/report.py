"""The result of a soak as plain data and as a table."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from jobs.benchmark.report import aligned
from jobs.chaos.audit import Books
from jobs.chaos.evidence import TakenStep
from jobs.chaos.faults import Fault, Kind
from pipeline.io.console import duration

# Most seconds between two steps of undisturbed training, an evaluation included.
_USUAL_S = 5.0
_MUST_BE_0 = ("samples_lost", "samples_doubled", "metrics_lost", "metrics_doubled")


def result_of(faults: Sequence[Fault], books: Books) -> dict[str, Any]:
    """Return the figures of a soak by name, times in seconds."""
    return {
        "injected": len(faults),
        "survived": sum(fault.is_survived for fault in faults),
        "runs": books.runs,
        "epochs": books.epochs,
        "steps": books.steps,
        "steps_repeated": books.repeated,
        "samples": books.samples.expected,
        "samples_lost": books.samples.lost,
        "samples_doubled": books.samples.doubled,
        "metrics": books.metrics.expected,
        "metrics_lost": books.metrics.lost,
        "metrics_doubled": books.metrics.doubled,
        "faults": {kind.value: _summary([f for f in faults if f.kind is kind]) for kind in Kind},
    }


def _summary(faults: Sequence[Fault]) -> dict[str, Any]:
    lost = [fault.lost_s for fault in faults if fault.lost_s is not None]
    return {
        "injected": len(faults),
        "survived": sum(fault.is_survived for fault in faults),
        "lost_s": [round(seconds, 2) for seconds in lost],
    }


def stalled_s(steps: Sequence[TakenStep]) -> float:
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
    counts = [
        ["samples lost", result["samples_lost"], result["samples"]],
        ["samples seen twice", result["samples_doubled"], result["samples"]],
        ["metrics lost", result["metrics_lost"], result["metrics"]],
        ["metrics doubled", result["metrics_doubled"], result["metrics"]],
        ["steps repeated", result["steps_repeated"], result["steps"]],
    ]
    books = [["", "count", "of"]] + [[str(n), f"{a:,}", f"{b:,}"] for n, a, b in counts]
    return (
        f"{aligned(rows)}\n\n{aligned(books)}\n\n"
        f"{duration(result['seconds'])}, seed {result['seed']}, {result['runs']} runs of "
        f"{result['epochs']} epochs in all; no new step for {duration(result['stalled_s'])}\n"
        "seconds lost: until the first step beyond those before the fault; load average "
        f"{result['load'][0]:.1f} at the start, {result['load'][1]:.1f} at the end\n"
        f"drivers ended: {_counted(result['exits'])}\n"
        f"seconds from MLflow's return until it was complete: {_times(result['delivered_s'])}; "
        f"{result['delivered_by_command']} runs had ended before and needed jobs.deliver"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{how} ({count} times)" for how, count in sorted(counts.items()))


def _times(times: Sequence[float]) -> str:
    return f"median {median(times):.1f}, most {max(times):.1f}" if times else "no outage"
