"""Duplicates: images in both splits, identical crops, people on top of one another."""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.data.inspection.columns import Columns

# Fewer may lie close by chance.
_SHARED_JOINTS = 3
_COINCIDING_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Coinciding:
    """Two people of one image; `distance_share` is their joints' mean distance in frame sides."""

    first: str
    second: str
    distance_share: float


def leaked_images(columns: Columns) -> tuple[str, ...]:
    """Name the images that have people in more than one split."""
    splits = defaultdict(set)
    for split, image in zip(columns.splits, columns.images, strict=True):
        splits[image].add(split)
    return tuple(sorted(image for image, found in splits.items() if len(found) > 1))


def identical_crops(columns: Columns) -> tuple[tuple[str, ...], ...]:
    """Group the people whose stored JPEGs have the same bytes."""
    return tuple(columns.names(rows) for rows in _groups(columns.digests))


def coinciding_people(columns: Columns) -> tuple[Coinciding, ...]:
    """Pair people of one image whose shared joints lie close together.

    Close means a mean distance below 5% of the smaller frame's side. Pairs that share fewer than
    three annotated joints are not compared.
    """
    pairs = [pair for rows in _groups(columns.images) for pair in itertools.combinations(rows, 2)]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    shared = columns.annotated[first] & columns.annotated[second]
    apart = np.linalg.norm(columns.joints[first] - columns.joints[second], axis=2)
    mean_px = np.where(shared, apart, 0).sum(axis=1) / np.maximum(shared.sum(axis=1), 1)
    frame = np.minimum(columns.frames_px[first], columns.frames_px[second])
    is_close = (shared.sum(axis=1) >= _SHARED_JOINTS) & (mean_px < _COINCIDING_SHARE * frame)
    return tuple(
        Coinciding(
            first=columns.names([pairs[row][0]])[0],
            second=columns.names([pairs[row][1]])[0],
            distance_share=float(mean_px[row] / frame[row]),
        )
        for row in np.flatnonzero(is_close).tolist()
    )


def _groups(values: Iterable[str]) -> list[list[int]]:
    """Group the rows of each value that occurs more than once."""
    rows = defaultdict(list)
    for row, value in enumerate(values):
        rows[value].append(row)
    return [found for found in rows.values() if len(found) > 1]
