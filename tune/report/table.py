"""The leaderboard's columns as people read them, and its text for a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from textwrap import wrap
from typing import Any, Literal

from pipeline.io.console import amount, duration
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.leaderboard import differing_keys, ranked, ranks, summary, varied_keys
from tune.report.values import clipped, is_number, last_line, number, short_keys, shortened, shown

_TRIAL = "trial"
_VALUE_LETTERS = 16
_NAME_LETTERS = 20
_GAP = "  "
# Columns that the terminal can do without, in the order of leaving; trials.csv has all of them.
_EXPENDABLE = ("parameters", "samples", "best epoch", "samples/s", "time", "status")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A title and a cell for each trial, best first; `values` are for sorting, None if unknown."""

    title: str
    cells: Sequence[str]
    values: Sequence[float | str | None]
    kind: Literal["text", "number"] = "number"

    @property
    def width(self) -> int:
        return max(map(len, [self.title, *self.cells]))

    def shortened(self, letters: int) -> "Column":
        """Return the same column with cells of at most `letters` letters."""
        return replace(self, cells=[shortened(cell, letters) for cell in self.cells])


def columns_of(outcome: SweepOutcome) -> list[Column]:
    """Return rank, primary metric, trial, status, the settings that differ, and the costs."""
    trials = ranked(outcome)
    whole, two_digits = partial(number, digits=0), partial(number, digits=2)
    return [
        _numbers("rank", ranks(trials), whole),
        _numbers(outcome.headline, [trial.score for trial in trials], two_digits),
        _texts(_TRIAL, [trial.name for trial in trials]),
        _texts("status", [trial.status + ", cut" * bool(trial.cut_from) for trial in trials]),
        *_settings(outcome, trials),
        _numbers("best epoch", [trial.best_epoch or None for trial in trials], whole),
        _numbers("samples", [trial.samples for trial in trials], whole),
        _numbers("time", [trial.seconds for trial in trials], duration),
        _numbers("samples/s", [t.samples_per_s for t in trials], partial(amount, decimals=1)),
        _numbers("parameters", [trial.parameters for trial in trials], whole),
        _numbers("GMAC", [trial.macs / 1e9 for trial in trials], amount),
    ]


def _settings(outcome: SweepOutcome, trials: Sequence[TrialOutcome]) -> list[Column]:
    columns = []
    for key, title in short_keys(differing_keys(outcome)).items():
        values = [trial.point.get(key) for trial in trials]
        sortable = list(map(_sortable, values))
        columns.append(Column(title=title, cells=list(map(shown, values)), values=sortable))
    return columns


def _sortable(value: Any) -> float | str | None:
    if is_number(value):
        return float(value)
    return None if value is None else shown(value)


def _texts(title: str, texts: Sequence[str]) -> Column:
    return Column(title=title, cells=texts, values=texts, kind="text")


def _numbers(title: str, values: Sequence[float | None], text: Callable[[float], str]) -> Column:
    known = [value if is_number(value) else None for value in values]
    cells = ["" if value is None else text(value) for value in known]
    return Column(title=title, cells=cells, values=known)


def leaderboard_text(outcome: SweepOutcome, width: int = 120) -> str:
    """Format the leaderboard as lines of at most `width` letters, if the settings leave room.

    Settings that are the same for all trials stand once above the table. Below it are the titles of
    columns that do not fit, and the last line of each failed trial's error.
    """
    lines = [f"sweep {outcome.name}", *wrap(summary(outcome), width)]
    if not outcome.trials:
        return "\n".join(lines)
    lines += wrap(_same_for_all(outcome), width)
    columns, dropped = _fitting(columns_of(outcome), width)
    lines += [_line(columns, row) for row in (None, *range(len(outcome.trials)))]
    if dropped:
        lines += wrap(f"also in trials.csv: {', '.join(dropped)}", width)
    for trial in ranked(outcome):
        if trial.error:
            name = shortened(trial.name, _NAME_LETTERS)
            lines.append(clipped(f"failed: {name}: {last_line(trial.error)}", width))
    return "\n".join(lines)


def _same_for_all(outcome: SweepOutcome) -> str:
    differ, point = differing_keys(outcome), outcome.trials[0].point
    same = [
        f"{key} {shortened(shown(point.get(key)), _VALUE_LETTERS)}"
        for key in varied_keys(outcome)
        if key not in differ
    ]
    return f"all with {', '.join(same)}" if same else ""


def _fitting(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """Return the columns that fit, with trials' names shortened, and the titles of the others."""
    kept = [
        column if column.title == _TRIAL else column.shortened(_VALUE_LETTERS) for column in columns
    ]
    dropped: list[str] = []
    while (room := _room(kept, width)) < _NAME_LETTERS and len(dropped) < len(_EXPENDABLE):
        dropped.append(_EXPENDABLE[len(dropped)])
        kept = [column for column in kept if column.title != dropped[-1]]
    letters = max(room, _NAME_LETTERS)
    return [c.shortened(letters) if c.title == _TRIAL else c for c in kept], dropped


def _room(columns: Sequence[Column], width: int) -> int:
    """Return the letters that the other columns leave for names; a short name's are enough."""
    names = next(column for column in columns if column.title == _TRIAL)
    room = width - sum(len(_GAP) + column.width for column in columns if column is not names)
    return max(room, _NAME_LETTERS) if room >= names.width else room


def _line(columns: Sequence[Column], row: int | None) -> str:
    padded = []
    for column in columns:
        text = column.title if row is None else column.cells[row]
        pad = text.ljust if column.kind == "text" else text.rjust
        padded.append(pad(column.width))
    return _GAP.join(padded).rstrip()
