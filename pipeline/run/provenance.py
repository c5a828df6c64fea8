"""Provenance of a run: the code's commit, library versions, the device."""

import os
import platform
from pathlib import Path

import torch

from pipeline.io.installation import git
from pipeline.model.build import training_dtype
from pipeline.run.metadata import versions
from pipeline.settings import Settings

_CPUS = Path("/proc/cpuinfo")


def origin(code: Path = Path(__file__).parents[2]) -> dict[str, str]:
    """Return tags with the versions of Python and libraries, and the commit of the checkout `code`.

    `mlflow.source.git.dirty` is `true` if files differ from the commit. There are no tags of a
    commit without git, or if `code` is not the top folder of a checkout, as in a submitted job.
    """
    tags = {f"version.{name}": version for name, version in versions().items()}
    top = git(code, "rev-parse", "--show-toplevel")
    # A copy inside another repository does not have that repository's commit.
    if not top or Path(top) != code.resolve():
        return tags
    commit, changes = git(code, "rev-parse", "HEAD"), git(code, "status", "--porcelain")
    if commit and changes is not None:
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.dirty"] = "true" if changes else "false"
    return tags


def equipment(device: torch.device, workers: int, settings: Settings) -> dict[str, str]:
    """Return tags with the name of rank 0's device, the number of workers, and the arithmetic."""
    trained, evaluated = settings.optim.precision, settings.evaluation.precision
    if trained == "auto":
        dtype = training_dtype(settings.optim, device)
        trained = "bf16" if dtype is torch.bfloat16 else "fp32"
    return {
        "device": device_name(device),
        "workers": str(workers),
        "precision": f"{trained}, evaluated in {evaluated}",
    }


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or a CPU's model and number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = _CPUS.read_text().splitlines() if _CPUS.exists() else []
    found = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return f"{found[0] if found else platform.machine()}, {os.cpu_count()} cores"
