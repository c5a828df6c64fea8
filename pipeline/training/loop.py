"""The training loop: from where the run stands, epoch by epoch, train, evaluate, keep. Knows neither Ray nor MLflow."""

import io
import json
from collections.abc import Collection, Mapping

from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.per_person import PEOPLE_NAME, PersonResults
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.console_logger import ConsoleLogger
from pipeline.training.distributed import Request
from pipeline.training.metrics import beside_metrics, evaluated_metrics, trained_metrics
from pipeline.training.probes import mark_stage
from pipeline.training.trainer import Trainer

_LINE_EVERY_S = 5.0
_KEEP = Request.CHECKPOINT | Request.STOP


class LoopHooks:
    """What runs the loop, as a process by itself: nobody is told, and no node is ever taken away."""

    preemption_check_s = 0.0
    """Seconds between the questions whether nodes are about to be taken away; 0: never."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hear of an epoch's metrics; every rank tells."""

    def nodes_to_drain(self) -> Collection[str]:
        """Which nodes are about to be taken away; every rank must ask at the same step."""
        return ()


def train(trainer: Trainer, checkpointer: Checkpointer, host: LoopHooks, label: str = "") -> None:
    """Train until the run has had all its epochs or is asked to stop. `label` begins every line that is said."""
    trained = checkpointer.resume()
    logger, going = ConsoleLogger(trainer, label), set[str]()
    while trained or trainer.progress.epochs < trainer.settings.optim.epochs:
        if not trained:
            for step in trainer.train_epoch(_LINE_EVERY_S, checkpointer.request):
                mark_stage("stepped")
                logger.stepped(step)
                gone_soon = (
                    set(host.nodes_to_drain() if Request.ASK in step.request else ()) - going
                )
                if gone_soon:
                    going |= gone_soon
                    checkpointer.tag(
                        {"preemption": f"notice for {len(going)} nodes, checkpoint kept"}
                    )
                if (gone_soon or step.request & _KEEP) and step.step < step.steps:
                    checkpointer.save()
                if Request.STOP in step.request:
                    break
            if step.step == step.steps:
                trained = trained_metrics(trainer, step)
                checkpointer.save_trained(trained)
            if Request.STOP in step.request:
                return
        evaluation, cases = trainer.evaluate_people()
        metrics = trained | evaluated_metrics(trainer, evaluation)
        metrics |= beside_metrics(trainer, evaluation)
        trained = {}
        trainer.judge(metrics[trainer.measure.metric_name])
        logger.passed_over()
        logger.evaluated(metrics)
        checkpointer.save_evaluated(metrics, extras(trainer, evaluation, cases), picture(trainer))
        host.report(metrics)


def extras(trainer: Trainer, evaluation: Evaluation, cases: PersonResults) -> dict[str, bytes]:
    """What an evaluation adds to its checkpoint, by name of the file; on rank 0 alone, elsewhere nothing."""
    if trainer.rank != 0:
        return {}
    return {
        EVALUATION_NAME: json.dumps(evaluation.to_json()).encode(),
        PEOPLE_NAME: cases.to_bytes(),
    }


def picture(trainer: Trainer) -> bytes:
    """Predictions on some validation people as a PNG; on rank 0 alone, elsewhere nothing."""
    if trainer.rank != 0:
        return b""
    drawn = io.BytesIO()
    title = f"{trainer.joint_set.name} validation, epoch {trainer.progress.epochs}"
    trainer.draw_overlays(title).savefig(drawn, dpi=100)
    return drawn.getvalue()
