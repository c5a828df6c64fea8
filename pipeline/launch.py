"""From a plan to a trained network: start the workers, record what they report, keep the best."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
from matplotlib.figure import Figure
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from pipeline import tracking
from pipeline.cluster import check_capacity
from pipeline.evaluation import Evaluation
from pipeline.figures import curves, joint_bars, threshold_curve
from pipeline.learner import Task
from pipeline.loop import EVALUATION_NAME, overlay_name, train_worker
from pipeline.metric import Scores, table
from pipeline.overlays import draw_augmented, spaced
from pipeline.plan import Plan
from pipeline.rendezvous import torch_config
from pipeline.shards.bad import BadSamples
from pipeline.shards.read import ShardReader
from pipeline.shards.sample import Samples
from pipeline.shards.source import training_shards
from pipeline.shards.stream import SampleLoader
from pipeline.training import KEEP_MEMORY

__all__ = ["Outcome", "Recorder", "TrainingFailedError", "train"]

# Seconds that ranks wait for one another before a lost one is an error.
_COLLECTIVE_TIMEOUT_S = 300
# A cluster that can't start the workers is an error after this many tries, not an endless wait.
_START_TRIES = 5
# Training people in the picture that a run starts with.
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run leaves: its best checkpoint, the epoch that it is of, and its scores."""

    checkpoint: Path
    epoch: int
    scores: dict[str, Scores]

    @property
    def overlay(self) -> Path:
        """Picture of the best checkpoint's predictions on validation people."""
        return self.checkpoint / overlay_name(self.epoch)


class Recorder(UserCallback):
    """Logs every epoch to MLflow; runs in Ray Train's controller."""

    def __init__(self, run: tracking.Run) -> None:
        self._run = run

    def after_report(
        self,
        run_context: Any,
        metrics: list[dict[str, Any]],
        checkpoint: ray.train.Checkpoint | None,
    ) -> None:
        """Log rank 0's metrics and picture."""
        reported = dict(metrics[0])
        epoch = int(reported.pop("epoch"))
        tracking.log_metrics(self._run, reported, epoch)
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                tracking.log_file(self._run, Path(folder) / overlay_name(epoch), "overlays")


def train(plan: Plan, *, parent: tracking.Run | None = None) -> Outcome:
    """Train on the cluster that is connected, in the plan's MLflow run, under `parent` if given.

    Raises ValueError if the cluster is too small or MLflow can't be reached, and
    TrainingFailedError when training fails; the MLflow run is ended whatever happens.
    """
    check_capacity(plan.settings.ray)
    run = start_run(plan, parent)
    status: tracking.Status = "FAILED"
    try:
        tracking.log_figure(run, _training_samples(plan), "samples.png")
        label = plan.settings.ray.name if parent else ""
        result = _trainer(plan, run, label).fit()
        outcome = _record(plan, run, result)
        status = "FINISHED"
    finally:
        tracking.end_run(run, status)
    return outcome


def start_run(plan: Plan, parent: tracking.Run | None) -> tracking.Run:
    """Create or find the plan's MLflow run."""
    settings = plan.settings
    return tracking.start_run(
        settings.tracking.uri,
        settings.tracking.experiment,
        settings.ray.name,
        params=settings.flat(),
        tags={
            "joint_set": plan.joint_set.name,
            "source": plan.train.source,
            "data.train.checksum": plan.train.checksum,
            "data.val.checksum": plan.val.checksum,
        },
        artifacts=Path(settings.ray.storage).parent / "mlruns",
        parent=parent,
    )


def _trainer(plan: Plan, run: tracking.Run, label: str) -> TorchTrainer:
    settings = plan.settings
    resources = {"CPU": settings.ray.cpus_per_worker}
    if settings.ray.gpus_per_worker:
        resources["GPU"] = settings.ray.gpus_per_worker
    task = Task(
        settings=settings.flat(),
        joint_set=plan.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
        label=label,
    )
    return TorchTrainer(
        train_worker,
        train_loop_config=asdict(task),
        torch_config=torch_config(_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=settings.ray.workers,
            use_gpu=settings.ray.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=settings.ray.name,
            storage_path=settings.ray.storage,
            callbacks=[Recorder(run)],
            failure_config=FailureConfig(
                max_failures=settings.ray.max_failures, controller_failure_limit=_START_TRIES
            ),
            checkpoint_config=CheckpointConfig(
                num_to_keep=settings.ray.keep_checkpoints,
                checkpoint_score_attribute=plan.measure.metric_name,
                checkpoint_score_order="max",
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": KEEP_MEMORY},
        ),
    )


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


def _record(plan: Plan, run: tracking.Run, result: ray.train.Result) -> Outcome:
    """Log the figures of the whole run and its best checkpoint."""
    headline = plan.measure.metric_name
    checkpoint, metrics = max(result.best_checkpoints, key=lambda kept: kept[1][headline])
    folder = Path(checkpoint.path)
    evaluation = Evaluation.from_json(json.loads((folder / EVALUATION_NAME).read_text()))
    scores = evaluation.scores(plan.joint_set)
    best = scores[plan.measure.key]
    history = tracking.history(run, ["train_loss", "val_loss", headline])
    tracking.log_figure(run, curves(history, headline), "curves.png")
    tracking.log_figure(run, joint_bars(best), "joints.png")
    tracking.log_figure(
        run, threshold_curve(evaluation.counts[plan.measure.key], best), "thresholds.png"
    )
    tracking.log_text(run, "\n\n".join(map(table, scores.values())) + "\n", "scores.txt")
    tracking.log_folder(run, folder, "best_checkpoint")
    best_metrics = {f"best_{headline}": best.headline, "best_epoch": metrics["epoch"]}
    tracking.log_metrics(run, best_metrics, int(metrics["epoch"]))
    return Outcome(checkpoint=folder, epoch=int(metrics["epoch"]), scores=scores)
