"""Audit of a soak after its end: what each run trained on and recorded."""

from collections import Counter
from collections.abc import Iterable

from jobs.chaos.books import Row, count_steps, metrics_account, samples_account, system_account
from jobs.chaos.evidence import Taking
from jobs.chaos.training import EXPERIMENT, Training
from pipeline.io.console import say
from pipeline.run.journal import JOURNAL_NAME, SYSTEM_NAME, Journal
from pipeline.tracking.runs import Point, recorded


def audit(training: Training, takings: Iterable[Taking], people: int, uri: str) -> Counter[str]:
    """Compare the ranks' traces, the journals and MLflow with what each run must have done.

    Returns the figures of all runs by name.
    """
    totals, takings = Counter[str](), list(takings)
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
        totals.update(runs=1, epochs=expected.epochs, steps=steps, steps_repeated=repeated)
        totals.update(samples.figures("samples") | metrics.figures("metrics"))
    return totals


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
