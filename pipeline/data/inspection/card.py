"""A dataset's card: counts, spreads and findings."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.data.inspection.anomalies import Flags
from pipeline.data.inspection.columns import Columns
from pipeline.data.inspection.duplicates import (
    Coinciding,
    coinciding_people,
    identical_crops,
    leaked_images,
)
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Split, Visibility

PERCENTILES = (1, 5, 50, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """A person whose record looks wrong, and why."""

    key: str
    split: Split
    reason: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A dataset's card. `spreads` holds percentiles, empty where no one has the value.

    `splits` counts people and images, `joints` people by the joint's state, of whom `outside` are
    annotated beyond the image. `leaks` names images that are in both splits. All other counts leave
    the `damaged_samples` out.
    """

    source: str
    joint_set: str
    shards: int
    people: int
    images: int
    head_sizes: int
    splits: dict[str, dict[str, int]]
    joints: dict[str, dict[str, int]]
    spreads: dict[str, dict[str, float]]
    damaged_samples: tuple[str, ...]
    leaks: tuple[str, ...]
    identical_crops: tuple[tuple[str, ...], ...]
    coinciding_people: tuple[Coinciding, ...]
    anomalies: dict[str, tuple[Anomaly, ...]]


def card_of(
    columns: Columns, found: dict[str, Flags], *, joint_set: JointSet, source: str, shards: int
) -> Card:
    """Put the card together; `found` is `anomalies(columns, joint_set)`."""
    return Card(
        source=source,
        joint_set=joint_set.name,
        shards=shards,
        people=len(columns.keys),
        images=len(set(columns.images)),
        head_sizes=int(np.isfinite(columns.head_sizes).sum()),
        splits=_split_counts(columns),
        joints=_joint_states(columns, joint_set),
        spreads=_spreads(columns),
        damaged_samples=columns.damaged,
        leaks=leaked_images(columns),
        identical_crops=identical_crops(columns),
        coinciding_people=coinciding_people(columns),
        anomalies={
            kind: tuple(
                Anomaly(key=columns.keys[row], split=columns.splits[row], reason=reason)
                for row, reason in flags.items()
            )
            for kind, flags in found.items()
        },
    )


def _split_counts(columns: Columns) -> dict[str, dict[str, int]]:
    people = Counter(columns.splits)
    images = Counter(split for split, _ in set(zip(columns.splits, columns.images, strict=True)))
    return {split: {"people": people[split], "images": images[split]} for split in sorted(people)}


def _joint_states(columns: Columns, joint_set: JointSet) -> dict[str, dict[str, int]]:
    counts = {s.name.lower(): (columns.states == s).sum(axis=0).tolist() for s in Visibility}
    counts["outside"] = columns.outside.sum(axis=0).tolist()
    return {
        name: {state: of_joints[joint] for state, of_joints in counts.items()}
        for joint, name in enumerate(joint_set.joints)
    }


def _spreads(columns: Columns) -> dict[str, dict[str, float]]:
    return {
        "stored pixels per original pixel": _percentiles(columns.densities),
        "frame side, original pixels": _percentiles(columns.frames_px),
        "person height / frame side": _percentiles(_height_shares(columns)),
        "head size / frame side": _percentiles(_shares(columns.head_sizes, columns)),
    }


def _percentiles(values: Float[np.ndarray, " person"]) -> dict[str, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    found = np.percentile(known, PERCENTILES).tolist()
    return {str(share): value for share, value in zip(PERCENTILES, found, strict=True)}


def _shares(
    lengths: Float[np.ndarray, " person"], columns: Columns
) -> Float[np.ndarray, " person"]:
    """Return lengths in frame sides, NaN where a frame has none."""
    return lengths / np.where(columns.frames_px > 0, columns.frames_px, np.nan)


def _height_shares(columns: Columns) -> Float[np.ndarray, " person"]:
    """Return the heights from the lowest annotated joint to the highest, in frame sides."""
    y, annotated = columns.joints[:, :, 1], columns.annotated
    top = np.where(annotated, y, np.inf).min(axis=1)
    bottom = np.where(annotated, y, -np.inf).max(axis=1)
    has_two = annotated.sum(axis=1) >= 2
    heights = np.full(len(y), np.nan)
    heights[has_two] = bottom[has_two] - top[has_two]
    return _shares(heights, columns)
