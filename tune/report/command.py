"""The settings of a sweep as a command line: those that trials share, and the best trial's."""

import shlex
from collections.abc import Sequence
from typing import Any

from pipeline.io import installation
from pipeline.settings import Settings
from pipeline.settings.config_file import option_words
from tune.outcome import SweepOutcome
from tune.report.leaderboard import best


def best_command(outcome: SweepOutcome) -> str | None:
    """Return the command `jobs.train` that trains with the best trial's settings.

    It is quoted for a shell, with *** for secrets of URIs. None if no trial has a score.
    """
    trial = best(outcome)
    if trial is None:
        return None
    options = [word for key, value in trial.point.items() for word in _option(key, value)]
    return shlex.join([*installation.command("jobs.train"), *outcome.command, *options])


def shared_arguments(base: Settings, varied: Sequence[str]) -> tuple[str, ...]:
    """Return shared settings that are not defaults as words of a command line, without secrets."""
    # The sweep sets the run's storage and name; joints follow from the data.
    others = ("ray.name", "ray.storage", "ray.scratch", "model.joints")
    return tuple(option_words(base, {*varied, *others}))


def _option(key: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [f"--{key}", *map(_word, value)]
    word = _word(value)
    # A separate word that begins with a dash would be parsed as an option.
    return [f"--{key}={word}"] if word.startswith("-") else [f"--{key}", word]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # NumPy's floats would lose digits in str().
    return repr(float(value)) if isinstance(value, float) else str(value)
