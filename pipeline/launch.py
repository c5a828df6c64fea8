"""From a plan to a trained network: start the workers, start them again when they are lost, conclude."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
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

from pipeline.cluster import check_capacity
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.evaluation.charts import curves, joint_bars, threshold_curve
from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.metrics import Scores, table
from pipeline.evaluation.overlays import draw_close_ups
from pipeline.evaluation.per_person import PEOPLE_NAME, read_cases
from pipeline.heartbeats import last_heard
from pipeline.io.console import say
from pipeline.lean_trainer import LeanTrainer
from pipeline.model.cost import network_cost
from pipeline.note import NOTE, note
from pipeline.recording import InterruptedRunError, Recording
from pipeline.rendezvous import torch_config
from pipeline.reservation import take_over
from pipeline.run.checkpoint import load_network
from pipeline.run.checkpoint_manager import BEST_CHECKPOINT, StorageError, best, newest_sound
from pipeline.run.journal import Journal
from pipeline.run.layout import FIGURES, overlay_path
from pipeline.run.metadata import Progress
from pipeline.run.plan import Plan
from pipeline.settings import RaySettings
from pipeline.settings.ray import KEEP_MEMORY
from pipeline.stopping import stopping
from pipeline.training.probes import reached
from pipeline.training.trainer import Task
from pipeline.worker import train_worker

__all__ = ["Outcome", "TrainingFailedError", "conclude", "reason", "train"]

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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run leaves: its best checkpoint, the epoch that it is of, and its scores."""

    checkpoint: Path
    epoch: int
    scores: dict[str, Scores]

    @property
    def overlay(self) -> Path:
        """Picture of the best checkpoint's predictions on validation people."""
        return overlay_path(self.checkpoint.parent, self.epoch)


class Judge(UserCallback):
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


def train(plan: Plan, recording: Recording, *, label: str = "") -> Outcome:
    """Train on the cluster that is connected, and enter what comes of it in the run's journal.

    `label` begins every line that the workers say. Raises ValueError if the
    cluster is too small or MLflow does not answer though it has to,
    TrainingFailedError saying why when training fails, and InterruptedRunError
    when it was asked to stop.
    """
    check_capacity(plan.settings.ray)
    recording.begin()
    reached("cluster")
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
            callbacks=[Judge(plan.folder)],
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


def conclude(plan: Plan, journal: Journal) -> Outcome:
    """Enter the figures of the whole run and its best checkpoint. Raises ValueError if it has none that is sound."""
    headline = plan.measure.metric_name
    found = best(plan.folder, headline)
    if found is None:
        raise ValueError(f"{plan.folder}: has no checkpoint with {headline}")
    folder, record = found
    epoch = record.progress.epochs
    evaluation = Evaluation.from_json(json.loads((folder / EVALUATION_NAME).read_text()))
    scores = evaluation.scores(plan.joint_set)
    best_scores = scores[plan.measure.key]
    history = journal.history(["train_loss", "val_loss", headline])
    _draw(plan, journal, curves(history, headline), "curves.png")
    _draw(plan, journal, joint_bars(best_scores), "joints.png")
    thresholds = threshold_curve(evaluation.counts[plan.measure.key], best_scores)
    _draw(plan, journal, thresholds, "thresholds.png")
    _draw_people(plan, journal, folder)
    journal.text("\n\n".join(map(table, scores.values())) + "\n", "scores.txt")
    journal.folder(folder, BEST_CHECKPOINT)
    journal.metrics({f"best_{headline}": best_scores.headline, "best_epoch": epoch}, epoch)
    if plan.settings.tracking.register:
        value, checksum = record.metrics[headline], plan.val.checksum
        registered = plan.settings.tracking.register
        journal.register(folder.name, registered, headline, value, checksum)
    result = f"{plan.measure.headline} {best_scores.headline:.2f} after epoch {epoch}"
    journal.tags({NOTE: note(plan, network_cost(plan.settings.model), result)})
    return Outcome(checkpoint=folder, epoch=epoch, scores=scores)


def _draw_people(plan: Plan, journal: Journal, checkpoint: Path) -> None:
    """Draw the checkpoint's worst cases and heatmaps, on this machine's CPU: a moment's work."""
    if not (checkpoint / PEOPLE_NAME).exists():
        # Written before people's results were kept.
        return
    device = torch.device("cpu")
    network, _ = load_network(checkpoint, device)
    cases = read_cases(checkpoint / PEOPLE_NAME)
    people = ShardReader(plan.val.paths)
    loader = SampleLoader(people, plan.joint_set, plan.settings.model.input_px)
    figures = draw_close_ups(network, loader, plan.settings, cases, plan.measure, device)
    for name, figure in figures.items():
        _draw(plan, journal, figure, name)


def _draw(plan: Plan, journal: Journal, figure: Figure, name: str) -> None:
    """Keep a figure in the run's folder, and enter it in the journal."""
    path = plan.folder / FIGURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    journal.file(path, "")
