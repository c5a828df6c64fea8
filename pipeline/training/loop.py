"""The training loop: resume, then for each epoch train, evaluate, save and report.

Knows neither Ray nor MLflow.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence

from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.per_person import PEOPLE_NAME, PersonResults
from pipeline.run.cut import name_of_stack
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.console_logger import ConsoleLogger
from pipeline.training.distributed import Request
from pipeline.training.metrics import (
    beside_metrics,
    evaluated_metrics,
    stack_metrics,
    trained_metrics,
    with_glance,
)
from pipeline.training.probes import note_startup
from pipeline.training.trainer import Trainer

_SAVE = Request.CHECKPOINT | Request.STOP


class LoopHooks:
    """Hooks that the loop calls. These do nothing: no reporting, no preemption."""

    preemption_check_s = 0.0
    """Seconds between preemption checks; 0 disables them."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report an epoch's metrics, on every rank."""

    def nodes_to_drain(self) -> Collection[str]:
        """Return the nodes about to be preempted. Every rank must ask at the same step."""
        return ()


def train(
    trainer: Trainer,
    checkpointer: Checkpointer,
    host: LoopHooks,
    label: str = "",
    line_every_s: float = math.inf,
) -> None:
    """Train until the run is over or a stop is requested.

    `label` begins every printed line. A step's line comes every `line_every_s` seconds.
    """
    state, trained = trainer.state, checkpointer.resume()
    logger, draining = ConsoleLogger(trainer, label), set[str]()
    while trained or not state.is_over:
        if not trained:
            for step in trainer.train_epoch(line_every_s, checkpointer.request):
                note_startup("stepped")
                logger.stepped(step)
                noticed = set(host.nodes_to_drain() if Request.ASK in step.request else ())
                is_draining = not noticed <= draining
                if is_draining:
                    draining |= noticed
                    tag = f"notice for {len(draining)} nodes, checkpoint kept"
                    checkpointer.tag({"preemption": tag})
                if (is_draining or step.request & _SAVE) and step.step < step.steps:
                    checkpointer.save()
                if Request.STOP in step.request:
                    break
            if step.step == step.steps:
                trained = trained_metrics(trainer, step)
                checkpointer.save_trained(trained)
            if Request.STOP in step.request:
                return
        *earlier, (evaluation, results) = trainer.evaluate_stacks()
        metrics = trained | evaluated_metrics(trainer, evaluation, results)
        metrics |= beside_metrics(trainer, metrics) | stack_metrics(trainer, earlier)
        metrics = with_glance(trainer.measure, metrics)
        trained = {}
        state.judge(metrics[trainer.measure.metric_name])
        logger.passed_over()
        logger.evaluated(metrics)
        files, picture = evaluation_files(trainer, evaluation, results)
        files |= stack_files(trainer, earlier)
        checkpointer.save_evaluated(metrics, files, picture)
        host.report(metrics)


def evaluation_files(
    trainer: Trainer, evaluation: Evaluation, results: PersonResults
) -> tuple[dict[str, bytes], bytes]:
    """Return an evaluation's files by name, and predictions as a PNG; only rank 0 makes them."""
    if trainer.rank != 0:
        return {}, b""
    files = _files(evaluation, results)
    title = f"{trainer.joint_set.name} validation, epoch {trainer.state.progress.epochs}"
    return files, trainer.overlays(title)


def stack_files(
    trainer: Trainer, stacks: Sequence[tuple[Evaluation, PersonResults]]
) -> dict[str, bytes]:
    """Return the files of the evaluations of stacks before the last; only rank 0 makes them."""
    if trainer.rank != 0:
        return {}
    return {
        name_of_stack(stack, name): content
        for stack, measured in enumerate(stacks, start=1)
        for name, content in _files(*measured).items()
    }


def _files(evaluation: Evaluation, results: PersonResults) -> dict[str, bytes]:
    return {
        EVALUATION_NAME: json.dumps(evaluation.to_json()).encode(),
        PEOPLE_NAME: results.to_bytes(),
    }
