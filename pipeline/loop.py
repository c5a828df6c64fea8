"""The training loop as one Ray Train worker runs it: build, resume, then train, evaluate, report."""

import json
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

from pipeline.evaluation import Evaluation
from pipeline.learner import Learner, StepReport, Task
from pipeline.progress import Pace, duration, say

EVALUATION_NAME = "evaluation.json"
_LINE_EVERY_S = 5.0


def train_worker(task: dict[str, Any]) -> None:
    """Train as one rank. `task` holds the fields of a `Task`. Reports once an epoch."""
    # Some of Ray Train's loggers hang from the root, past LoggingConfig, and would
    # print every epoch's metrics from every rank.
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.train.get_context()
    told = Task(**task)
    learner = Learner(
        told,
        context.get_world_rank(),
        context.get_world_size(),
        ray.train.torch.get_device(),
    )
    resume(learner)
    narrator = Narrator(learner, told.label)
    while learner.progress.epochs < learner.settings.optim.epochs:
        for step in learner.train_epoch(_LINE_EVERY_S):
            narrator.stepped(step)
        evaluation = learner.evaluate()
        metrics = epoch_metrics(learner, step, evaluation) | beside_metrics(learner, evaluation)
        learner.judge(metrics[learner.measure.metric_name])
        narrator.passed_over()
        narrator.evaluated(metrics)
        report(learner, metrics, evaluation)


def overlay_name(epoch: int) -> str:
    """File name of an epoch's picture in its checkpoint."""
    return f"overlay_{epoch:04d}.png"


def resume(learner: Learner) -> None:
    """Go on from the run's last checkpoint, if it has one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        learner.restore(Path(folder))
    if learner.rank == 0:
        say(f"resuming after epoch {learner.progress.epochs}")


def report(learner: Learner, metrics: dict[str, float], evaluation: Evaluation) -> None:
    """Hand metrics and checkpoint to Ray Train, with a picture and the counts; every rank must call it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if learner.rank == 0:
            learner.save(Path(folder), metrics)
            epoch = learner.progress.epochs
            picture = learner.draw_overlays(f"{learner.joint_set.name} validation, epoch {epoch}")
            picture.savefig(Path(folder) / overlay_name(epoch), dpi=100)
            (Path(folder) / EVALUATION_NAME).write_text(json.dumps(evaluation.to_json()))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=f"epoch_{learner.progress.epochs:04d}",
        )


def epoch_metrics(
    learner: Learner, trained: StepReport, evaluation: Evaluation
) -> dict[str, float]:
    """An epoch's metrics by the names that MLflow shows; percentages are 0-100.

    Undefined values (a joint that nobody has annotated) are left out, since
    Ray would store NaN as null. Raises ValueError if the headline is undefined.
    """
    metrics: dict[str, float] = {
        "epoch": learner.progress.epochs,
        "samples": learner.progress.samples,
        "train_loss": trained.loss,
        "val_loss": evaluation.loss_sum / evaluation.people,
        "learning_rate": trained.learning_rate,
        "samples_per_s": trained.samples_per_s,
        "input_wait_percent": 100 * trained.input_wait_share,
    }
    if learner.settings.data.bad_samples:
        metrics["bad_samples"] = learner.count_bad_samples()
    for key, scores in evaluation.scores(learner.joint_set).items():
        metrics[f"{key}_auc"] = scores.auc
        for threshold, pooled in scores.pooled.items():
            metrics[f"{key}_{threshold:g}"] = pooled
            metrics[f"{key}_{threshold:g}_unweighted"] = scores.unweighted[threshold]
            for joint, value in scores.joints[threshold].items():
                metrics[f"{key}_{threshold:g}/{joint}"] = value
    measure = learner.measure
    if not math.isfinite(metrics.get(measure.metric_name, math.nan)):
        raise ValueError(
            f"{measure.headline} is undefined: none of {evaluation.people} validation people has "
            "what it is normalised by; set evaluation.measure to another"
        )
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def beside_metrics(learner: Learner, averaged: Evaluation) -> dict[str, float]:
    """Loss and headline of the averaged weights and, beside them, of the raw ones; empty without an average.

    Every rank must call it.
    """
    if not learner.settings.optim.ema_samples:
        return {}
    measure, found = learner.measure, {}
    for name, evaluation in (("ema", averaged), ("raw", learner.evaluate("raw"))):
        headline = evaluation.scores(learner.joint_set)[measure.key].headline
        found[f"{name}/{measure.metric_name}"] = headline
        found[f"{name}/val_loss"] = evaluation.loss_sum / evaluation.people
    return found


class Narrator:
    """Says on rank 0 how training goes: epoch, loss, accuracy, speed, time left."""

    def __init__(self, learner: Learner, label: str) -> None:
        self._learner = learner
        self._label = f"{label}: " if label else ""
        self._before = learner.progress.samples
        self._pace = Pace(0)
        self._score = ""
        self._told: set[str] = set()

    def stepped(self, step: StepReport) -> None:
        """Say where an epoch stands."""
        if self._learner.rank == 0:
            say(
                f"{self._label}epoch {step.epoch + 1}/{self._learner.settings.optim.epochs}  "
                f"step {step.step}/{step.steps}  loss {step.loss:.4g}  {self._score}"
                f"{step.samples_per_s:.0f} samples/s  "
                f"input wait {step.input_wait_share:.0%}  left {self._left()}"
            )

    def passed_over(self) -> None:
        """Name the bad samples that are new; every rank speaks of its own."""
        found = self._learner.bad_samples()
        for place, message in found.items():
            if place not in self._told:
                say(f"{self._label}rank {self._learner.rank} passed over {message}")
        self._told = set(found)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Say how accurate the network is after an epoch."""
        learner = self._learner
        measure = learner.measure
        self._score = f"{measure.headline} {metrics[measure.metric_name]:.2f}  "
        if learner.rank == 0:
            say(
                f"{self._label}epoch {learner.progress.epochs}/{learner.settings.optim.epochs} evaluated  "
                f"train loss {metrics['train_loss']:.4g}  val loss {metrics['val_loss']:.4g}  "
                f"{self._score}left {self._left()}"
            )

    def _left(self) -> str:
        learner = self._learner
        done = learner.progress.samples - self._before
        return duration(self._pace.left_s(done, learner.samples_in_all - self._before))
