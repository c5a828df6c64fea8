"""Runs beside the first of them: which settings differ, how accurate each is, and whether people enough say so.

A difference's interval is the percentile bootstrap's (Efron, 1979) over people,
in pairs: the same people are drawn for both runs, and each draw is pooled and
divided as the measure itself is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.evaluation.metrics import THRESHOLDS, Scores, scores
from pipeline.evaluation.per_person import PersonResults
from pipeline.pose.joint_sets import JointSet, Measure
from pipeline.settings import Settings

RESAMPLES = 10_000
PERCENT = 95
_SEED = 0
# What every run has to itself.
_NAMES = ("ray.name",)


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run to compare: its name, settings and joint set, and one checkpoint's validation results."""

    name: str
    settings: Settings
    joint_set: JointSet
    epoch: int
    cases: PersonResults


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a run has more than the first of a measure's pooled percentage at a threshold, in points.

    Over `people` whom both have; `low` and `high` are the ends of the interval.
    """

    threshold: float
    people: int
    points: float
    low: float
    high: float

    @property
    def is_resolved(self) -> bool:
        """Whether the interval leaves no doubt which of the two is better."""
        return self.low > 0 or self.high < 0

    def said(self, name: str, first: str, title: str) -> str:
        """One sentence for a person; `title` is the measure's."""
        interval = f"{PERCENT} % interval {self.low:+.2f} to {self.high:+.2f}"
        what = f"{title}@{self.threshold:g}"
        if not self.is_resolved:
            return f"{what}: {name} and {first} are not told apart: {self.points:+.2f} points, {interval}"
        word = "better" if self.points > 0 else "worse"
        return f"{what}: {name} is {word} than {first} by {abs(self.points):.2f} points, {interval}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Some runs by the headline measure of the first: each one's scores, and the differences of all but the first."""

    runs: tuple[ComparedRun, ...]
    measure: Measure
    settings: dict[str, list[Any]]
    scores: tuple[Scores, ...]
    differences: tuple[tuple[Difference, ...], ...]


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Compare runs with the first. Raises ValueError naming two that can't be compared, and why."""
    first, *others = runs
    joint_set = first.joint_set
    measure = joint_set.measure(first.settings.evaluation.measure)
    for other in others:
        unlike = joint_set.difference(other.joint_set)
        if unlike:
            raise ValueError(f"{first.name} and {other.name} have different joint sets: {unlike}")
    return Comparison(
        runs=tuple(runs),
        measure=measure,
        settings=differing([one.settings for one in runs]),
        scores=tuple(scores(one.cases.counts(measure), joint_set, measure) for one in runs),
        differences=tuple(_differences(first, other, joint_set, measure) for other in others),
    )


def differing(settings: Sequence[Settings]) -> dict[str, list[Any]]:
    """Return the settings that are not the same everywhere: by dotted key, the value of each."""
    shown = [one.shown() for one in settings]
    values = {key: [one[key] for one in shown] for key in shown[0] if key not in _NAMES}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def _differences(
    first: ComparedRun, other: ComparedRun, joint_set: JointSet, measure: Measure
) -> tuple[Difference, ...]:
    """The differences at each of the measure's thresholds, over the people that both have."""
    people, members = _same_people(first, other), list(joint_set.in_mean)
    errors = [cases.errors[measure.key][:, members] for cases in people]
    annotated = (~np.isnan(errors[0])).sum(axis=1)
    if not annotated.any():
        raise ValueError(
            f"{first.name} and {other.name}: of the people whom they share no joint counts by "
            f"{measure.key}"
        )
    found = []
    for threshold in measure.thresholds:
        # As it is counted: see pipeline.evaluation.metrics.
        correct = [(e <= THRESHOLDS[round(100 * threshold)]).sum(axis=1) for e in errors]
        points, low, high = interval(correct[1] - correct[0], annotated)
        found.append(
            Difference(
                threshold=threshold, people=len(annotated), points=points, low=low, high=high
            )
        )
    return tuple(found)


def _same_people(first: ComparedRun, other: ComparedRun) -> tuple[PersonResults, PersonResults]:
    """The people whom both runs have. Raises ValueError if there are none, or they are others of the same names."""
    names = f"{first.name} and {other.name}"
    ours, theirs = shared(first.cases, other.cases)
    if not len(ours):
        raise ValueError(
            f"{names} share none of their {len(first.cases):,} and {len(other.cases):,} validation "
            "people; expected runs on the same data"
        )
    unlike = int((ours.truths != theirs.truths).sum())
    if unlike:
        raise ValueError(
            f"{names} share the names of {len(ours):,} validation people, of whom {unlike:,} are annotated "
            "differently; expected runs on the same data"
        )
    return ours, theirs


def shared(first: PersonResults, second: PersonResults) -> tuple[PersonResults, PersonResults]:
    """Those of each whom both have, in the same order; people of one key in the order of the shards."""
    rows, others = _named(first), _named(second)
    names = [name for name in rows if name in others]
    ours, theirs = (np.array([of[name] for name in names], np.int64) for of in (rows, others))
    return first.rows(ours), second.rows(theirs)


def _named(cases: PersonResults) -> dict[tuple[str, int], int]:
    """Each person's row, by key and by how many there are of it before."""
    seen: dict[str, int] = {}
    rows = {}
    for row in np.argsort(cases.positions, kind="stable").tolist():
        key = cases.keys[row]
        rows[key, seen.get(key, 0)] = row
        seen[key] = seen.get(key, 0) + 1
    return rows


def interval(
    gained: Int64[np.ndarray, " person"], annotated: Int64[np.ndarray, " person"]
) -> tuple[float, float, float]:
    """A difference of pooled percentages in points, with the ends of its bootstrap interval.

    `gained` are each person's correct joints in the second run less those in
    the first, `annotated` the joints that count, of at least one person one.
    """
    counts = annotated > 0
    pairs = np.stack([gained, annotated])[:, counts]
    # People who gain alike are alike: how often each kind is drawn is all that a resample is.
    kinds, people = np.unique(pairs, axis=1, return_counts=True)
    random = np.random.default_rng(_SEED)
    drawn = random.multinomial(people.sum(), people / people.sum(), RESAMPLES)
    points = 100 * (drawn @ kinds[0]) / (drawn @ kinds[1])
    tail = (100 - PERCENT) / 200
    low, high = np.quantile(points, [tail, 1 - tail]).tolist()
    return 100 * float(gained.sum() / annotated.sum()), low, high
