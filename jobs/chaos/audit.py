"""Closing the books of a soak, when all is still: what was trained on and recorded, run by run."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from jobs.chaos.books import (
    Account,
    Row,
    count_steps,
    machine_account,
    metrics_account,
    samples_account,
)
from jobs.chaos.evidence import Taking
from jobs.chaos.training import EXPERIMENT, Training
from pipeline.io.console import say
from pipeline.run.journal import JOURNAL_NAME, SYSTEM_NAME, Journal
from pipeline.tracking.runs import Point, recorded


@dataclass(kw_only=True)
class Books:
    """Of all runs together: `steps` that were taken, how often one was again, and the two accounts."""

    runs: int = 0
    epochs: int = 0
    steps: int = 0
    repeated: int = 0
    samples: Account = field(default_factory=Account)
    metrics: Account = field(default_factory=Account)


def close_books(training: Training, takings: Iterable[Taking], people: int, uri: str) -> Books:
    """Compare what the ranks have witnessed, the journals and MLflow with what there should be of each run."""
    books, takings = Books(), list(takings)
    for run in training.runs:
        mine = [taking for taking in takings if taking.rank.run == run]
        expected = training.expected(run, people)
        steps, repeated = count_steps(mine)
        samples = samples_account(mine, expected)
        stored = recorded(uri, EXPERIMENT, run)
        metrics = metrics_account(
            list(_journal_rows(training, run)),
            [_rows(r, of_machine=False) for r in stored],
            expected,
        )
        metrics += machine_account(
            list(_journal_rows(training, run, SYSTEM_NAME)),
            [_rows(r, of_machine=True) for r in stored],
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


def _rows(points: Iterable[Point], *, of_machine: bool) -> list[Row]:
    """What MLflow has of a run itself, or of the machine that it ran on."""
    return [
        (point.name, point.step, point.value)
        for point in points
        if point.name.startswith("system/") == of_machine
    ]


def _journal_rows(training: Training, run: str, journal: str = JOURNAL_NAME) -> Iterable[Row]:
    for entry in Journal(training.folder_of(run), journal).entries():
        if entry.kind == "metrics":
            for name, value in entry.content["values"].items():
                yield name, entry.content["step"], value
