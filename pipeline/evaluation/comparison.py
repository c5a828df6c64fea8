"""Comparison of runs with the first: settings, accuracy, and the significance of differences.

Intervals are by the percentile bootstrap (Efron, 1979), paired over people: each resample draws
the same people for both runs, and pools and divides their counts as the measure does. People of one
image, or of one video, are drawn together, since they are not independent. The percentiles are
expanded for small samples (Hesterberg, 2015, section 3.3).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int64

from pipeline.evaluation.metrics import (
    THRESHOLDS,
    AveragePrecision,
    Scores,
    row_of,
    scores,
)
from pipeline.evaluation.oks import (
    average_precision,
    matches_of,
    precision_of,
    resampled_precision,
    with_areas,
)
from pipeline.evaluation.per_person import PersonResults, image_of
from pipeline.io.installation import named
from pipeline.pose.joint_sets import JointSet, Measure
from pipeline.settings import Settings

RESAMPLES = 10_000
# Average precision takes a thousand times as long as a percentage.
PRECISION_RESAMPLES = 1_000
PERCENT = 95
# Fewer clusters give an interval that is too short.
FEW = 100
Unit = Literal["image", "video"]
_SEED = 0
# Settings that say where a run lies.
_PLACE = ("ray.name", "ray.storage", "ray.scratch")


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

    Without a threshold it is of the average precision. It is over the `people` of both runs; `low`
    and `high` are the ends of its interval, drawn from `clusters` images or videos.
    """

    threshold: float | None
    people: int
    unit: Unit
    clusters: int
    points: float
    low: float
    high: float

    @property
    def is_resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def drawn(self) -> str:
        """The units that were drawn, in words."""
        return f"{self.clusters:,} {self.unit}{'' if self.clusters == 1 else 's'}"

    def sentence(self, name: str, first: str, title: str) -> str:
        """Return the difference as a sentence; `title` is the measure's."""
        if self.is_resolved:
            word = "better" if self.points > 0 else "worse"
            finding = f"{name} is {word} than {first} by {abs(self.points):.2f} points"
        else:
            finding = f"{name} and {first} do not differ significantly: {self.points:+.2f} points"
        interval = f"{PERCENT}% interval {self.low:+.2f} to {self.high:+.2f} over {self.drawn}"
        if self.clusters == 1:
            interval = f"a single {self.unit} is no evidence"
        at = "" if self.threshold is None else f"@{self.threshold:g}"
        return f"{title}{at}: {finding}, {interval}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs by the measure of the first: scores of all, and the others' differences from it.

    `precisions` are the runs' average precision by OKS, and `precision_differences` the others'
    from the first's; None where people have no areas, or the joint set no sigmas.
    """

    runs: tuple[ComparedRun, ...]
    measure: Measure
    settings: dict[str, list[Any]]
    scores: tuple[Scores, ...]
    differences: tuple[tuple[Difference, ...], ...]
    precisions: tuple[AveragePrecision | None, ...]
    precision_differences: tuple[Difference | None, ...]


def compare(runs: Sequence[ComparedRun], unit: Unit = "image") -> Comparison:
    """Compare runs with the first, drawing people of one `unit` together.

    Raises ValueError naming two that are not comparable.
    """
    first, *others = runs
    joint_set = first.joint_set
    measure = joint_set.measure(first.settings.evaluation.measure)
    for other in others:
        unlike = joint_set.difference(other.joint_set)
        if unlike:
            raise ValueError(f"{first.name} and {other.name} have different joint sets: {unlike}")
    for one in runs:
        if measure.key not in one.results.errors:
            raise ValueError(
                f"{one.name}: its results per person lack the measure {measure.key}; "
                f"{named('jobs.evaluate')} --people FILE writes them anew"
            )
    precisions = [precision_of(one.results, joint_set) for one in runs]
    return Comparison(
        runs=tuple(runs),
        measure=measure,
        settings=differing([one.settings for one in runs]),
        scores=tuple(
            scores(one.results.counts(measure), joint_set, measure, found)
            for one, found in zip(runs, precisions, strict=True)
        ),
        differences=tuple(_differences(first, other, joint_set, measure, unit) for other in others),
        precisions=tuple(precisions),
        precision_differences=tuple(
            _precision_difference(first, other, joint_set, unit) for other in others
        ),
    )


def differing(settings: Sequence[Settings]) -> dict[str, list[Any]]:
    """Return the settings that differ, with their values in all runs by dotted key."""
    shown = [one.shown() for one in settings]
    values = {key: [one[key] for one in shown] for key in shown[0] if key not in _PLACE}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def _differences(
    first: ComparedRun, other: ComparedRun, joint_set: JointSet, measure: Measure, unit: Unit
) -> tuple[Difference, ...]:
    """Return the difference at each of the measure's thresholds, over the people of both runs."""
    people, members = _same_people(first, other), list(joint_set.in_mean)
    errors = [results.errors[measure.key][:, members] for results in people]
    annotated = (~np.isnan(errors[0])).sum(axis=1)
    if not annotated.any():
        raise ValueError(
            f"{first.name} and {other.name}: no joint of the people in both counts by {measure.key}"
        )
    clusters = clusters_of(people[0].keys, unit)[annotated > 0]
    found = []
    for threshold in measure.thresholds:
        # The thresholds of joint_counts, to the bit.
        correct = [(e <= THRESHOLDS[row_of(measure, threshold)]).sum(axis=1) for e in errors]
        gained = (correct[1] - correct[0])[annotated > 0]
        points, low, high = interval(gained, annotated[annotated > 0], clusters)
        found.append(
            Difference(
                threshold=threshold,
                people=len(annotated),
                unit=unit,
                clusters=len(np.unique(clusters)),
                points=points,
                low=low,
                high=high,
            )
        )
    return tuple(found)


def _precision_difference(
    first: ComparedRun, other: ComparedRun, joint_set: JointSet, unit: Unit
) -> Difference | None:
    """Return the difference of average precision over the people of both runs."""
    people = tuple(map(with_areas, _same_people(first, other)))
    left, right = (matches_of(results, joint_set) for results in people)
    if left is None or right is None:
        return None
    # Groups are the images in the order of their names, of which a cluster has one or more.
    keys = people[0].keys
    _, places = np.unique(clusters_of(keys, "image"), return_index=True)
    _, clusters = np.unique(clusters_of(keys, unit)[places], return_inverse=True)
    count = int(clusters.max()) + 1
    points = average_precision(right).ap - average_precision(left).ap
    low, high = -100.0, 100.0
    if count > 1:
        random = np.random.default_rng(_SEED)
        drawn = random.multinomial(count, np.full(count, 1 / count), PRECISION_RESAMPLES)
        weights = drawn[:, clusters]
        gained = resampled_precision(right, weights) - resampled_precision(left, weights)
        low, high = _ends(gained, count)
    return Difference(
        threshold=None,
        people=len(people[0]),
        unit=unit,
        clusters=count,
        points=points,
        low=low,
        high=high,
    )


def clusters_of(keys: Sequence[str], unit: Unit) -> Int64[np.ndarray, " person"]:
    """Number the image, or the video, of each person's key.

    Images are frames of one video if their names differ in the number at the end alone.
    """
    names = [image_of(key) for key in keys]
    if unit == "video":
        names = [name.rstrip("0123456789") for name in names]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def videos_in(keys: Sequence[str]) -> int:
    """Return how many videos the names of images look to be of; 0 if they look like no frames."""
    images = len(np.unique(clusters_of(keys, "image")))
    videos = len(np.unique(clusters_of(keys, "video")))
    return videos if 1 < videos <= images / 2 else 0


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
    gained: Int64[np.ndarray, " person"],
    annotated: Int64[np.ndarray, " person"],
    clusters: Int64[np.ndarray, " person"],
) -> tuple[float, float, float]:
    """Return a difference of pooled percentages in points, and the ends of its interval.

    `gained` is each person's number of correct joints in the second run minus the first,
    `annotated` the number of joints that count, above 0. People of equal `clusters` are drawn
    together. A single cluster says nothing: its interval is all that a percentage can differ by.
    """
    points = 100 * float(gained.sum() / annotated.sum())
    _, rows = np.unique(clusters, return_inverse=True)
    count = int(rows.max()) + 1
    if count == 1:
        return points, -100.0, 100.0
    sums = np.stack([np.bincount(rows, counts) for counts in (gained, annotated)])
    # Clusters with equal sums are interchangeable: a resample is how often each pair is drawn.
    kinds, alike = np.unique(sums, axis=1, return_counts=True)
    random = np.random.default_rng(_SEED)
    drawn = random.multinomial(count, alike / count, RESAMPLES)
    resampled = 100 * (drawn @ kinds[0]) / (drawn @ kinds[1])
    return points, *_ends(resampled, count)


def _ends(resampled: Float[np.ndarray, " resample"], count: int) -> tuple[float, float]:
    """Return the ends of the interval of a statistic that was resampled from `count` clusters."""
    # It takes most of a second to load, and every training looks checkpoints up beside this.
    from scipy import stats

    # A resample spreads less than the sample by (n - 1) / n, and its tails are those of a normal.
    quantile = stats.t.ppf((100 - PERCENT) / 200, count - 1) * np.sqrt(count / (count - 1))
    tail = float(stats.norm.cdf(quantile))
    low, high = np.quantile(resampled, [tail, 1 - tail]).tolist()
    return low, high
