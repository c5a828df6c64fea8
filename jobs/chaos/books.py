"""Audit of a soak: samples and metrics that were lost or counted twice, run by run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.chaos.evidence import Taking
from jobs.chaos.training import BATCH, EPOCHS, EXPERIMENT, Training
from pipeline.io.console import say
from pipeline.run.checkpoint import check_sound
from pipeline.run.checkpoint_manager import checkpoints, newest_sound
from pipeline.run.journal import JOURNAL_NAME, SYSTEM_NAME, Journal
from pipeline.run.metadata import Progress
from pipeline.tracking.runs import Point, recorded

# A metric's name, its epoch (from 1) and its value.
Row = tuple[str, int, float]
# Recorded once, when a run is complete.
_AT_END = "best_"
# Metrics of every epoch, expected even if none was recorded.
_ALWAYS = frozenset({"epoch", "samples", "train_loss", "val_loss", "learning_rate"})


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The samples a run must have trained on: `people` in batches of `batch` over all workers.

    `epochs` are complete, with their metrics. The last checkpoint holds
    `epoch_steps` steps of the next one.
    """

    people: int
    batch: int
    epochs: int
    epoch_steps: int = 0
    is_complete: bool = True

    def steps(self) -> dict[int, int]:
        """Return the number of steps that count, by epoch (from 0)."""
        whole = self.people // self.batch
        found = dict.fromkeys(range(self.epochs), whole)
        return found | ({self.epochs: self.epoch_steps} if self.epoch_steps else {})


@dataclass(frozen=True, kw_only=True)
class Account:
    """Things to be counted once: their number, those missing, and the extra counts."""

    expected: int = 0
    lost: int = 0
    doubled: int = 0

    def __str__(self) -> str:
        return f"{self.lost} lost and {self.doubled} doubled of {self.expected:,}"

    def figures(self, name: str) -> dict[str, int]:
        return {name: self.expected, f"{name}_lost": self.lost, f"{name}_doubled": self.doubled}

    def __add__(self, other: "Account") -> "Account":
        return Account(**Counter(vars(self)) + Counter(vars(other)))


def audit(training: Training, takings: Iterable[Taking], people: int, uri: str) -> Counter[str]:
    """Compare traces, journals and MLflow with what each run must have done; return all figures."""
    totals, takings = Counter[str](), list(takings)
    for run in training.runs:
        of_run = [taking for taking in takings if taking.rank.run == run]
        expected, folder = _expected(training, run, people), training.folder_of(run)
        steps, repeated = count_steps(of_run)
        samples = samples_account(of_run, expected)
        stored = recorded(uri, EXPERIMENT, run)
        of_training, of_system = ([_rows(p, of_system=k) for p in stored] for k in (False, True))
        metrics = metrics_account(_journal_rows(folder, JOURNAL_NAME), of_training, expected)
        metrics += system_account(_journal_rows(folder, SYSTEM_NAME), of_system)
        kept = checkpoints_account(folder)
        say(
            f"{run}: {expected.epochs} epochs and {expected.epoch_steps} steps; "
            f"samples: {samples}; metrics: {metrics}; checkpoints: {kept.lost} lost of "
            f"{kept.expected}"
        )
        totals.update(runs=1, epochs=expected.epochs, steps=steps, steps_repeated=repeated)
        totals.update(samples.figures("samples") | metrics.figures("metrics"))
        totals.update(checkpoints=kept.expected, checkpoints_lost=kept.lost)
    return totals


def samples_account(takings: Iterable[Taking], expected: Expected) -> Account:
    """Check that each sample of a run's epochs, up to the last whole batch, is in one step.

    Of a step that was repeated only the last counts: training had resumed from
    a checkpoint before it.
    """
    surviving: dict[int, Counter[int]] = defaultdict(Counter)
    steps = expected.steps()
    for (epoch, step), groups in _groups(takings).items():
        # Steps of the last epoch that are not in its checkpoint will be repeated.
        if epoch < expected.epochs or step <= steps.get(epoch, 0):
            last = max(groups.values(), key=lambda parts: max(part.time for part in parts))
            surviving[epoch].update(position for part in last for position in part.positions)
    found = Account()
    for epoch, count in steps.items():
        seen, wanted = surviving[epoch], count * expected.batch
        # Samples beyond the last whole batch count as doubled.
        found += Account(
            expected=wanted,
            lost=max(0, wanted - len(seen)),
            doubled=seen.total() - len(seen) + max(0, len(seen) - wanted),
        )
    return found


def count_steps(takings: Iterable[Taking]) -> tuple[int, int]:
    """Return the number of steps of a run, and the number of repetitions."""
    groups = _groups(takings)
    return len(groups), sum(len(times) - 1 for times in groups.values())


def _groups(takings: Iterable[Taking]) -> Mapping[tuple[int, int], dict[str, list[Taking]]]:
    """Return takings by (epoch, step), and by the group that took it."""
    found: dict[tuple[int, int], dict[str, list[Taking]]] = defaultdict(lambda: defaultdict(list))
    for taking in takings:
        found[taking.epoch, taking.step][taking.rank.group].append(taking)
    return found


def metrics_account(
    journal: Sequence[Row], store: Sequence[Sequence[Row]], expected: Expected
) -> Account:
    """Check that each epoch's metrics are once in the journal and once, equal, in MLflow.

    `store` has the rows of every MLflow run of that name; there should be one.
    """
    stored = [row for run in store for row in run]
    at_end = {name for name, _, _ in [*journal, *stored] if name.startswith(_AT_END)}
    names = ({name for name, _, _ in [*journal, *stored]} | _ALWAYS) - at_end
    both = set(journal) & set(stored)
    wanted = {(name, epoch) for name in names for epoch in range(1, expected.epochs + 1)}
    lost = len(wanted - {(name, epoch) for name, epoch, _ in both})
    if expected.is_complete:
        # The best epoch and its metric.
        ends = {name for name, _, _ in both if name.startswith(_AT_END)}
        lost += max(0, 2 - len(ends))
    doubled = sum(_extra(rows) for rows in (journal, stored)) + max(0, len(store) - 1)
    return Account(expected=len(wanted) + 2 * expected.is_complete, lost=lost, doubled=doubled)


def system_account(journal: Sequence[Row], store: Sequence[Sequence[Row]]) -> Account:
    """Check that each system metric of the journal is once in MLflow."""
    stored = [row for run in store for row in run]
    lost = len(set(journal) - set(stored))
    return Account(expected=len(journal), lost=lost, doubled=_extra(journal) + _extra(stored))


def checkpoints_account(folder: Path) -> Account:
    """Check that a run's checkpoints, and those that its journal names as models, are sound."""
    names = {path.name for path in checkpoints(folder)} | set(Journal(folder).models())
    return Account(expected=len(names), lost=sum(not _is_sound(folder / name) for name in names))


def _is_sound(checkpoint: Path) -> bool:
    try:
        check_sound(checkpoint)
    except ValueError:
        return False
    return True


def _extra(rows: Iterable[Row]) -> int:
    """Count the rows beyond the first for a metric and epoch."""
    counts = Counter((name, epoch) for name, epoch, _ in rows)
    return counts.total() - len(counts)


def _rows(points: Iterable[Point], *, of_system: bool) -> list[Row]:
    """Return what MLflow has of a run: its system metrics, or the others."""
    return [
        (point.name, point.step, point.value)
        for point in points
        if point.name.startswith("system/") == of_system
    ]


def _journal_rows(folder: Path, journal: str) -> list[Row]:
    return [
        (name, entry.content["step"], value)
        for entry in Journal(folder, journal).entries()
        if entry.kind == "metrics"
        for name, value in entry.content["values"].items()
    ]


def _expected(training: Training, run: str, people: int) -> Expected:
    """Return what a run must have trained on, by its newest checkpoint."""
    found = newest_sound(training.folder_of(run), say)
    progress = found[1].progress if found else Progress()
    return Expected(
        people=people,
        batch=BATCH,
        epochs=progress.epochs,
        epoch_steps=progress.epoch_steps,
        is_complete=progress.epochs == EPOCHS,
    )
