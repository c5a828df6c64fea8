"""Train variants of a small network from several seeds, without Ray, and compare their accuracy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from pipeline.io.console import say
from pipeline.model import loss
from pipeline.run.plan import plan_training
from pipeline.settings import Scalar, Settings
from pipeline.settings.presets import settings_of
from pipeline.training.console_logger import TrainingWarnings
from pipeline.training.metrics import FLAT_NAME, beside_metrics, evaluated_metrics
from pipeline.training.trainer import Task, Trainer

# One stack of 16 features on inputs of 64 pixels, a quarter of the paper's along each side.
_SMALL: dict[str, Scalar] = {
    "model.stacks": 1,
    "model.features": 16,
    "model.order": 3,
    "model.input_px": 64,
    "optim.optimizer": "adamw",
    "optim.learning_rate": 5e-3,
    "optim.schedule": "cosine",
    "optim.batch_size": 24,
    "optim.epochs": 2,
    "optim.target_peak": 10.0,
    "optim.sigma_px": 1.0,
    "optim.precision": "fp32",
    "evaluation.flip_test": False,
}
_RECIPE_2016 = settings_of(["newell2016"]) | {
    key: _SMALL[key]
    for key in _SMALL
    if key.startswith(("model.", "evaluation.", "optim.epochs", "optim.precision"))
}


class Experiment(NamedTuple):
    """Settings in common, and the variants' own by name.

    `scale_weights` replaces the weights of heatmaps inside the hourglass in some variants.
    """

    common: Mapping[str, Scalar]
    variants: Mapping[str, Mapping[str, Scalar]]
    scale_weights: Mapping[str, Callable[[float], float]] = {}


EXPERIMENTS = {
    "starts": Experiment(
        common=_RECIPE_2016,
        variants={
            "U(0, 1), as newell2016": {},
            "1": {"optim.norm_weights": "one"},
            "1, heads at zero": {"optim.norm_weights": "one", "optim.zero_heads": True},
            "U(0, 1), heads at zero": {"optim.zero_heads": True},
        },
    ),
    "target": Experiment(
        common=_SMALL,
        variants={"whole map": {}, "7 x 7 pixels": {"optim.target_px": 7}},
    ),
    "average": Experiment(
        common=_SMALL | {"optim.schedule": "constant", "optim.ema_samples": 2_000},
        variants={"2,000 samples": {}},
    ),
    "warnings": Experiment(
        common=_SMALL | {"optim.schedule": "constant"},
        variants={
            "peak 10, heads at zero": {},
            "peak 1, heads at random": {"optim.target_peak": 1.0, "optim.zero_heads": False},
        },
    ),
    "norms": Experiment(
        common=_SMALL,
        variants={
            "over 24": {},
            "over 6": {"optim.accumulate": 4},
            "over 2": {"optim.accumulate": 12},
        },
    ),
    "precision": Experiment(
        common=_SMALL,
        variants={
            "fp32": {},
            "fp16": {"optim.precision": "fp16"},
        },
    ),
    "inside": Experiment(
        common=_SMALL | {"model.supervision": "inside"},
        variants={"by area": {}, "equal": {}},
        scale_weights={"equal": lambda scale: 1.0},
    ),
}


@dataclass(frozen=True, kw_only=True)
class RecipesExperiment:
    """Options of the experiment `name`: shards, seeds, and epochs if not the experiment's own."""

    name: str
    train: str
    val: str
    seeds: int = 3
    epochs: int = 0


def measure_recipes(options: RecipesExperiment) -> dict[str, Any]:
    """Train every variant from every seed; return each run's epochs. Raises as `plan_training`."""
    experiment, runs = EXPERIMENTS[options.name], []
    for seed in range(options.seeds):
        for variant, own in experiment.variants.items():
            settings = dict(experiment.common) | dict(own) | _place(options, seed)
            with _weighed(experiment.scale_weights.get(variant, loss.scale_weight)):
                epochs = list(_epochs(Settings.from_flat(settings)))
            runs.append({"variant": variant, "seed": seed, "epochs": epochs})
            say(f"{variant}, seed {seed}: {_line(epochs)}")
    return {"experiment": options.name, "train": options.train, "runs": runs}


@contextmanager
def _weighed(scale_weight: Callable[[float], float]) -> Iterator[None]:
    """Weigh losses by the scale of their heatmaps as given."""
    with mock.patch.object(loss, "scale_weight", scale_weight):
        yield


def _place(options: RecipesExperiment, seed: int) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {"data.train": options.train, "data.val": options.val}
    found["optim.seed"] = seed
    if options.epochs:
        found["optim.epochs"] = options.epochs
    return found


def _epochs(settings: Settings) -> Iterator[dict[str, Any]]:
    """Train a run; yield each epoch's metrics, with `first_loss` and `warnings`."""
    plan = plan_training(settings)
    task = Task(
        settings=plan.settings.flat(),
        joint_set=plan.train.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
    )
    trainer = Trainer(task, 0, 1, torch.device("cpu"))
    measure, warnings = trainer.measure, TrainingWarnings(trainer.measure.headline)
    first_loss = float("nan")
    for epoch in range(1, settings.optim.epochs + 1):
        for report in trainer.train_epoch(0.0):
            first_loss = report.loss if trainer.state.progress.steps == 1 else first_loss
        evaluation, results = trainer.evaluate_people()
        metrics = evaluated_metrics(trainer, evaluation, results)
        trainer.state.judge(metrics[measure.metric_name])
        plateau = trainer.state.plateau
        yield {
            "epoch": epoch,
            "first_loss": first_loss,
            "train_loss": report.loss,
            "accuracy": metrics[measure.metric_name],
            "fine_accuracy": metrics[measure.metric_at(measure.thresholds[1])],
            "flat_percent": metrics[FLAT_NAME],
            "bad_steps": report.bad_steps,
            "warnings": warnings.after(epoch, metrics[FLAT_NAME], plateau),
        } | beside_metrics(trainer, metrics)


def _line(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Describe a run: its first and last loss, accuracy and flat heatmaps."""
    last = epochs[-1]
    raw = [f"{value:.2f} {name}" for name, value in last.items() if "/" in name]
    return (
        f"loss {last['first_loss']:.4f} to {last['train_loss']:.4f}, accuracy by epoch "
        f"{' '.join(format(epoch['accuracy'], '.1f') for epoch in epochs)}, finer "
        f"{last['fine_accuracy']:.2f}, flat {last['flat_percent']:.0f}%"
        f"{', ' if raw else ''}{', '.join(raw)}"
        f"{', ' if any(e['warnings'] for e in epochs) else ''}"
        f"{'; '.join(w for e in epochs for w in e['warnings'])}"
    )


def recipes_report(result: Mapping[str, Any]) -> str:
    """Return the table of an experiment: means over the seeds and their range."""
    variants = list(dict.fromkeys(run["variant"] for run in result["runs"]))
    lines = [
        "| variant | first loss | accuracy | finer | flat |",
        "| --- | --- | --- | --- | --- |",
    ]
    for variant in variants:
        runs = [run["epochs"] for run in result["runs"] if run["variant"] == variant]
        firsts, ends = [epochs[0] for epochs in runs], [epochs[-1] for epochs in runs]
        cells = (
            _range([end["first_loss"] for end in firsts], 3),
            _range([end["accuracy"] for end in ends], 1),
            _range([end["fine_accuracy"] for end in ends], 1),
            _range([end["flat_percent"] for end in ends], 0) + "%",
        )
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(values: Sequence[float], digits: int) -> str:
    """Return the mean of some values, with the lowest and the highest."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
