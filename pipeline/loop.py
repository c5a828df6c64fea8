"""The training loop: from where the run stands, epoch by epoch, train, evaluate, keep. Knows neither Ray nor MLflow."""

import io
import json
import math
from collections.abc import Collection, Mapping

from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.per_person import PEOPLE_NAME, Cases
from pipeline.io.console import Pace, duration, say
from pipeline.keeper import Keeper
from pipeline.learner import Learner, StepReport
from pipeline.memory import memory
from pipeline.notices import Notices
from pipeline.signals import Signal
from pipeline.stages import reached

FLAT_NAME = "flat_heatmaps_percent"


_LINE_EVERY_S = 5.0


_KEEP = Signal.CHECKPOINT | Signal.STOP


class Host:
    """What runs the loop, as a process by itself: nobody is told, and no node is ever taken away."""

    asks_every_s = 0.0
    """Seconds between the questions whether nodes are about to be taken away; 0: never."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hear of an epoch's metrics; every rank tells."""

    def going_nodes(self) -> Collection[str]:
        """Which nodes are about to be taken away; every rank must ask at the same step."""
        return ()


def train(learner: Learner, keeper: Keeper, host: Host, label: str = "") -> None:
    """Train until the run has had all its epochs or is asked to stop. `label` begins every line that is said."""
    trained = keeper.resume()
    narrator, going = Narrator(learner, label), set[str]()
    while trained or learner.progress.epochs < learner.settings.optim.epochs:
        if not trained:
            for step in learner.train_epoch(_LINE_EVERY_S, keeper.wish):
                reached("stepped")
                narrator.stepped(step)
                gone_soon = set(host.going_nodes() if Signal.ASK in step.signal else ()) - going
                if gone_soon:
                    going |= gone_soon
                    keeper.note({"preemption": f"notice for {len(going)} nodes, checkpoint kept"})
                if (gone_soon or step.signal & _KEEP) and step.step < step.steps:
                    keeper.keep()
                if Signal.STOP in step.signal:
                    break
            if step.step == step.steps:
                trained = trained_metrics(learner, step)
                keeper.keep_trained(trained)
            if Signal.STOP in step.signal:
                return
        evaluation, cases = learner.evaluate_cases()
        metrics = trained | evaluated_metrics(learner, evaluation)
        metrics |= beside_metrics(learner, evaluation)
        trained = {}
        learner.judge(metrics[learner.measure.metric_name])
        narrator.passed_over()
        narrator.evaluated(metrics)
        keeper.keep_evaluated(metrics, extras(learner, evaluation, cases), picture(learner))
        host.report(metrics)


def extras(learner: Learner, evaluation: Evaluation, cases: Cases) -> dict[str, bytes]:
    """What an evaluation adds to its checkpoint, by name of the file; on rank 0 alone, elsewhere nothing."""
    if learner.rank != 0:
        return {}
    return {
        EVALUATION_NAME: json.dumps(evaluation.to_json()).encode(),
        PEOPLE_NAME: cases.to_bytes(),
    }


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
        "bad_steps": trained.bad_steps,
        "learning_rate": trained.learning_rate,
        "samples_per_s": trained.samples_per_s,
        "input_wait_percent": 100 * trained.input_wait_share,
        **memory(learner.device),
    }


def evaluated_metrics(learner: Learner, evaluation: Evaluation) -> dict[str, float]:
    """Metrics of an epoch's evaluation by the names that MLflow shows; percentages are 0-100.

    Undefined values (a joint that nobody has annotated) are left out, since
    Ray would store NaN as null. Raises ValueError if the headline is undefined.
    """
    metrics = {
        "val_loss": evaluation.loss_sum / evaluation.people,
        FLAT_NAME: 100 * evaluation.flat / evaluation.people,
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
        self._notices = Notices(learner.measure.headline)
        self._told: set[str] = set()

    def stepped(self, step: StepReport) -> None:
        """Say where an epoch stands, but not at a mere signal, and which step was left out."""
        if self._learner.rank != 0:
            return
        if step.left_out:
            say(f"{self._label}{step.left_out}")
        if step.step == step.steps or not (step.signal or step.left_out):
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
            epoch, flat = learner.progress.epochs, metrics[FLAT_NAME]
            for notice in self._notices.after(epoch, flat, learner.plateau):
                say(f"{self._label}{notice}")

    def _left(self) -> str:
        learner = self._learner
        done = learner.progress.samples - self._before
        return duration(self._pace.left_s(done, learner.samples_in_all - self._before))
