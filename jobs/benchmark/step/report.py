"""The training step's figures as tables."""

import statistics
from collections.abc import Mapping
from typing import Any

from jobs.benchmark.step.profile import KINDS
from jobs.benchmark.timing import machine_line
from pipeline.io.console import aligned, amount


def step_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured as tables."""
    peaks = ", ".join(
        f"{name} {per_s / 1e9:,.0f}" for name, per_s in result["matmul_flops_per_s"].items()
    )
    head = f"{machine_line(result['machine'])}\nmatrix products, GFLOP/s: {peaks}"
    parts = (_speed, _shares, _memory, _curves, _primary)
    return "\n\n".join([head, *(part(result) for part in parts)])


def _speed(result: Mapping[str, Any]) -> str:
    rows = [["", "pass", "images/s", "min", "max", "ms", "GFLOP/s", "of matmul"]]
    for row in result["speed"]:
        method = f"{row['precision']} {row['layout']}" + " compiled" * row["compile"]
        rows.append(
            [
                f"stacks {row['stacks']}, batch {row['batch']}, {method}",
                row["pass"],
                *(amount(row[key]) for key in ("images_per_s", "min", "max")),
                amount(row["ms"], 1),
                amount(row["flops_per_s"] / 1e9, 1),
                amount(row["of_matmul_peak"]),
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
        return "learning curves: skipped"
    curves = result["curves"]
    runs, every = curves["runs"], curves["smoothed_over_steps"]
    names = list(runs[0]["loss"])
    rows = [[curves["task"], *names]]
    for end in range(every, len(runs[0]["loss"][names[0]]) + 1, every):
        taken = slice(end - every, end)
        means = [statistics.fmean(x for run in runs for x in run["loss"][n][taken]) for n in names]
        rows.append([f"loss, steps {end - every + 1}-{end}", *(f"{loss:.4f}" for loss in means)])
    for run in runs:
        for goal in run["goals"]:
            reached = [
                f"{at['steps']:.0f} steps, {at['seconds']:.1f} s" if at else "never"
                for at in map(goal["reached"].get, names)
            ]
            rows.append([f"seed {run['seed']}, to loss {goal['loss']:.4f}", *reached])
    return aligned(rows)


def _primary(result: Mapping[str, Any]) -> str:
    lines = [
        "over_plain_fp32   "
        + "   ".join(
            f"stacks {stacks}: {value:.2f}" for stacks, value in result["over_plain_fp32"].items()
        )
    ]
    for method, over in result["to_same_loss_over_plain_fp32"].items():
        lines.append(
            f"to_same_loss_over_plain_fp32   {method}: "
            f"steps {over['steps']:.2f}   seconds {over['seconds']:.2f}"
        )
    return "\n".join(lines)
