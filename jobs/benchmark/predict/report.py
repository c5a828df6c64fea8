"""Prediction's figures as a person reads them."""

from collections.abc import Mapping
from typing import Any

from jobs.benchmark.report import aligned


def predict_report(result: Mapping[str, Any]) -> str:
    """Tables of all that was measured."""
    parts = (_head(result), _speed(result), _memory(result), _headline(result))
    return "\n\n".join(part for part in parts if part)


def _head(result: Mapping[str, Any]) -> str:
    machine, ways = result["machine"], result["settings"]["ways"]
    absent = "" if "ONNX Runtime fp32" in ways else "\nONNX Runtime: not installed"
    return (
        f"{machine['device']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"load {machine['load_average']:.1f}, torch {machine['torch']}{absent}"
    )


def _speed(result: Mapping[str, Any]) -> str:
    rows = [["", "images/s", "min", "max", "over plain fp32"]]
    for row in result["speed"]:
        stacks, batch, way = row["stacks"], row["batch"], row["way"]
        over = result["over_plain_fp32_by_way"][str(stacks)][str(batch)][way]
        rows.append(
            [
                f"stacks {stacks}, batch {batch}, {way}",
                *(f"{row[key]:,.2f}" for key in ("images_per_s", "min", "max")),
                f"{over:.2f}",
            ]
        )
    return aligned(rows)


def _memory(result: Mapping[str, Any]) -> str:
    if not result["peak_memory_mib"]:
        return ""
    rows = [[f"peak memory, batch {result['settings']['memory_batch']}", "MiB"]]
    for stacks, ways in result["peak_memory_mib"].items():
        rows += [[f"stacks {stacks}, {way}", f"{mib:,.0f}"] for way, mib in ways.items()]
    return aligned(rows)


def _headline(result: Mapping[str, Any]) -> str:
    lines = [f"prediction takes {result['settings']['default']} here; over_plain_fp32:"]
    for stacks, batches in result["over_plain_fp32"].items():
        shown = "   ".join(f"batch {batch}: {value:.2f}" for batch, value in batches.items())
        lines.append(f"  stacks {stacks}   {shown}")
    return "\n".join(lines)
