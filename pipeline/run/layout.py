"""Names of the files in a run's folder, and the error of one that can't be written."""

from pathlib import Path

# Figures of the whole run, in its folder.
FIGURES = "figures"
# Folder of pictures of predictions, in a run's folder and in MLflow.
OVERLAYS = "overlays"
# This file in a run's folder asks the run to write a checkpoint and stop. It may have the token of
# the owner's start that it is meant for.
STOP_NAME = "stop"
# File in a sweep's folder that tells the sweep from another of the same name.
SWEEP_NAME = "sweep.json"
# This file in a run's folder tells its driver that it has no workers: they start, or wait for room.
STARTING_NAME = "starting"
# In a folder with a copy in a bucket: the manifest that it was last equal to, and a lock.
STATE, LOCK = ".mirror.json", ".mirror.lock"


class StorageError(OSError):
    """A checkpoint could not be written."""


def overlay_path(folder: Path, epoch: int) -> Path:
    """Return the path of the picture of an epoch's predictions in a run's folder."""
    return folder / OVERLAYS / f"overlay_{epoch:04d}.png"
