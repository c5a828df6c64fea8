"""Where a run comes from: the code's commit, the libraries' versions, the device."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from pipeline.run.metadata import versions

_PATIENCE_S = 10.0
_CPUS = Path("/proc/cpuinfo")


def origin(code: Path = Path(__file__).parents[2]) -> dict[str, str]:
    """Tags with the versions of Python and libraries and, where `code` is a git checkout, its commit.

    `mlflow.source.git.dirty` is `true` where files differ from the commit.
    Without git, or where `code` is no checkout's top folder, as in a submitted
    job, nothing is said of commits.
    """
    tags = {f"version.{name}": version for name, version in versions().items()}
    top = _git(code, "rev-parse", "--show-toplevel")
    # What lies within somebody else's repository is not of its commit.
    if not top or Path(top) != code.resolve():
        return tags
    commit, changes = _git(code, "rev-parse", "HEAD"), _git(code, "status", "--porcelain")
    if commit and changes is not None:
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.dirty"] = "true" if changes else "false"
    return tags


def _git(folder: Path, *words: str) -> str | None:
    """What git says, None where it is not there or has nothing to say."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            # Looking must change nothing.
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def equipment(device: torch.device, workers: int) -> dict[str, str]:
    """Tags with the name of rank 0's device and the number of workers."""
    return {"device": device_name(device), "workers": str(workers)}


def device_name(device: torch.device) -> str:
    """What a GPU calls itself; of a CPU its model and number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = _CPUS.read_text().splitlines() if _CPUS.exists() else []
    found = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return f"{found[0] if found else platform.machine()}, {os.cpu_count()} cores"
