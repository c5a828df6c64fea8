"""A dataset's card: counts, spreads and findings."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

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
class SplitCounts:
    """What one split holds."""

    people: int
    images: int


@dataclass(frozen=True, kw_only=True)
class JointStates:
    """People by the state of one joint. `outside` counts those annotated beyond the image."""

    missing: int
    occluded: int
    visible: int
    outside: int


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """A person whose record looks wrong, and why."""

    key: str
    split: Split
    reason: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A dataset's card. `spreads` holds percentiles, none where nobody has the value.

    `leaks` names images that are in both splits. What `damaged_samples` lists is
    part of no other count.
    """

    source: str
    joint_set: str
    shards: int
    people: int
    images: int
    head_sizes: int
    splits: dict[str, SplitCounts]
    joints: dict[str, JointStates]
    spreads: dict[str, dict[str, float]]
    damaged_samples: tuple[str, ...]
    leaks: tuple[str, ...]
    identical_crops: tuple[tuple[str, ...], ...]
    coinciding_people: tuple[Coinciding, ...]
    anomalies: dict[str, tuple[Anomaly, ...]]

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON holds it."""
        return asdict(self)


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


def _split_counts(columns: Columns) -> dict[str, SplitCounts]:
    images = defaultdict(list)
    for split, image in zip(columns.splits, columns.images, strict=True):
        images[split].append(image)
    return {
        split: SplitCounts(people=len(of_split), images=len(set(of_split)))
        for split, of_split in sorted(images.items())
    }


def _joint_states(columns: Columns, joint_set: JointSet) -> dict[str, JointStates]:
    counts = {state: (columns.states == state).sum(axis=0) for state in Visibility}
    outside = columns.outside.sum(axis=0)
    return {
        name: JointStates(
            missing=int(counts[Visibility.MISSING][joint]),
            occluded=int(counts[Visibility.OCCLUDED][joint]),
            visible=int(counts[Visibility.VISIBLE][joint]),
            outside=int(outside[joint]),
        )
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
    """Lengths in frame sides; NaN where the frame has none."""
    frames = columns.frames_px
    return lengths / np.where(frames > 0, frames, np.nan)


def _height_shares(columns: Columns) -> Float[np.ndarray, " person"]:
    """From the highest annotated joint to the lowest, in frame sides."""
    y, annotated = columns.joints[:, :, 1], columns.annotated
    top = np.where(annotated, y, np.inf).min(axis=1)
    bottom = np.where(annotated, y, -np.inf).max(axis=1)
    has_two = annotated.sum(axis=1) >= 2
    heights = np.full(len(y), np.nan)
    heights[has_two] = bottom[has_two] - top[has_two]
    return _shares(heights, columns)
