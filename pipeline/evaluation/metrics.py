"""Percentage of correct keypoints (PCK), as counts that are added and divided once.

By PCKh (Andriluka et al., CVPR 2014) a joint is correct when its distance to the truth is at most
a threshold times the head size. Other normalisers give other measures
(`pipeline.pose.joint_sets.Measure`). By OKS a joint's error is 1 minus its similarity, so that it
is counted at the same thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from pipeline.pose.joint_sets import JointSet, Measure
from pipeline.pose.shapes import Bool, Float, Int64

# Every hundredth up to one half: contains the usual thresholds, and enough for a curve.
THRESHOLDS = np.arange(51) / 100


@dataclass(frozen=True, kw_only=True)
class JointCounts:
    """Correct joints by threshold (`THRESHOLDS`) and annotated joints, to be added over batches."""

    correct: Int64[np.ndarray, "threshold joint"]
    annotated: Int64[np.ndarray, " joint"]

    @classmethod
    def zero(cls, joints: int) -> Self:
        shape = len(THRESHOLDS), joints
        return cls(correct=np.zeros(shape, np.int64), annotated=np.zeros(joints, np.int64))

    def __add__(self, other: "JointCounts") -> "JointCounts":
        return JointCounts(
            correct=self.correct + other.correct, annotated=self.annotated + other.annotated
        )


def normalised_errors(
    predicted: Float[np.ndarray, "person joint 2"],
    truth: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    size: Float[np.ndarray, " person"],
) -> Float[np.ndarray, "person joint"]:
    """Return distances to the truth in units of `size`; NaN where a joint does not count.

    Coordinates and sizes are pixels of the original image. A joint does not count if it is not
    annotated or its person's size is NaN (undefined). Raises ValueError if a size is not positive.
    """
    if (size <= 0).any():
        person = int(np.argmax(size <= 0))
        raise ValueError(f"person {person}: size must be above 0 pixels, got {size[person]}")
    distance = np.linalg.norm(predicted.astype(np.float64) - truth, axis=-1)
    errors = distance / size[:, None]
    # An annotated joint that a network failed to place (NaN) is wrong, not absent.
    errors = np.where(np.isnan(distance), np.inf, errors)
    counts = annotated & ~np.isnan(size)[:, None]
    return np.where(counts, errors, np.nan)


def dissimilarity(
    errors: Float[np.ndarray, "person joint"], sigmas: Sequence[float]
) -> Float[np.ndarray, "person joint"]:
    """Return 1 minus each joint's similarity (OKS); `errors` are in roots of the person's area."""
    return -np.expm1(-((errors / (2 * np.array(sigmas))) ** 2) / 2)


def joint_counts(errors: Float[np.ndarray, "person joint"]) -> JointCounts:
    """Count normalised errors; a joint exactly at a threshold is correct."""
    correct = np.stack([(errors <= threshold).sum(axis=0) for threshold in THRESHOLDS])
    annotated = (~np.isnan(errors)).sum(axis=0)
    return JointCounts(correct=correct.astype(np.int64), annotated=annotated.astype(np.int64))


def person_sizes(
    measure: Measure,
    joints: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    head_size: Float[np.ndarray, " person"],
    box_size: Float[np.ndarray, " person"],
    areas: Float[np.ndarray, " person"],
) -> Float[np.ndarray, " person"]:
    """Return the normaliser of each person's errors, in pixels; NaN where it is undefined."""
    stored = {"head": head_size, "box": box_size, "oks": np.sqrt(areas)}
    if measure.normaliser in stored:
        return stored[measure.normaliser]
    start, end = measure.segment
    length = np.linalg.norm(joints[:, start] - joints[:, end], axis=-1)
    defined = annotated[:, start] & annotated[:, end] & (length > 0)
    return np.where(defined, length, np.nan)


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """COCO's ten numbers, in percent: average precision (AP) and recall (AR); NaN: undefined.

    The digits are the similarity, `m` and `l` medium and large people.
    """

    ap: float
    ap_50: float
    ap_75: float
    ap_m: float
    ap_l: float
    ar: float
    ar_50: float
    ar_75: float
    ar_m: float
    ar_l: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers that are defined by name."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if not np.isnan(value)}

    @classmethod
    def of(
        cls,
        precision: Float[np.ndarray, "category area similarity"],
        recall: Float[np.ndarray, "category area similarity"],
    ) -> Self:
        """Average over categories and similarities, leaving out NaN."""
        numbers = {}
        for name, values in (("ap", precision), ("ar", recall)):
            parts = {
                "": values[:, 0],
                "_50": values[:, 0, 0],
                "_75": values[:, 0, 5],
                "_m": values[:, 1],
                "_l": values[:, 2],
            }
            for suffix, part in parts.items():
                known = part[~np.isnan(part)]
                numbers[name + suffix] = 100 * float(known.mean()) if known.size else np.nan
        return cls(**numbers)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Percentages of one measure by its thresholds; NaN where nothing was annotated.

    `pooled` is all correct joints over all annotated joints that enter the mean (as the official
    toolkit computes it), `unweighted` the mean of the joints' values. `auc` is the area under the
    pooled percentage up to the measure's limit (trapezoids), divided by that limit. `precision` is
    that of the same people by OKS, where it is known.
    """

    joint_set: JointSet
    measure: Measure
    joints: dict[float, dict[str, float]]
    groups: dict[float, dict[str, float]]
    pooled: dict[float, float]
    unweighted: dict[float, float]
    auc: float
    annotated: dict[str, int]
    precision: AveragePrecision | None = None

    @property
    def headline(self) -> float:
        """The primary metric: the pooled percentage at the first threshold, or for OKS the AP."""
        if self.measure.is_of_joints:
            return self.pooled[self.measure.thresholds[0]]
        return self.precision.ap if self.precision else np.nan

    @property
    def closing(self) -> list[tuple[str, float]]:
        """The last rows of a table with their names: the AUC, and for OKS the primary metric."""
        rows = [(self.measure.area_title, self.auc)]
        if not self.measure.is_of_joints:
            rows.append((self.measure.headline, self.headline))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; thresholds become text, NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {_text(key): plain(item) for key, item in value.items()}
            return None if isinstance(value, float) and np.isnan(value) else value

        names = ("joints", "groups", "pooled", "unweighted", "auc", "annotated")
        return {"measure": self.measure.key} | {name: plain(getattr(self, name)) for name in names}


def row_of(measure: Measure, threshold: float) -> int:
    """Return the row of `THRESHOLDS` at which joints count for a measure's threshold."""
    return round(100 * (1 - threshold if measure.is_similarity else threshold))


def scores(
    counts: JointCounts,
    joint_set: JointSet,
    measure: Measure,
    precision: AveragePrecision | None = None,
) -> Scores:
    """Divide counts into percentages; `precision` is that of the same people by OKS."""
    in_mean = list(joint_set.in_mean)
    with np.errstate(invalid="ignore"):
        percent = 100 * counts.correct / counts.annotated
        pooled = 100 * counts.correct[:, in_mean].sum(axis=1) / counts.annotated[in_mean].sum()
    rows = {threshold: row_of(measure, threshold) for threshold in measure.thresholds}
    limit = row_of(measure, measure.auc_limit)
    return Scores(
        joint_set=joint_set,
        measure=measure,
        joints={
            t: dict(zip(joint_set.joints, percent[row].tolist(), strict=True))
            for t, row in rows.items()
        },
        groups={
            t: {name: float(percent[row, list(group)].mean()) for name, group in joint_set.groups}
            for t, row in rows.items()
        },
        pooled={t: float(pooled[row]) for t, row in rows.items()},
        unweighted={t: float(percent[row, in_mean].mean()) for t, row in rows.items()},
        auc=float(np.trapezoid(pooled[: limit + 1]) / limit),
        annotated=dict(zip(joint_set.joints, counts.annotated.tolist(), strict=True)),
        precision=precision,
    )


def table(result: Scores) -> str:
    """Return the per-joint table as text, with the groups, if any, and the means below."""
    measure, groups = result.measure, result.joint_set.groups
    heads = list(map(measure.title_at, measure.thresholds))
    first = max(16, *(len(name) + 1 for name in (*result.annotated, *dict(groups))))
    column = max(15, *(len(head) + 1 for head in heads))

    def row(name: str, values: list[float]) -> str:
        cells = ("-" if np.isnan(value) else f"{value:.2f}" for value in values)
        return f"{name:<{first}}" + "".join(f"{cell:>{column}}" for cell in cells)

    head = f"{'joint':<{first}}" + "".join(f"{head:>{column}}" for head in heads)
    lines = [head + f"{'annotated':>11}"]
    for joint, annotated in result.annotated.items():
        values = [result.joints[t][joint] for t in measure.thresholds]
        lines.append(row(joint, values) + f"{annotated:>11,}")
    rule = "-" * len(lines[0])
    if groups:
        lines.append(rule)
    for group, _ in groups:
        lines.append(row(group, [result.groups[t][group] for t in measure.thresholds]))
    lines.append(rule)
    lines.append(row("pooled mean", list(result.pooled.values())))
    lines.append(row("unweighted mean", list(result.unweighted.values())))
    lines += [row(name, [value]) for name, value in result.closing]
    return "\n".join(lines)


def stack_table(stacks: Sequence[Scores]) -> str:
    """Return a table of one measure's pooled percentages as text, with one row per stack."""
    measure = stacks[0].measure
    heads = [*map(measure.title_at, measure.thresholds), *(name for name, _ in stacks[0].closing)]
    column = max(15, *(len(head) + 1 for head in heads))
    lines = ["stack  " + "".join(f"{head:>{column}}" for head in heads)]
    for number, result in enumerate(stacks, start=1):
        values = [*result.pooled.values(), *(value for _, value in result.closing)]
        cells = "".join(f"{value:>{column}.2f}" for value in values)
        lines.append(f"{f'{number}/{len(stacks)}':<7}{cells}")
    return "\n".join(lines)


def _text(key: object) -> str:
    return f"{key:g}" if isinstance(key, float) else str(key)
