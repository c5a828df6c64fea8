"""The first and last artifacts of a run: a picture of its samples, figures of its result."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
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
from pipeline.evaluation.oks import precision_of, precision_table
from pipeline.evaluation.overlays import draw_close_ups
from pipeline.evaluation.per_person import PEOPLE_NAME, PersonResults, read_results
from pipeline.evaluation.report import (
    ReportPicture,
    RunReport,
    against_recipe,
    report_page,
    score_table,
)
from pipeline.io.atomic import atomic_write
from pipeline.model.cost import network_cost
from pipeline.run.checkpoint import load_network
from pipeline.run.checkpoint_manager import BEST_CHECKPOINT, best
from pipeline.run.journal import Journal
from pipeline.run.layout import FIGURES, overlay_path
from pipeline.run.ownership import Writer
from pipeline.run.plan import Plan
from pipeline.run.storage import shown
from pipeline.tracking.description import NOTE, command, describe_run, paragraphs
from pipeline.tracking.long_values import record_long
from pipeline.tracking.sync import deliver_start

# Training samples in the picture that a run starts with.
_SHOWN = 12
# A tag of a run that has ended: after which epoch, and why if early.
ENDED_TAG = "ended"
# The run's report in its folder, and its pictures by name, in order.
REPORT_NAME = "report.html"
PICTURES = {
    "curves": ("Curves", "Losses and the primary metric after each epoch."),
    "joints": (
        "Joints",
        "Percentage of each joint; the line is the pooled mean.",
    ),
    "thresholds": ("Thresholds", "Share of correct joints as the threshold grows."),
    "overlay": (
        "Predictions",
        "Predictions on people spaced over the validation data after the best epoch. White rings "
        "are the truth.",
    ),
    "worst": (
        "Worst people",
        "The validation people with the highest mean errors, worst first. Titles have the error, "
        "white rings are the truth.",
    ),
    "stacks": ("Stacks", "Heatmaps of every stack for one person, over the network's input."),
    "samples": ("Training samples", "Augmented samples as the network sees them."),
}


def prepare(plan: Plan, writer: Writer) -> Path:
    """Send the start of the run to MLflow; return a picture of augmented training samples.

    The picture shows at a glance if joints are misplaced. Raises AwayError if tracking.required and
    MLflow does not answer, and ValueError if a sample can't be drawn.
    """
    deliver_start(plan.folder, plan.settings.tracking, writer)
    data = plan.settings.data
    shards = training_shards(plan.train.paths[:1], data, rank=0, workers=1)
    samples: Samples = (
        shards
        if isinstance(shards, ShardReader)
        else shards.first(_SHOWN, BadSamples(data.bad_samples))
    )
    input_px = plan.settings.model.input_px
    loader = SampleLoader(samples, plan.joint_set, input_px, data.bad_samples, data.max_pixels)
    figure = draw_augmented(loader, data, spaced(len(samples), _SHOWN))
    return _save(plan, figure, "samples.png", writer.check)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a finished run: its best checkpoint, that one's epoch and scores."""

    checkpoint: Path
    epoch: int
    scores: dict[str, Scores]

    @property
    def overlay(self) -> Path:
        """Picture of the best checkpoint's predictions on validation samples."""
        return overlay_path(self.checkpoint.parent, self.epoch)


def conclude(plan: Plan, journal: Journal, ended: str = "") -> Outcome:
    """Add the run's figures, best checkpoint and result to the journal.

    `ended` tells when and why the training ended, if it was another run's. Raises ValueError if no
    sound checkpoint has the primary metric.
    """
    metric = plan.measure.metric_name
    found = best(plan.folder, metric)
    if found is None:
        raise ValueError(f"{plan.folder}: has no checkpoint with {metric}")
    folder, metadata = found
    epoch = metadata.progress.epochs
    evaluation = Evaluation.read(folder / EVALUATION_NAME, plan.joint_set)
    people = read_results(folder / PEOPLE_NAME)
    precision = precision_of(people, plan.joint_set)
    scores = evaluation.scores(plan.joint_set, precision)
    best_scores = scores[plan.measure.key]
    figures = {
        "curves.png": curves(
            journal.history(["train_loss", "val_loss", metric]), metric, plan.measure.headline
        ),
        "joints.png": joint_bars(best_scores),
        "thresholds.png": threshold_curve(evaluation.counts[plan.measure.key], best_scores),
        **_close_ups(plan, folder, people),
    }
    for name, figure in figures.items():
        journal.file(_save(plan, figure, name, journal.check), "")
    tables = [*map(table, scores.values()), *([precision_table(precision)] if precision else [])]
    journal.text("\n\n".join(tables) + "\n", "scores.txt")
    journal.folder(folder, BEST_CHECKPOINT)
    journal.metrics({f"best_{metric}": best_scores.headline, "best_epoch": epoch}, epoch)
    if registered := plan.settings.tracking.register:
        value, checksum = metadata.metrics[metric], plan.val.checksum
        journal.register(folder.name, registered, metric, value, checksum)
    result = f"{plan.measure.headline} {best_scores.headline:.2f} after epoch {epoch}"
    outcome = Outcome(checkpoint=folder, epoch=epoch, scores=scores)
    journal.file(_write_report(plan, outcome, result, journal.check), "")
    note = {NOTE: describe_run(plan, network_cost(plan.settings.model), result)}
    journal.tags(note | {ENDED_TAG: ended or end_of(plan, journal)})
    record_long(journal, {}, note)
    return outcome


def end_of(plan: Plan, journal: Journal) -> str:
    """Describe when and why a run ended, from its primary metric by epoch."""
    metric = plan.measure.metric_name
    course = journal.history([metric])[metric]
    # Of equal values the first is the best, as for the plateau.
    (last, _), (best_epoch, _) = course[-1], max(course, key=itemgetter(1))
    return plan.settings.optim.describe_end(plan.measure.headline, last, last - best_epoch)


def _write_report(plan: Plan, outcome: Outcome, result: str, check: Callable[[], object]) -> Path:
    """Write the run's report into its folder; return its path."""
    recipe, differing = against_recipe(plan.settings)
    figures = plan.folder / FIGURES
    paths = {name: figures / f"{name}.png" for name in PICTURES} | {"overlay": outcome.overlay}
    report = RunReport(
        name=plan.settings.ray.name,
        result=result,
        about=[
            part.replace("`", "") for part in paragraphs(plan, network_cost(plan.settings.model))
        ],
        command=command(plan.settings),
        facts={"best checkpoint": shown(outcome.checkpoint)},
        recipe=recipe,
        settings=differing,
        tables=list(map(score_table, outcome.scores.values())),
        pictures=[
            ReportPicture(
                name=name,
                title=title,
                sentence=sentence,
                png=paths[name].read_bytes(),
                is_broad=name not in ("joints", "thresholds"),
                is_photograph=name not in ("curves", "joints", "thresholds"),
            )
            for name, (title, sentence) in PICTURES.items()
            if paths[name].exists()
        ],
    )
    path, page = plan.folder / REPORT_NAME, report_page(report)
    check()
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def _close_ups(plan: Plan, checkpoint: Path, people: PersonResults) -> dict[str, Figure]:
    """Draw the checkpoint's worst samples and heatmaps; a moment's work on this machine's CPU."""
    device = torch.device("cpu")
    network, _ = load_network(checkpoint, device)
    loader = SampleLoader(
        ShardReader(plan.val.paths),
        plan.joint_set,
        plan.settings.model.input_px,
        max_pixels=plan.settings.data.max_pixels,
    )
    evaluator = Evaluator(network=network, loader=loader, settings=plan.settings, device=device)
    return draw_close_ups(evaluator, people, plan.measure)


def _save(plan: Plan, figure: Figure, name: str, check: Callable[[], object]) -> Path:
    """Save a figure in the run's folder after a last `check` of the owner; return its path."""
    path, drawn = plan.folder / FIGURES / name, io.BytesIO()
    figure.savefig(drawn, dpi=100)
    check()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn.getvalue())
    return path
