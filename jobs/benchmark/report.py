"""Parts of the reports that all benchmarks share: the machine, and tables."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


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


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows in columns, the first flush left, the others right; short rows end early."""
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(max(map(len, rows)))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    )
