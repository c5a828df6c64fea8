"""Metrics of an epoch by their names in MLflow."""

import math
import resource
from collections.abc import Mapping, Sequence

import torch

from pipeline.data.measurable import size_name
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.per_person import PersonResults
from pipeline.pose.joint_sets import Measure
from pipeline.run.cut import metric_of_stack
from pipeline.training.trainer import StepReport, Trainer

FLAT_NAME = "flat_heatmaps_percent"
# MLflow's pages have charts in groups by what is before the slash, in alphabetical order. This one
# comes before those of the joints.
GLANCE = "at_a_glance"


def memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory in MiB: torch's since the last call on a GPU, else the process's."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return {"gpu_memory_mib": peak / 2**20}
    # Linux counts in KiB.
    return {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


def trained_metrics(trainer: Trainer, trained: StepReport) -> dict[str, float]:
    """Return the metrics of an epoch's training."""
    return {
        "epoch": trainer.state.progress.epochs,
        "samples": trainer.state.progress.samples,
        "train_loss": trained.loss,
        "bad_steps": trained.bad_steps,
        "learning_rate": trained.learning_rate,
        "samples_per_s": trained.samples_per_s,
        "input_wait_percent": 100 * trained.input_wait_share,
        **memory(trainer.device),
    }


def evaluated_metrics(
    trainer: Trainer, evaluation: Evaluation, results: PersonResults
) -> dict[str, float]:
    """Return the metrics of an epoch's evaluation, percentages from 0 to 100.

    Undefined values (of a joint without annotations) are left out, because Ray would store NaN as
    null. Every rank must call it. Raises ValueError if the primary metric is undefined.
    """
    metrics = {
        "val_loss": evaluation.loss_sum / evaluation.people,
        FLAT_NAME: 100 * evaluation.flat / evaluation.people,
    }
    if trainer.settings.data.bad_samples:
        metrics["bad_samples"] = trainer.count_bad_samples()
    for key, scores in evaluation.scores(trainer.joint_set).items():
        metrics[f"{key}_auc"] = scores.auc
        for threshold, pooled in scores.pooled.items():
            name = scores.measure.metric_at(threshold)
            metrics[name] = pooled
            metrics[f"{name}_unweighted"] = scores.unweighted[threshold]
            for joint, value in scores.joints[threshold].items():
                metrics[f"{name}/{joint}"] = value
    precision = trainer.average_precision(results)
    if precision:
        metrics |= {f"coco_{name}": value for name, value in precision.as_dict().items()}
    measure = trainer.measure
    if not math.isfinite(metrics.get(measure.metric_name, math.nan)):
        raise ValueError(
            f"{measure.headline} is undefined: none of {evaluation.people} validation people has "
            f"{size_name(measure, trainer.joint_set)}; set evaluation.measure to another"
        )
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def stack_metrics(
    trainer: Trainer, stacks: Sequence[tuple[Evaluation, PersonResults]]
) -> dict[str, float]:
    """Return the metrics of stacks before the last, but for those of single joints."""
    return {
        metric_of_stack(stack, name): value
        for stack, measured in enumerate(stacks, start=1)
        for name, value in evaluated_metrics(trainer, *measured).items()
        if "/" not in name
    }


def with_glance(measure: Measure, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics after copies of the primary one and the losses under `at_a_glance/`.

    They come first, because MLflow draws its comparisons with the first metric.
    """
    shown = (measure.metric_name, "train_loss", "val_loss")
    return {f"{GLANCE}/{name}": metrics[name] for name in shown if name in metrics} | dict(metrics)


def beside_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return loss and primary metric of the averaged and the raw weights, if there is an average.

    `metrics` are those of the average's evaluation. Every rank must call it.
    """
    if not trainer.settings.optim.ema_samples:
        return {}
    measure = trainer.measure
    precision = None
    if measure.is_of_joints:
        evaluation = trainer.evaluate("raw")
    else:
        evaluation, results = trainer.evaluate_people("raw")
        precision = trainer.average_precision(results)
    raw = evaluation.scores(trainer.joint_set, precision)[measure.key]
    return {
        f"ema/{measure.metric_name}": metrics[measure.metric_name],
        "ema/val_loss": metrics["val_loss"],
        f"raw/{measure.metric_name}": raw.headline,
        "raw/val_loss": evaluation.loss_sum / evaluation.people,
    }
