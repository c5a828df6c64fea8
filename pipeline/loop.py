"""The training loop as one Ray Train worker runs it: build, resume, then train, evaluate, keep."""

import io
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

from pipeline.evaluation import Evaluation
from pipeline.keeper import Keeper
from pipeline.learner import Learner, StepReport, Task
from pipeline.progress import Pace, duration, say
from pipeline.signals import Signal

EVALUATION_NAME = "evaluation.json"
_LINE_EVERY_S = 5.0
_KEEP = Signal.CHECKPOINT | Signal.STOP
# Seconds between the questions whether a node is about to be taken away; such notices come 30 s ahead or more.
_ASK_EVERY_S = 5.0


def train_worker(task: dict[str, Any]) -> None:
    """Train as one rank. `task` holds the fields of a `Task`. Reports once an epoch.

    Ends early, with a checkpoint, when asked to.
    """
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
    asks = _ASK_EVERY_S if _is_watched() else 0.0
    with Keeper(learner, Path(told.folder), ask_every_s=asks) as keeper:
        train(learner, keeper, told.label)


def train(learner: Learner, keeper: Keeper, label: str) -> None:
    """Train epoch by epoch from where the run stands, until it has had all of them or is asked to stop."""
    trained = keeper.resume()
    narrator, nodes = Narrator(learner, label), Nodes(keeper)
    while trained or learner.progress.epochs < learner.settings.optim.epochs:
        if not trained:
            for step in learner.train_epoch(_LINE_EVERY_S, keeper.wish):
                narrator.stepped(step)
                should_keep = nodes.are_going(step.signal) or bool(step.signal & _KEEP)
                if should_keep and step.step < step.steps:
                    keeper.keep()
                if Signal.STOP in step.signal:
                    break
            if step.step == step.steps:
                trained = trained_metrics(learner, step)
                keeper.keep_trained(trained)
            if Signal.STOP in step.signal:
                return
        evaluation = learner.evaluate()
        metrics = trained | evaluated_metrics(learner, evaluation)
        metrics |= beside_metrics(learner, evaluation)
        trained = {}
        learner.judge(metrics[learner.measure.metric_name])
        narrator.passed_over()
        narrator.evaluated(metrics)
        counts = json.dumps(evaluation.to_json()).encode()
        keeper.keep_evaluated(metrics, {EVALUATION_NAME: counts}, picture(learner))
        ray.train.report(metrics)


def _is_watched() -> bool:
    """Whether Ray looks out for nodes that are to be taken away; on by default, off where the cluster is this machine."""
    return os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") not in ("0", "false")


class Nodes:
    """Knows which nodes are about to be taken away."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._known: set[str] = set()

    def are_going(self, signal: Signal) -> bool:
        """Whether the cluster names nodes that it has not named before; every rank must call it.

        Asks only if the ranks have agreed to.
        """
        if Signal.ASK not in signal:
            return False
        notice = ray.train.get_preemption_info()
        named = set() if notice is None else set(notice.preempted_node_ids)
        if named <= self._known:
            return False
        self._known |= named
        self._keeper.note({"preemption": f"notice for {len(self._known)} nodes, checkpoint kept"})
        return True


def picture(learner: Learner) -> bytes:
    """Predictions on some validation people as a PNG; on rank 0 alone, elsewhere nothing."""
    if learner.rank != 0:
        return b""
    drawn = io.BytesIO()
    title = f"{learner.joint_set.name} validation, epoch {learner.progress.epochs}"
    learner.draw_overlays(title).savefig(drawn, dpi=100)
    return drawn.getvalue()


def trained_metrics(learner: Learner, trained: StepReport) -> dict[str, float]:
    """Metrics of an epoch's training by the names that MLflow shows."""
    return {
        "epoch": learner.progress.epochs,
        "samples": learner.progress.samples,
        "train_loss": trained.loss,
        "learning_rate": trained.learning_rate,
        "samples_per_s": trained.samples_per_s,
        "input_wait_percent": 100 * trained.input_wait_share,
    }


def evaluated_metrics(learner: Learner, evaluation: Evaluation) -> dict[str, float]:
    """Metrics of an epoch's evaluation by the names that MLflow shows; percentages are 0-100.

    Undefined values (a joint that nobody has annotated) are left out, since
    Ray would store NaN as null. Raises ValueError if the headline is undefined.
    """
    metrics = {"val_loss": evaluation.loss_sum / evaluation.people}
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
        """Say where an epoch stands, but not at a mere signal."""
        if self._learner.rank == 0 and (not step.signal or step.step == step.steps):
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
