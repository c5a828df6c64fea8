"""From a plan to a trained network: start the workers, start them again when they are lost, conclude."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.archive import StorageError, best, newest_sound
from pipeline.cluster import check_capacity
from pipeline.evaluation import Evaluation
from pipeline.figures import curves, joint_bars, threshold_curve
from pipeline.journal import Journal
from pipeline.keeper import overlay_path
from pipeline.learner import Task
from pipeline.loop import EVALUATION_NAME
from pipeline.metric import Scores, table
from pipeline.overlays import draw_augmented, spaced
from pipeline.plan import Plan
from pipeline.progress import say
from pipeline.record import Progress
from pipeline.recording import InterruptedRunError
from pipeline.reservation import take_over
from pipeline.settings import RaySettings
from pipeline.shards.bad import BadSamples
from pipeline.shards.read import ShardReader
from pipeline.shards.sample import Samples
from pipeline.shards.source import training_shards
from pipeline.shards.stream import SampleLoader
from pipeline.stopping import stopping
from pipeline.training import KEEP_MEMORY
from pipeline.worker import train_worker

__all__ = ["Outcome", "TrainingFailedError", "train"]

# Seconds that ranks wait for one another before a lost one is an error.
_COLLECTIVE_TIMEOUT_S = 300
# A cluster that can't start the workers is an error after this many tries (five minutes), not an endless wait.
_START_TRIES = 20
# How often an elastic run looks whether there is room for more workers.
_RESIZE_EVERY_S = 15.0
# Training people in the picture that a run starts with.
_SHOWN = 12
# Figures of the whole run, in its folder.
_FIGURES = "figures"


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
    """Ends a run whose error would come again however often it is tried; runs in Ray Train's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise such an error again, which Ray Train does not try to recover from."""
        for error in worker_exceptions.values():
            if isinstance(error, (ValueError, ArithmeticError, StorageError)):
                raise error


def train(plan: Plan, journal: Journal, *, label: str = "") -> Outcome:
    """Train on the cluster that is connected, and enter what comes of it in the run's journal.

    `label` begins every line that the workers say. Raises ValueError if the
    cluster is too small, TrainingFailedError when training fails, and
    InterruptedRunError when it was asked to stop.
    """
    check_capacity(plan.settings.ray)
    _draw(plan, journal, _training_samples(plan), "samples.png")
    with stopping(plan.folder) as stop:
        _fit(plan, label)
        progress = _progress(plan)
        if stop.is_asked and progress.epochs < plan.settings.optim.epochs:
            raise InterruptedRunError(
                f"stopped with a checkpoint after {progress.samples:,} samples; the same command goes on"
            )
    return _conclude(plan, journal)


def _fit(plan: Plan, label: str) -> None:
    """Run the workers to the end; as long as checkpoints come, failures before them don't count."""
    while True:
        before = _progress(plan)
        trainer = _trainer(plan, label)
        take_over(plan.folder, trainer.train_run_context.run_id)
        try:
            trainer.fit()
            return
        except TrainingFailedError:
            if _progress(plan).steps <= before.steps or plan.settings.ray.max_failures == 0:
                raise
            say("workers were lost again, but training has come further since; starting anew")


def _progress(plan: Plan) -> Progress:
    """How far the run's newest sound checkpoint is."""
    found = newest_sound(plan.folder, say)
    return Progress() if found is None else found[1].progress


def _trainer(plan: Plan, label: str) -> TorchTrainer:
    settings = plan.settings
    resources = {"CPU": settings.ray.cpus_per_worker}
    if settings.ray.gpus_per_worker:
        resources["GPU"] = settings.ray.gpus_per_worker
    task = Task(
        settings=settings.flat(),
        joint_set=plan.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
        folder=str(plan.folder),
        label=label,
    )
    return TorchTrainer(
        train_worker,
        train_loop_config=asdict(task),
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=_workers(settings.ray),
            elastic_resize_monitor_interval_s=_RESIZE_EVERY_S,
            use_gpu=settings.ray.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=settings.ray.name,
            storage_path=settings.ray.storage,
            callbacks=[Judge()],
            failure_config=FailureConfig(
                max_failures=settings.ray.max_failures, controller_failure_limit=_START_TRIES
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": KEEP_MEMORY},
        ),
    )


def _workers(settings: RaySettings) -> int | tuple[int, int]:
    """How many workers Ray Train is to start; it takes a range for elastic."""
    fewest, most = settings.fewest_workers, settings.most_workers
    return (fewest, most) if settings.is_elastic else most


def _training_samples(plan: Plan) -> Figure:
    """Some people of the first shard, augmented: whoever looks sees at once if joints are off."""
    data = plan.settings.data
    shards = training_shards(plan.train.paths[:1], data, rank=0, workers=1)
    samples: Samples = (
        shards
        if isinstance(shards, ShardReader)
        else shards.first(_SHOWN, BadSamples(data.bad_samples))
    )
    loader = SampleLoader(samples, plan.joint_set, plan.settings.model.input_px, data.bad_samples)
    return draw_augmented(loader, data, spaced(len(samples), _SHOWN))


def _conclude(plan: Plan, journal: Journal) -> Outcome:
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
    journal.text("\n\n".join(map(table, scores.values())) + "\n", "scores.txt")
    journal.folder(folder, "best_checkpoint")
    journal.metrics({f"best_{headline}": best_scores.headline, "best_epoch": epoch}, epoch)
    return Outcome(checkpoint=folder, epoch=epoch, scores=scores)


def _draw(plan: Plan, journal: Journal, figure: Figure, name: str) -> None:
    """Keep a figure in the run's folder, and enter it in the journal."""
    path = plan.folder / _FIGURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    journal.file(path, "")
