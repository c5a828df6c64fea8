"""Failures of workers: how they are reported, which ones are permanent, and what caused them.

Ray Train's controller imports this file, so it imports little: no torch, and neither MLflow nor the
training.
"""

from pathlib import Path
from typing import Any

from ray.train import ControllerError, TrainingFailedError, UserCallback, WorkerGroupError

from pipeline.cluster.heartbeats import last_heard
from pipeline.io.console import say
from pipeline.run.layout import StorageError
from pipeline.run.ownership import SupersededError

# Errors that every retry would meet again.
PERMANENT = (ValueError, ArithmeticError, StorageError, SupersededError)


class FailureReporter(UserCallback):
    """Ray Train's callback that names failed ranks, and ends a run whose error is permanent.

    Runs in Ray Train's controller. `folder` is the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Print the failures; raise a permanent error as ControllerError, which is not retried."""
        for rank, error in worker_exceptions.items():
            if isinstance(error, SupersededError):
                continue  # the driver notices too
            beat = last_heard(self._folder, rank)
            name = f"{beat}, last heartbeat after {beat.what}," if beat else f"rank {rank}"
            # Traces and advice follow the first line.
            say(f"{name} failed: {str(error).partition(chr(10))[0]}")
        for error in worker_exceptions.values():
            if isinstance(error, PERMANENT):
                raise ControllerError(error) from error


def reason(error: TrainingFailedError) -> str:
    """Return the message of the error that caused a failure."""
    if isinstance(error, ControllerError):
        return str(error.controller_failure)
    if not isinstance(error, WorkerGroupError):
        return str(error)
    failures = error.worker_failures
    rank = min(failures, key=lambda rank: (_is_collateral(failures[rank]), rank))
    return f"rank {rank}: {type(failures[rank]).__name__}: {failures[rank]}"


def _is_collateral(error: Exception) -> bool:
    """Whether a rank only lost its connection to another rank, which had failed before."""
    import torch.distributed as dist

    # Gloo raises a plain RuntimeError.
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
