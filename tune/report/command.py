"""The settings of a sweep as a command line: those that trials share, and the best trial's."""

import shlex
from collections.abc import Sequence

from pipeline.io import installation
from pipeline.settings import Settings
from pipeline.settings.config_file import option, option_words
from tune.outcome import SweepOutcome
from tune.report.leaderboard import best


def best_command(outcome: SweepOutcome) -> str | None:
    """Return the command `jobs.train` that trains with the best trial's settings.

    It is quoted for a shell, with *** for secrets of URIs. None if no trial has a score.
    """
    trial = best(outcome)
    if trial is None:
        return None
    options = [word for key, value in trial.point.items() for word in option(key, value)]
    return shlex.join([*installation.command("jobs.train"), *outcome.command, *options])


def shared_arguments(base: Settings, varied: Sequence[str]) -> tuple[str, ...]:
    """Return shared settings that are not defaults as words of a command line, without secrets."""
    # The sweep sets the run's storage and name; joints follow from the data.
    others = ("ray.name", "ray.storage", "ray.scratch", "model.joints")
    return tuple(option_words(base, {*varied, *others}))
