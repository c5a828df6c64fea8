"""The best trial's settings as a command that trains with them."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tune.outcome import SweepOutcome
from tune.report.leaderboard import best


def best_command(outcome: SweepOutcome) -> str | None:
    """`python -m jobs.train ...` with what all trials share and the best one's own settings, quoted for a shell.

    None if no trial has a score. It holds whatever secrets its URIs do.
    """
    trial = best(outcome)
    if trial is None:
        return None
    return shlex.join(["python", "-m", "jobs.train", *arguments_of(outcome.command, trial.point)])


def arguments_of(command: Sequence[str], point: Mapping[str, Any]) -> list[str]:
    """The words of a command line whose settings are replaced by those of a point."""
    kept: list[str] = []
    is_replaced = False
    for word in command:
        if word.startswith("--"):
            is_replaced = word[2:].partition("=")[0] in point
        if not is_replaced:
            kept.append(word)
    return kept + [word for key, value in point.items() for word in _option(key, value)]


def _option(key: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [f"--{key}", *map(_word, value)]
    word = _word(value)
    # What begins with a dash would be taken for an option of its own.
    return [f"--{key}={word}"] if word.startswith("-") else [f"--{key}", word]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # All of its digits, also where NumPy drew it.
    return repr(float(value)) if isinstance(value, float) else str(value)
