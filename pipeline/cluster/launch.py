"""From a plan to a trained network: start the workers, start them again when they are lost, conclude."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)

from pipeline.cluster.heartbeats import last_heard
from pipeline.cluster.ray_trainer import LeanTrainer
from pipeline.cluster.rendezvous import torch_config
from pipeline.cluster.reservation import take_over
from pipeline.cluster.start import check_capacity
from pipeline.cluster.stop import stopping
from pipeline.cluster.worker import train_worker
from pipeline.io.console import say
from pipeline.run.checkpoint_manager import StorageError, newest_sound
from pipeline.run.metadata import Progress
from pipeline.run.plan import Plan
from pipeline.settings import RaySettings
from pipeline.settings.ray import KEEP_MEMORY
from pipeline.tracking.recording import InterruptedRunError, RunRecorder
from pipeline.tracking.summary import Outcome, conclude
from pipeline.training.probes import note_startup
from pipeline.training.trainer import Task

# Seconds that ranks wait for one another at least before a lost one is an error.
_COLLECTIVE_TIMEOUT_S = 300
# A worker's own watchdog has spoken and ended it by 1.35 hang times. Timeouts that only say that
# time is up come after that: of collectives, and of Ray Train's questions whether a worker is alive.
_AFTER_WATCHDOG = 1.5
# A cluster that can't start the workers is an error after this many tries (five minutes), not an endless wait.
_START_TRIES = 20
# How often an elastic run looks whether there is room for more workers.
_RESIZE_EVERY_S = 15.0
# Errors that would come again however often training is tried.
_LASTING = (ValueError, ArithmeticError, StorageError)


__all__ = ["Outcome", "TrainingFailedError", "conclude", "reason", "train"]


class FailureReporter(UserCallback):
    """Names ranks that fail, and ends a run whose error would come again however often it is tried.

    Runs in Ray Train's controller; `folder` is the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Say who failed; make such an error the controller's, which Ray Train does not try to recover from."""
        for rank, error in worker_exceptions.items():
            beat = last_heard(self._folder, rank)
            stood = f"{beat}, last heard of since {beat.what}," if beat else f"rank {rank}"
            # Traces and advice follow the first line.
            say(f"{stood} failed: {str(error).partition(chr(10))[0]}")
        for error in worker_exceptions.values():
            if isinstance(error, _LASTING):
                raise ControllerError(error) from error


def train(plan: Plan, recording: RunRecorder, *, label: str = "") -> Outcome:
    """Train on the cluster that is connected, and enter what comes of it in the run's journal.

    `label` begins every line that the workers say. Raises ValueError if the
    cluster is too small or MLflow does not answer though it has to,
    TrainingFailedError saying why when training fails, and InterruptedRunError
    when it was asked to stop.
    """
    check_capacity(plan.settings.ray)
    recording.begin()
    note_startup("cluster")
    with stopping(plan.folder) as stop:
        _fit(plan, label)
        progress = _progress(plan)
        if stop.is_asked and progress.epochs < plan.settings.optim.epochs:
            raise InterruptedRunError(
                f"stopped with a checkpoint after {progress.samples:,} samples; the same command goes on"
            )
    return conclude(plan, recording.journal)


def _fit(plan: Plan, label: str) -> None:
    """Run the workers to the end; as long as checkpoints come, failures before them don't count."""
    watched_s = _watched_s(plan.settings.ray)
    if watched_s:
        # Ray Train reads it here, in the driver, and hands it on to its controller.
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = f"{watched_s:g}"
    while True:
        before = _progress(plan)
        made = trainer(plan, task_of(plan, label))
        take_over(plan.folder, made.train_run_context.run_id)
        try:
            made.fit()
            return
        except TrainingFailedError as error:
            is_stuck = _progress(plan).steps <= before.steps
            if is_stuck or _is_lasting(error) or plan.settings.ray.max_failures == 0:
                raise TrainingFailedError(reason(error)) from error
            say("workers were lost again, but training has come further since; starting anew")


def _is_lasting(error: TrainingFailedError) -> bool:
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, _LASTING)


def reason(error: TrainingFailedError) -> str:
    """The error that a failure began with, in its own words."""
    if isinstance(error, ControllerError):
        return str(error.controller_failure)
    if not isinstance(error, WorkerGroupError):
        return str(error)
    failures = sorted(error.worker_failures.items(), key=lambda of: (_is_collateral(of[1]), of[0]))
    rank, cause = failures[0]
    return f"rank {rank}: {type(cause).__name__}: {cause}"


def _is_collateral(error: Exception) -> bool:
    """Whether a rank only missed another, which had failed before."""
    # Gloo has no type of its own.
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _progress(plan: Plan) -> Progress:
    """How far the run's newest sound checkpoint is."""
    found = newest_sound(plan.folder, say)
    return Progress() if found is None else found[1].progress


def task_of(plan: Plan, label: str = "") -> Task:
    """What the plan's workers are told; `label` begins every line that they say."""
    return Task(
        settings=plan.settings.flat(),
        joint_set=plan.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
        folder=str(plan.folder),
        label=label,
    )


def trainer(
    plan: Plan, task: Task, loop: Callable[[dict[str, Any]], None] = train_worker
) -> LeanTrainer:
    """Ray's trainer, with the plan's workers running `loop` on the fields of `task`."""
    settings = plan.settings
    resources = {"CPU": settings.ray.cpus_per_worker}
    if settings.ray.gpus_per_worker:
        resources["GPU"] = settings.ray.gpus_per_worker
    return LeanTrainer(
        loop,
        train_loop_config=asdict(task),
        torch_config=torch_config(max(_COLLECTIVE_TIMEOUT_S, math.ceil(_watched_s(settings.ray)))),
        scaling_config=ScalingConfig(
            num_workers=_workers(settings.ray),
            elastic_resize_monitor_interval_s=_RESIZE_EVERY_S,
            use_gpu=settings.ray.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=settings.ray.name,
            storage_path=settings.ray.storage,
            callbacks=[FailureReporter(plan.folder)],
            failure_config=FailureConfig(
                max_failures=settings.ray.max_failures, controller_failure_limit=_START_TRIES
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": KEEP_MEMORY},
        ),
    )


def _watched_s(settings: RaySettings) -> float:
    """Seconds after which a worker's own watchdog would have ended it if it could; 0: it has none."""
    return 60 * settings.hang_minutes * _AFTER_WATCHDOG


def _workers(settings: RaySettings) -> int | tuple[int, int]:
    """How many workers Ray Train is to start; it takes a range for elastic."""
    fewest, most = settings.fewest_workers, settings.most_workers
    return (fewest, most) if settings.is_elastic else most
