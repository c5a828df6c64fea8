"""A sweep's trials, best first: ranks, the Pareto front, and the table in trials.csv."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.io.console import duration
from pipeline.io.redaction import redacted
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.values import distinct


def ranked(outcome: SweepOutcome) -> list[TrialOutcome]:
    """Sort trials, best first: by score, then the cheaper network, then the name.

    Failed trials come after all others, whatever they had reached, because their settings are not
    to be recommended. Trials without a score come last within each group.
    """

    def order(trial: TrialOutcome) -> tuple[bool, bool, float, float, str]:
        scored = math.isfinite(trial.score)
        score = -trial.score if scored else 0.0
        return trial.status == "failed", not scored, score, trial.macs, trial.name

    return sorted(outcome.trials, key=order)


def ranks(trials: Sequence[TrialOutcome]) -> list[int | None]:
    """Return the ranks of `ranked`, shared by equal scores; None for trials that do not compete."""
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
    """Tell whether a trial can be the best: it has a score and did not fail."""
    return math.isfinite(trial.score) and trial.status != "failed"


def best(outcome: SweepOutcome) -> TrialOutcome | None:
    """Return the trial of rank 1, or None if no trial competes."""
    return next(filter(competes, ranked(outcome)), None)


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Return the indices of the trials that no other dominates, cheapest first.

    A trial dominates another if it costs no more and scores no less, and is better in one of the
    two. So twins both stay. Trials whose cost or score is not finite are left out.
    """
    pairs = list(zip(costs, scores, strict=True))
    known = [place for place, pair in enumerate(pairs) if all(map(math.isfinite, pair))]

    def dominates(one: int, other: int) -> bool:
        no_worse = costs[one] <= costs[other] and scores[one] >= scores[other]
        return no_worse and pairs[one] != pairs[other]

    front = [place for place in known if not any(dominates(other, place) for other in known)]
    return sorted(front, key=lambda place: (costs[place], place))


def varied_keys(outcome: SweepOutcome) -> list[str]:
    """Return the dotted keys of the settings that trials replace."""
    return list(dict.fromkeys([*outcome.axes, *(key for t in outcome.trials for key in t.point)]))


def differing_keys(outcome: SweepOutcome) -> list[str]:
    """Return those of which trials took more than one value."""
    return [
        key
        for key in varied_keys(outcome)
        if len(distinct(trial.point.get(key) for trial in outcome.trials)) > 1
    ]


def leaderboard(outcome: SweepOutcome) -> pd.DataFrame:
    """Return one row a trial, best first.

    Columns: rank, trial, status, the replaced settings by dotted key, score,
    best_epoch, samples, seconds, samples_per_s, parameters, gmac, checkpoint,
    cut_from if trials were cut, and error. Unknown values are missing. Errors and
    settings hold no secrets.
    """
    trials = ranked(outcome)
    columns: dict[str, Sequence[Any]] = {
        "rank": ranks(trials),
        "trial": [trial.name for trial in trials],
        "status": [trial.status for trial in trials],
    }
    for key in varied_keys(outcome):
        values = [trial.point.get(key) for trial in trials]
        columns[key] = [redacted(value) if isinstance(value, str) else value for value in values]
    columns["score"] = [trial.score for trial in trials]
    columns["best_epoch"] = [trial.best_epoch or None for trial in trials]
    for name in ("samples", "seconds", "samples_per_s", "parameters"):
        columns[name] = [getattr(trial, name) for trial in trials]
    columns["gmac"] = [trial.macs / 1e9 for trial in trials]
    columns["checkpoint"] = [trial.checkpoint_place or None for trial in trials]
    if any(trial.cut_from for trial in trials):
        columns["cut_from"] = [trial.cut_from for trial in trials]
    columns["error"] = [redacted(trial.error) for trial in trials]
    # Whole numbers, of which some may be missing.
    return pd.DataFrame(columns).astype({"rank": "Int64", "best_epoch": "Int64"})


def summary(outcome: SweepOutcome) -> str:
    """Count trials by status, and add up what they cost."""
    statuses = [trial.status for trial in outcome.trials]
    trials = f"{len(statuses)} trial{'' if len(statuses) == 1 else 's'}"
    if not statuses:
        return trials
    counts = ", ".join(
        f"{statuses.count(status)} {status}" for status in distinct(sorted(statuses))
    )
    seconds = math.fsum(t.seconds for t in outcome.trials if math.isfinite(t.seconds))
    cut = sum(bool(trial.cut_from) for trial in outcome.trials)
    return (
        f"{trials}: {counts}; "
        + f"{cut} of them cut from larger networks; " * bool(cut)
        + f"{outcome.samples:,} training samples, {duration(seconds)} of the trials' time"
    )
