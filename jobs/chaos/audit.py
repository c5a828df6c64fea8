"""Audit of a soak after its end: what each run trained on and recorded."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from jobs.chaos.books import (
    Account,
    Row,
    count_steps,
    metrics_account,
    samples_account,
    system_account,
)
from jobs.chaos.evidence import Taking
from jobs.chaos.training import EXPERIMENT, Training
from pipeline.io.console import say
from pipeline.run.journal import JOURNAL_NAME, SYSTEM_NAME, Journal
from pipeline.tracking.runs import Point, recorded


@dataclass(kw_only=True)
class Books:
    """Totals of all runs: steps taken and repeated, and the two accounts."""

    runs: int = 0
    epochs: int = 0
    steps: int = 0
    repeated: int = 0
    samples: Account = field(default_factory=Account)
    metrics: Account = field(default_factory=Account)


def audit(training: Training, takings: Iterable[Taking], people: int, uri: str) -> Books:
    """Compare the ranks' traces, the journals and MLflow with what each run must have done."""
    books, takings = Books(), list(takings)
    for run in training.runs:
        of_run = [taking for taking in takings if taking.rank.run == run]
        expected = training.expected(run, people)
        steps, repeated = count_steps(of_run)
        samples = samples_account(of_run, expected)
        stored = recorded(uri, EXPERIMENT, run)
        metrics = metrics_account(
            _journal_rows(training, run, JOURNAL_NAME),
            [_rows(points, of_system=False) for points in stored],
            expected,
        ) + system_account(
            _journal_rows(training, run, SYSTEM_NAME),
            [_rows(points, of_system=True) for points in stored],
        )
        say(
            f"{run}: {expected.epochs} epochs and {expected.epoch_steps} steps; "
            f"samples: {samples}; metrics: {metrics}"
        )
        books.runs += 1
        books.epochs += expected.epochs
        books.steps += steps
        books.repeated += repeated
        books.samples += samples
        books.metrics += metrics
    return books


def _rows(points: Iterable[Point], *, of_system: bool) -> list[Row]:
    """Return what MLflow has of a run: its system metrics, or the others."""
    return [
        (point.name, point.step, point.value)
        for point in points
        if point.name.startswith("system/") == of_system
    ]


def _journal_rows(training: Training, run: str, journal: str) -> list[Row]:
    return [
        (name, entry.content["step"], value)
        for entry in Journal(training.folder_of(run), journal).entries()
        if entry.kind == "metrics"
        for name, value in entry.content["values"].items()
    ]
