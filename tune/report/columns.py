"""The leaderboard's columns as people read them, for the terminal and for the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.io.console import duration
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.leaderboard import differing_keys, ranked, ranks
from tune.report.values import is_number, number, short_keys, shortened, shown

TRIAL = "trial"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A title and a cell for each trial, best first; `values` are what the cells stand for, None if not known."""

    title: str
    cells: Sequence[str]
    values: Sequence[float | str | None]
    is_text: bool = False

    @property
    def width(self) -> int:
        """Letters of the longest cell."""
        return max(map(len, [self.title, *self.cells]))

    def shortened(self, letters: int) -> "Column":
        """The same column with cells of at most so many letters."""
        return replace(self, cells=[shortened(cell, letters) for cell in self.cells])


def columns_of(outcome: SweepOutcome) -> list[Column]:
    """Rank, headline, trial, status, the settings that differ and what it took."""
    trials = ranked(outcome)
    places = ranks(trials)
    epochs = [trial.best_epoch if math.isfinite(trial.score) else math.nan for trial in trials]
    return [
        _numbers("rank", [math.nan if rank is None else rank for rank in places], _whole),
        _numbers(outcome.headline, [trial.score for trial in trials], _two_digits),
        _texts(TRIAL, [trial.name for trial in trials]),
        _texts("status", [trial.status for trial in trials]),
        *_settings(outcome, trials),
        _numbers("best epoch", epochs, _whole),
        _numbers("samples", [trial.samples for trial in trials], _whole),
        _numbers("time", [trial.seconds for trial in trials], duration),
        _numbers("samples/s", [trial.samples_per_s for trial in trials], _one_digit),
        _numbers("parameters", [trial.parameters for trial in trials], _whole),
        _numbers("GMAC", [trial.macs / 1e9 for trial in trials], _two_digits),
    ]


def _settings(outcome: SweepOutcome, trials: Sequence[TrialOutcome]) -> list[Column]:
    columns = []
    for key, title in short_keys(differing_keys(outcome)).items():
        values = [trial.point.get(key) for trial in trials]
        cells = [shown(value) for value in values]
        columns.append(Column(title=title, cells=cells, values=list(map(_sortable, values))))
    return columns


def _sortable(value: Any) -> float | str | None:
    if is_number(value):
        return float(value)
    return None if value is None else shown(value)


def _texts(title: str, texts: Sequence[str]) -> Column:
    return Column(title=title, cells=texts, values=texts, is_text=True)


def _numbers(title: str, values: Sequence[float], text: Callable[[float], str]) -> Column:
    known = [value if math.isfinite(value) else None for value in values]
    cells = ["" if value is None else text(value) for value in known]
    return Column(title=title, cells=cells, values=known)


def _whole(value: float) -> str:
    return number(value, 0)


def _one_digit(value: float) -> str:
    return number(value, 1)


def _two_digits(value: float) -> str:
    return number(value, 2)
