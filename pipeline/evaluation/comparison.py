"""Comparison of runs with the first: settings, accuracy, and the significance of differences.

Intervals are by the percentile bootstrap (Efron, 1979), paired over people: each resample draws
the same people for both runs, and pools and divides their counts as the measure does.
"""

from collections import Counter
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
# Differs in all runs.
_NAME = "ray.name"


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run to compare, with the validation results of one checkpoint."""

    name: str
    settings: Settings
    joint_set: JointSet
    epoch: int
    results: PersonResults


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A run's pooled percentage at a threshold minus the first run's, in points.

    It is over the `people` of both runs; `low` and `high` are the ends of its interval.
    """

    threshold: float
    people: int
    points: float
    low: float
    high: float

    @property
    def is_resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def sentence(self, name: str, first: str, title: str) -> str:
        """Return the difference as a sentence; `title` is the measure's."""
        if self.is_resolved:
            word = "better" if self.points > 0 else "worse"
            finding = f"{name} is {word} than {first} by {abs(self.points):.2f} points"
        else:
            finding = f"{name} and {first} do not differ significantly: {self.points:+.2f} points"
        interval = f"{PERCENT}% interval {self.low:+.2f} to {self.high:+.2f}"
        return f"{title}@{self.threshold:g}: {finding}, {interval}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs by the measure of the first: scores of all, and the others' differences from it."""

    runs: tuple[ComparedRun, ...]
    measure: Measure
    settings: dict[str, list[Any]]
    scores: tuple[Scores, ...]
    differences: tuple[tuple[Difference, ...], ...]


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Compare runs with the first. Raises ValueError naming two that are not comparable."""
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
        scores=tuple(scores(one.results.counts(measure), joint_set, measure) for one in runs),
        differences=tuple(_differences(first, other, joint_set, measure) for other in others),
    )


def differing(settings: Sequence[Settings]) -> dict[str, list[Any]]:
    """Return the settings that differ, with their values in all runs by dotted key."""
    shown = [one.shown() for one in settings]
    values = {key: [one[key] for one in shown] for key in shown[0] if key != _NAME}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def _differences(
    first: ComparedRun, other: ComparedRun, joint_set: JointSet, measure: Measure
) -> tuple[Difference, ...]:
    """Return the difference at each of the measure's thresholds, over the people of both runs."""
    people, members = _same_people(first, other), list(joint_set.in_mean)
    errors = [results.errors[measure.key][:, members] for results in people]
    annotated = (~np.isnan(errors[0])).sum(axis=1)
    if not annotated.any():
        raise ValueError(
            f"{first.name} and {other.name}: no joint of the people in both counts by {measure.key}"
        )
    found = []
    for threshold in measure.thresholds:
        # The thresholds of joint_counts, to the bit.
        correct = [(e <= THRESHOLDS[round(100 * threshold)]).sum(axis=1) for e in errors]
        points, low, high = interval(correct[1] - correct[0], annotated)
        found.append(
            Difference(
                threshold=threshold, people=len(annotated), points=points, low=low, high=high
            )
        )
    return tuple(found)


def _same_people(first: ComparedRun, other: ComparedRun) -> tuple[PersonResults, PersonResults]:
    """Return both runs' results on shared people. Raises ValueError if they do not match."""
    names = f"{first.name} and {other.name}"
    left, right = shared(first.results, other.results)
    if not len(left):
        raise ValueError(
            f"{names} share none of their {len(first.results):,} and {len(other.results):,} "
            "validation people; expected runs on the same data"
        )
    unlike = int((left.truths != right.truths).sum())
    if unlike:
        raise ValueError(
            f"{names} share the keys of {len(left):,} validation people, of whom {unlike:,} are "
            "annotated differently; expected runs on the same data"
        )
    return left, right


def shared(first: PersonResults, second: PersonResults) -> tuple[PersonResults, PersonResults]:
    """Return the rows of people in both, in one order; equal keys are paired in shard order."""
    left, right = _rows(first), _rows(second)
    names = [name for name in left if name in right]
    return (
        first.rows(np.array([left[name] for name in names], np.int64)),
        second.rows(np.array([right[name] for name in names], np.int64)),
    )


def _rows(results: PersonResults) -> dict[tuple[str, int], int]:
    """Map each person's key, numbered among equal ones, to the row."""
    seen: Counter[str] = Counter()
    rows = {}
    for row in np.argsort(results.positions, kind="stable").tolist():
        key = results.keys[row]
        rows[key, seen[key]] = row
        seen[key] += 1
    return rows


def interval(
    gained: Int64[np.ndarray, " person"], annotated: Int64[np.ndarray, " person"]
) -> tuple[float, float, float]:
    """Return a difference of pooled percentages in points, and the ends of its interval.

    `gained` is each person's number of correct joints in the second run minus the first,
    `annotated` the number of joints that count, which must not be 0 for all.
    """
    counts = annotated > 0
    pairs = np.stack([gained, annotated])[:, counts]
    # People with equal pairs are interchangeable: a resample is how often each pair is drawn.
    kinds, people = np.unique(pairs, axis=1, return_counts=True)
    random = np.random.default_rng(_SEED)
    drawn = random.multinomial(people.sum(), people / people.sum(), RESAMPLES)
    points = 100 * (drawn @ kinds[0]) / (drawn @ kinds[1])
    tail = (100 - PERCENT) / 200
    low, high = np.quantile(points, [tail, 1 - tail]).tolist()
    return 100 * float(gained.sum() / annotated.sum()), low, high
