"""Names of the files in a run's folder, and errors of those that are lost or not written."""

from pathlib import Path

from pipeline.io.parsing import parse_json, text_of

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
# The scratch folders that this process uses.
SCRATCHES: set[Path] = set()


class LostError(ValueError):
    """A run's folder lacks what the bucket has, as after its removal: nothing is uploaded."""


class StorageError(OSError):
    """A checkpoint could not be written."""


def overlay_path(folder: Path, epoch: int) -> Path:
    """Return the path of the picture of an epoch's predictions in a run's folder."""
    return folder / OVERLAYS / f"overlay_{epoch:04d}.png"


def location_of(folder: Path) -> str:
    """Return where the copy of a folder in a bucket lies; empty if it has none.

    Only what lies in a scratch folder of this process has one: a stranger's folder may name any
    bucket.
    """
    path, place = folder / STATE, folder.resolve()
    if not path.exists() or not any(place.is_relative_to(scratch) for scratch in SCRATCHES):
        return ""
    return text_of(parse_json(path.read_bytes(), str(path))["location"], f"{path}: location")
