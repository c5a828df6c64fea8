"""A sweep's trials in order, best first: as objects, as a table, and as text for a terminal."""

import math
from collections.abc import Sequence

import pandas as pd

from pipeline.io.console import duration
from pipeline.io.redaction import redacted
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.values import distinct


def ranked(outcome: SweepOutcome) -> list[TrialOutcome]:
    """Trials, best first; of equal scores the cheaper network, then the name.

    Those that failed come after all others, whatever they had reached: their
    settings are none to recommend. Those without a score come last of each.
    """

    def place(trial: TrialOutcome) -> tuple[bool, bool, float, float, str]:
        scored = math.isfinite(trial.score)
        score = -trial.score if scored else 0.0
        return trial.status == "failed", not scored, score, trial.macs, trial.name

    return sorted(outcome.trials, key=place)


def ranks(trials: Sequence[TrialOutcome]) -> list[int | None]:
    """The rank of each trial of `ranked`: equal scores share one; none without a score or after a failure."""
    found: list[int | None] = []
    for place, trial in enumerate(trials):
        if not competes(trial):
            found.append(None)
        elif place and trials[place - 1].score == trial.score:
            found.append(found[-1])
        else:
            found.append(place + 1)
    return found


def competes(trial: TrialOutcome) -> bool:
    """Whether a trial can be the best: it has a score and did not fail."""
    return math.isfinite(trial.score) and trial.status != "failed"


def best(outcome: SweepOutcome) -> TrialOutcome | None:
    """The trial of rank 1, or None if no trial has a score."""
    return next(filter(competes, ranked(outcome)), None)


def varied_keys(outcome: SweepOutcome) -> list[str]:
    """The settings that trials replace, by dotted key."""
    return list(dict.fromkeys([*outcome.axes, *(key for t in outcome.trials for key in t.point)]))


def differing_keys(outcome: SweepOutcome) -> list[str]:
    """Those of which trials took more than one value."""
    return [
        key
        for key in varied_keys(outcome)
        if len(distinct(trial.point.get(key) for trial in outcome.trials)) > 1
    ]


def leaderboard(outcome: SweepOutcome) -> pd.DataFrame:
    """One row a trial, best first.

    Columns: rank, trial, status, the replaced settings by dotted key, score,
    best_epoch, samples, seconds, samples_per_s, parameters, gmac, checkpoint and
    error. What is not known is missing. Errors and values are without secrets.
    """
    trials = ranked(outcome)
    names = [
        *("rank", "trial", "status", *varied_keys(outcome), "score", "best_epoch", "samples"),
        *("seconds", "samples_per_s", "parameters", "gmac", "checkpoint", "error"),
    ]
    rows = [_row(outcome, trial, rank) for trial, rank in zip(trials, ranks(trials), strict=True)]
    table = pd.DataFrame(rows, columns=names)
    # Whole numbers, of which some may be missing.
    return table.astype({"rank": "Int64", "best_epoch": "Int64"})


def _row(outcome: SweepOutcome, trial: TrialOutcome, rank: int | None) -> dict[str, object]:
    scored = math.isfinite(trial.score)
    row: dict[str, object] = {"rank": rank, "trial": trial.name, "status": trial.status}
    for key in varied_keys(outcome):
        value = trial.point.get(key)
        row[key] = redacted(value) if isinstance(value, str) else value
    return row | {
        "score": trial.score if scored else math.nan,
        "best_epoch": trial.best_epoch if scored else None,
        "samples": trial.samples,
        "seconds": trial.seconds,
        "samples_per_s": trial.samples_per_s,
        "parameters": trial.parameters,
        "gmac": trial.macs / 1e9,
        "checkpoint": None if trial.checkpoint is None else str(trial.checkpoint),
        "error": redacted(trial.error),
    }


def summary(outcome: SweepOutcome) -> str:
    """How many trials there are of each status, and what they cost together."""
    statuses = [trial.status for trial in outcome.trials]
    counts = ", ".join(
        f"{statuses.count(status)} {status}" for status in distinct(sorted(statuses))
    )
    seconds = math.fsum(t.seconds for t in outcome.trials if math.isfinite(t.seconds))
    samples = sum(trial.samples for trial in outcome.trials)
    trials = f"{len(statuses)} trial{'' if len(statuses) == 1 else 's'}"
    if not statuses:
        return trials
    return f"{trials}: {counts}; {samples:,} training samples, {duration(seconds)} of wall time added up"
