"""What a training run needs that can be made while its cluster starts: MLflow within reach, a picture of what is trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pipeline.data.loader import SampleLoader, training_shards
from pipeline.data.pictures import draw_augmented, spaced
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSamples, Samples
from pipeline.evaluation.charts import curves, joint_bars, threshold_curve
from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation, Evaluator
from pipeline.evaluation.metrics import Scores, table
from pipeline.evaluation.overlays import draw_close_ups
from pipeline.evaluation.per_person import PEOPLE_NAME, read_results
from pipeline.model.cost import network_cost
from pipeline.run.checkpoint import load_network
from pipeline.run.checkpoint_manager import BEST_CHECKPOINT, best
from pipeline.run.journal import Journal
from pipeline.run.layout import FIGURES, overlay_path
from pipeline.run.plan import Plan
from pipeline.tracking.description import NOTE, describe_run
from pipeline.tracking.sync import deliver_start

# Training people in the picture that a run starts with.
_SHOWN = 12


def prepare(plan: Plan) -> Path:
    """Deliver the start of the run to MLflow, and draw some people to train on; return the picture.

    Raises AwayError if tracking.required and MLflow does not answer, and
    ValueError if a sample can't be drawn.
    """
    deliver_start(plan.folder, plan.settings.tracking)
    path = plan.folder / FIGURES / "samples.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw_samples(plan, path)
    return path


def _draw_samples(plan: Plan, path: Path) -> None:
    """Draw some people of the first shard, augmented: whoever looks sees at once if joints are off."""
    data = plan.settings.data
    shards = training_shards(plan.train.paths[:1], data, rank=0, workers=1)
    samples: Samples = (
        shards
        if isinstance(shards, ShardReader)
        else shards.first(_SHOWN, BadSamples(data.bad_samples))
    )
    loader = SampleLoader(samples, plan.joint_set, plan.settings.model.input_px, data.bad_samples)
    draw_augmented(loader, data, spaced(len(samples), _SHOWN)).savefig(path, dpi=100)


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


def conclude(plan: Plan, journal: Journal) -> Outcome:
    """Enter the figures of the whole run and its best checkpoint. Raises ValueError if it has none that is sound."""
    headline = plan.measure.metric_name
    found = best(plan.folder, headline)
    if found is None:
        raise ValueError(f"{plan.folder}: has no checkpoint with {headline}")
    folder, metadata = found
    epoch = metadata.progress.epochs
    evaluation = Evaluation.from_json(json.loads((folder / EVALUATION_NAME).read_text()))
    scores = evaluation.scores(plan.joint_set)
    best_scores = scores[plan.measure.key]
    history = journal.history(["train_loss", "val_loss", headline])
    _draw(plan, journal, curves(history, headline), "curves.png")
    _draw(plan, journal, joint_bars(best_scores), "joints.png")
    thresholds = threshold_curve(evaluation.counts[plan.measure.key], best_scores)
    _draw(plan, journal, thresholds, "thresholds.png")
    _draw_people(plan, journal, folder)
    journal.text("\n\n".join(map(table, scores.values())) + "\n", "scores.txt")
    journal.folder(folder, BEST_CHECKPOINT)
    journal.metrics({f"best_{headline}": best_scores.headline, "best_epoch": epoch}, epoch)
    if plan.settings.tracking.register:
        value, checksum = metadata.metrics[headline], plan.val.checksum
        registered = plan.settings.tracking.register
        journal.register(folder.name, registered, headline, value, checksum)
    result = f"{plan.measure.headline} {best_scores.headline:.2f} after epoch {epoch}"
    journal.tags({NOTE: describe_run(plan, network_cost(plan.settings.model), result)})
    return Outcome(checkpoint=folder, epoch=epoch, scores=scores)


def _draw_people(plan: Plan, journal: Journal, checkpoint: Path) -> None:
    """Draw the checkpoint's worst cases and heatmaps, on this machine's CPU: a moment's work."""
    device = torch.device("cpu")
    network, _ = load_network(checkpoint, device)
    people = ShardReader(plan.val.paths)
    loader = SampleLoader(people, plan.joint_set, plan.settings.model.input_px)
    evaluator = Evaluator(network=network, loader=loader, settings=plan.settings, device=device)
    results = read_results(checkpoint / PEOPLE_NAME)
    for name, figure in draw_close_ups(evaluator, results, plan.measure).items():
        _draw(plan, journal, figure, name)


def _draw(plan: Plan, journal: Journal, figure: Figure, name: str) -> None:
    """Keep a figure in the run's folder, and enter it in the journal."""
    path = plan.folder / FIGURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    journal.file(path, "")
