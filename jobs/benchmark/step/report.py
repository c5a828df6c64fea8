"""The training step's figures as a person reads them."""

import statistics
from collections.abc import Mapping
from typing import Any

from jobs.benchmark.report import aligned
from jobs.benchmark.step.profile import KINDS


def step_report(result: Mapping[str, Any]) -> str:
    """Tables of all that was measured."""
    return "\n\n".join(
        part(result) for part in (_head, _speed, _shares, _memory, _curves, _headline)
    )


def _head(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    peaks = ", ".join(
        f"{name} {per_s / 1e9:,.0f}" for name, per_s in result["matmul_flops_per_s"].items()
    )
    return (
        f"{machine['device']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"load {machine['load_average']:.1f}, torch {machine['torch']}\n"
        f"matrix products, GFLOP/s: {peaks}"
    )


def _speed(result: Mapping[str, Any]) -> str:
    rows = [["", "pass", "images/s", "min", "max", "ms", "GFLOP/s", "of matmul"]]
    for row in result["speed"]:
        way = f"{row['precision']} {row['layout']}" + " compiled" * row["compile"]
        rows.append(
            [
                f"stacks {row['stacks']}, batch {row['batch']}, {way}",
                row["pass"],
                *(f"{row[key]:,.2f}" for key in ("images_per_s", "min", "max")),
                f"{row['ms']:,.1f}",
                f"{row['flops_per_s'] / 1e9:,.1f}",
                f"{row['of_matmul_peak']:.2f}",
            ]
        )
    return aligned(rows)


def _shares(result: Mapping[str, Any]) -> str:
    rows = [["training step, share of time", *KINDS]]
    for name, shares in result["time_shares"].items():
        rows.append([name, *(f"{shares[kind]:.2f}" for kind in KINDS)])
    return aligned(rows) + "\ninput: floats, targets and loss"


def _memory(result: Mapping[str, Any]) -> str:
    rows = [["peak memory of training", "MiB"]]
    rows += [[name, f"{mib:,.0f}"] for name, mib in result["peak_memory_mib"].items()]
    return aligned(rows)


def _curves(result: Mapping[str, Any]) -> str:
    if "curves" not in result:
        return "learning curves: left out"
    curves = result["curves"]
    runs, every = curves["runs"], curves["smoothed_over_steps"]
    ways = list(runs[0]["loss"])
    rows = [[curves["task"], *ways]]
    for end in range(every, len(runs[0]["loss"][ways[0]]) + 1, every):
        means = [statistics.mean(_mean_loss(run, way, end, every) for run in runs) for way in ways]
        rows.append([f"loss, steps {end - every + 1}-{end}", *(f"{loss:.4f}" for loss in means)])
    for run in runs:
        for goal in run["goals"]:
            reached = [_reached(goal["reached"][way]) for way in ways]
            rows.append([f"seed {run['seed']}, to loss {goal['loss']:.4f}", *reached])
    return aligned(rows)


def _mean_loss(run: Mapping[str, Any], way: str, end: int, steps: int) -> float:
    return statistics.mean(run["loss"][way][end - steps : end])


def _reached(at: Mapping[str, float] | None) -> str:
    return "never" if at is None else f"{at['steps']:.0f} steps, {at['seconds']:.1f} s"


def _headline(result: Mapping[str, Any]) -> str:
    lines = [
        "over_plain_fp32   "
        + "   ".join(
            f"stacks {stacks}: {value:.2f}" for stacks, value in result["over_plain_fp32"].items()
        )
    ]
    for way, over in result["to_same_loss_over_plain_fp32"].items():
        lines.append(
            f"to_same_loss_over_plain_fp32   {way}: "
            f"steps {over['steps']:.2f}   seconds {over['seconds']:.2f}"
        )
    return "\n".join(lines)
