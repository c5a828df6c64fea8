"""The leaderboard as text for a terminal, which has 120 columns or so."""

from collections.abc import Sequence
from textwrap import wrap

from tune.outcome import SweepOutcome
from tune.report.columns import TRIAL, Column, columns_of
from tune.report.leaderboard import differing_keys, ranked, summary, varied_keys
from tune.report.values import clipped, last_line, shortened, shown

_VALUE_LETTERS = 16
_NAME_LETTERS = 20
_GAP = "  "
# What the terminal can do without, first to go first; trials.csv has all of it.
_FIRST_TO_GO = ("parameters", "samples", "best epoch", "samples/s", "time", "status")


def leaderboard_text(outcome: SweepOutcome, width: int = 120) -> str:
    """The leaderboard as lines of at most `width` letters where the settings that differ leave room.

    What is the same for all trials is said once, above; columns that don't fit
    are named below, and failures with the last line of their errors.
    """
    lines = [f"sweep {outcome.name}", *wrap(summary(outcome), width)]
    if not outcome.trials:
        return "\n".join(lines)
    lines += wrap(_same_for_all(outcome), width)
    columns, dropped = _fitting(columns_of(outcome), width)
    lines += [_line(columns, row) for row in (None, *range(len(outcome.trials)))]
    if dropped:
        lines += wrap(f"in trials.csv besides: {', '.join(dropped)}", width)
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
    """The columns that fit, and the titles of those that had to go; long names of trials are shortened."""
    kept = [
        column if column.title == TRIAL else column.shortened(_VALUE_LETTERS) for column in columns
    ]
    dropped: list[str] = []
    while (room := _room(kept, width)) < _NAME_LETTERS and len(dropped) < len(_FIRST_TO_GO):
        dropped.append(_FIRST_TO_GO[len(dropped)])
        kept = [column for column in kept if column.title != dropped[-1]]
    letters = max(room, _NAME_LETTERS)
    return [
        column.shortened(letters) if column.title == TRIAL else column for column in kept
    ], dropped


def _room(columns: Sequence[Column], width: int) -> int:
    """Letters that the others leave for names of trials; as many as a short name needs count as enough."""
    names = next(column for column in columns if column.title == TRIAL)
    room = width - sum(len(_GAP) + column.width for column in columns if column is not names)
    return max(room, _NAME_LETTERS) if room >= names.width else room


def _line(columns: Sequence[Column], row: int | None) -> str:
    texts = [(column, column.title if row is None else column.cells[row]) for column in columns]
    padded = [
        text.ljust(column.width) if column.is_text else text.rjust(column.width)
        for column, text in texts
    ]
    return _GAP.join(padded).rstrip()
