"""Names of the files in a run's folder."""

from pathlib import Path

# Figures of the whole run, in its folder.
FIGURES = "figures"
# Folder of the pictures of predictions, in a run's folder and in MLflow.
OVERLAYS = "overlays"
# Whoever makes this file in a run's folder asks it to write a checkpoint and stop.
STOP_NAME = "stop"


def overlay_path(folder: Path, epoch: int) -> Path:
    """Where a run's folder has the picture of an epoch's predictions."""
    return folder / OVERLAYS / f"overlay_{epoch:04d}.png"
