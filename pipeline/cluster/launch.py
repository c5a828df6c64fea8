"""Trains a plan on the cluster: starts the workers, restarts them when they fail."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)

from pipeline.cluster.failures import PERMANENT, FailureReporter, reason
from pipeline.cluster.ray_private import (
    LeanTrainer,
    StartWatch,
    addressed,
    has_not_started,
    take_over,
)
from pipeline.cluster.rendezvous import RendezvousConfig
from pipeline.cluster.room import await_room, fed, most_that_fit, needs
from pipeline.cluster.start import check_capacity, is_for_one_run
from pipeline.cluster.stop import Stop, stopping
from pipeline.cluster.worker import train_worker
from pipeline.io.console import say
from pipeline.io.location import is_store
from pipeline.run.checkpoint_manager import newest_sound
from pipeline.run.layout import STARTING_NAME
from pipeline.run.metadata import Progress
from pipeline.run.ownership import Owner, Turns
from pipeline.run.plan import Plan
from pipeline.settings import Settings
from pipeline.settings.ray import COMPILED_NAME, KEEP_MEMORY
from pipeline.tracking.recording import InterruptedRunError, RunRecorder
from pipeline.training.console_logger import epoch_bars, line_every_s
from pipeline.training.probes import COMPILE_PATIENCE, note_startup
from pipeline.training.trainer import Task

__all__ = ["TrainingFailedError", "reason", "train"]

# Folder of Ray Train's notes, beside the copies of runs that lie in a bucket.
_RAY_NOTES = ".ray"
# Shortest timeout of a collective operation.
_COLLECTIVE_TIMEOUT_S = 300
# A worker's watchdog has reported a hang and ended the process by 1.35 x the hang time. Timeouts
# that explain nothing come later: those of collectives, and of Ray Train's health checks.
_AFTER_WATCHDOG = 1.5
# Seconds for which Ray Train waits for room that others have taken at the last moment.
_START_S = 60.0
# Its attempts after the first one within that time, since it learns late which nodes are left.
_START_RETRIES = 3
# Attempts in a row to start workers that die as they start.
_START_TRIES = 5
# Environment variable with the folder of torch.compile's results.
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
# Seconds between an elastic run's checks for more workers.
_RESIZE_EVERY_S = 15.0


def train(plan: Plan, recording: RunRecorder, *, label: str = "") -> None:
    """Train on the connected cluster; `conclude` then adds the outcome to the run's journal.

    `label` begins every line that the workers print. Raises ValueError if the cluster is too small
    or MLflow is required and does not answer, TrainingFailedError with the reason when training
    fails, InterruptedRunError when the run was asked to stop, and SupersededError when another
    start has taken it over.
    """
    settings, sentence = fed(plan.settings)
    if sentence:
        say(f"{label}: {sentence}" if label else sentence)
    plan = replace(plan, settings=settings)
    check_capacity(settings.ray)
    (plan.folder / STARTING_NAME).touch()
    recording.begin()
    note_startup("cluster")
    with (
        stopping(plan.folder, recording.writer, plan.measure.metric_name) as stop,
        addressed(ray.get_runtime_context().gcs_address),
    ):
        _fit(plan, recording, stop, label)
        progress = _progress(plan)
        if stop.is_asked:
            if stop.is_by_signal:
                recording.killed()
            kept = f"with a checkpoint after {progress.samples:,} samples"
            raise InterruptedRunError(
                f"stopped {kept if progress.samples else 'before its first checkpoint'}; "
                "the same command resumes it"
            )


def _fit(plan: Plan, recording: RunRecorder, stop: Stop, label: str) -> None:
    """Run the workers to the end, or until the run is stopped.

    A new checkpoint resets the count of failures and the time for which it waits for room.
    """
    settings, starting = plan.settings.ray, plan.folder / STARTING_NAME
    watchdog_s = _watchdog_s(plan.settings)
    if watchdog_s:
        # Ray Train reads it in the driver, and passes it to its controller.
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = f"{watchdog_s:g}"
    since, tries = time.monotonic(), 0
    while True:
        before = _progress(plan)
        starting.touch()
        most = settings.most_workers
        # A cluster for one run has the room that was checked before.
        if not is_for_one_run():
            most = most_that_fit(settings) if settings.is_elastic else most
            if not await_room(settings, since, lambda: stop.is_asked, label):
                return
        attempt = trainer(plan, task_of(plan, label, recording.writer.owner), most=most)
        recording.journal.check()
        take_over(plan.folder, attempt.train_run_context.run_id)
        try:
            with _turn_of_workers(recording.writer.turns), epoch_bars():
                attempt.fit()
            return
        except TrainingFailedError as error:
            recording.journal.check()
            is_stuck = _progress(plan).steps <= before.steps
            tries = tries + 1 if is_stuck else 1
            if has_not_started(error) and tries < _START_TRIES:
                if stop.is_asked:
                    return
                since = since if is_stuck else time.monotonic()
                continue
            is_permanent = isinstance(getattr(error, "controller_failure", None), PERMANENT)
            if is_stuck or is_permanent or settings.max_failures == 0:
                raise TrainingFailedError(reason(error)) from error
            say("workers failed again, but there is a newer checkpoint: restarting from it")
        finally:
            starting.unlink(missing_ok=True)


@contextmanager
def _turn_of_workers(turns: Turns | None) -> Iterator[None]:
    """Let the workers write to the run, where they share no disk with this process."""
    if turns is None:
        yield
        return
    failure: TrainingFailedError | None = None
    turns.hand_over()
    try:
        yield
    except TrainingFailedError as error:
        failure = error
        raise
    finally:
        try:
            turns.take_back()
        except OSError as error:
            if failure is None:
                raise
            raise OSError(f"{reason(failure)}; and {error}") from failure


def _progress(plan: Plan) -> Progress:
    """Return the progress of the run's newest sound checkpoint."""
    found = newest_sound(plan.folder, say)
    return Progress() if found is None else found[1].progress


def task_of(plan: Plan, label: str = "", owner: Owner | None = None) -> Task:
    """Return what the plan's workers need; `label` begins every line that they print."""
    return Task(
        settings=plan.settings.flat(),
        joint_set=plan.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
        folder=str(plan.folder),
        label=label,
        line_every_s=line_every_s(),
        owner={} if owner is None else asdict(owner),
        checksums=plan.checksums,
        crop=None if plan.val.crop is None else asdict(plan.val.crop),
    )


def trainer(
    plan: Plan,
    task: Task,
    loop: Callable[[dict[str, Any]], None] = train_worker,
    *,
    most: int = 0,
) -> LeanTrainer:
    """Return Ray's trainer; the plan's workers run `loop` on the fields of `task`.

    An elastic run has at most `most` workers; 0: as many as its settings allow.
    """
    settings, timeout_s = plan.settings.ray, math.ceil(_watchdog_s(plan.settings))
    fewest, most = settings.fewest_workers, most or settings.most_workers
    return LeanTrainer(
        loop,
        train_loop_config=asdict(task),
        is_shared=not is_for_one_run(),
        backend_config=RendezvousConfig(timeout_s=max(_COLLECTIVE_TIMEOUT_S, timeout_s)),
        scaling_config=ScalingConfig(
            num_workers=(fewest, most) if most > fewest and settings.is_elastic else most,
            elastic_resize_monitor_interval_s=_RESIZE_EVERY_S,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=needs(settings),
        ),
        run_config=RunConfig(
            name=settings.name,
            # Of a run in a bucket, Ray Train's own notes, which no run needs, stay on this machine.
            storage_path=str(plan.storage / (_RAY_NOTES if is_store(settings.storage) else "")),
            callbacks=[
                FailureReporter(plan.folder),
                StartWatch(plan.folder / STARTING_NAME, fewest, _START_S),
            ],
            # Then the driver waits for room, and prints so.
            failure_config=FailureConfig(
                max_failures=settings.max_failures, controller_failure_limit=_START_RETRIES
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": _environment(plan.settings)},
        ),
    )


def _environment(settings: Settings) -> dict[str, str]:
    """Return the environment of workers: memory, and compiled code where all nodes find it."""
    if not settings.optim.compile:
        return KEEP_MEMORY
    # A worker that is restarted, or one on another node, then compiles nothing again. Without a
    # shared disk each node keeps its own, where torch does by default.
    shared = "" if is_store(settings.ray.storage) else f"{settings.ray.storage}/{COMPILED_NAME}"
    compiled = os.environ.get(_COMPILED) or shared
    return KEEP_MEMORY | ({_COMPILED: compiled} if compiled else {})


def _watchdog_s(settings: Settings) -> float:
    """Seconds without progress after which a worker's watchdog has ended it; 0: no watchdog."""
    patience = COMPILE_PATIENCE if settings.optim.compile else 1.0
    return 60 * settings.ray.hang_minutes * patience * _AFTER_WATCHDOG
