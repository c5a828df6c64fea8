"""What Ray holds reserved for a run, whose driver may have been killed since."""

from pathlib import Path

import ray

# In a run's folder: Ray Train's name for the start of the run that reserved last.
_NAME = ".reservation"
# Ray's actor that shares a cluster's resources out among those who ask for them.
_COORDINATOR = "AutoscalingCoordinator"


def take_over(folder: Path, run_id: str) -> None:
    """Free what the last start of the run in `folder` has reserved, and note that of the start `run_id`.

    The controller of a run gives its reservation back when it ends. Of one that
    was killed Ray keeps it for three minutes, in which an elastic run is told
    that there is no room: the same command would wait for itself.
    """
    note = folder / _NAME
    if note.exists():
        _cancel(note.read_text().strip())
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(run_id + "\n")


def _cancel(run_id: str) -> None:
    """Have a reservation forgotten, if there is one."""
    try:
        coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
    except ValueError:
        return  # nobody has reserved anything on this cluster
    # Not waited for: training begins without it too, if later.
    coordinator.cancel_request.remote(f"train-{run_id}")
