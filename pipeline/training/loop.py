"""The training loop: from where the run stands, epoch by epoch, train, evaluate, keep. Knows neither Ray nor MLflow."""

import io
import json
from collections.abc import Collection, Mapping

from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.per_person import PEOPLE_NAME, Cases
from pipeline.training.checkpointing import Keeper
from pipeline.training.console_logger import Narrator
from pipeline.training.distributed import Signal
from pipeline.training.metrics import beside_metrics, evaluated_metrics, trained_metrics
from pipeline.training.probes import reached
from pipeline.training.trainer import Learner

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
