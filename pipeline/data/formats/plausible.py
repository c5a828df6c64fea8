"""Coordinates that no photograph has: not finite, marks of missing joints, parts of the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.formats.annotations import Annotations
from pipeline.pose.person import Person, Visibility
from pipeline.pose.shapes import Bool, Float

# A few joints may truly lie at the first pixel; that many, in number and share, are a mark.
_MANY_JOINTS, _MANY_SHARE = 10, 0.01
# An x that equals y, below 0 or from here on, twice is a mark.
_BEYOND = 9999
# Shares of an image lie from 0 to 1, or a little outside.
_SHARES_BELOW = 2
# A column of fewer values may lie there by chance.
_MANY_ROWS = 10
# Percentages of an image, or a little outside; images that are so much larger, at least; and the
# share of joints that lie there. They reach beyond the middle.
_PERCENT, _LARGER_PX, _MOST_JOINTS, _MIDDLE = (-1, 101), 200, 0.99, 50


@dataclass(frozen=True, kw_only=True)
class Advice:
    """How a source marks joints that are not annotated, and counts pixels: the ends of errors."""

    missing: str = "expected such joints to be marked as missing"
    unit: str = "expected pixels: multiply x by the image's width and y by its height"


def check_plausible(annotations: Annotations, where: str, base: int, advice: Advice) -> None:
    """Raise ValueError if annotated joints can't be pixels. `base` numbers the first pixel."""
    people = annotations.people
    annotated = np.array([person.visibility for person in people]) != Visibility.MISSING
    joints = np.array([person.joints for person in people], np.float64)
    _check_finite(annotations, joints, annotated, where)
    stored = np.where(annotated[..., None], joints + base, np.nan)
    _check_marks(stored[annotated], where, advice)
    if not annotations.states_unit:
        _check_shares(stored, annotations.joint_set.joints, where, advice)


def check_percentages(
    people: Sequence[Person], sizes: Mapping[str, tuple[int, int]], where: str, advice: Advice
) -> None:
    """Raise ValueError if joints are as percentages of their images, whose sizes are given.

    So they are where all images are larger, and no joint in any of them is beyond 100 px.
    """
    images = {person.image for person in people}
    if len(images) < _MANY_ROWS or min(min(sizes[image]) for image in images) < _LARGER_PX:
        return
    annotated = np.array([person.visibility for person in people]) != Visibility.MISSING
    joints = np.array([person.joints for person in people], np.float64)[annotated]
    within = ((joints >= _PERCENT[0]) & (joints <= _PERCENT[1])).all(axis=1)
    if within.mean() >= _MOST_JOINTS and (joints.max(axis=0) > _MIDDLE).all():
        unit = advice.unit.format(unit="percent")
        raise ValueError(
            f"{where}: {within.sum():,} of {len(joints):,} joints lie within the first 100 px of "
            f"{len(images):,} images that are all larger, as percentages of the image would; {unit}"
        )


def _check_finite(
    annotations: Annotations,
    joints: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    where: str,
) -> None:
    wrong = annotated & ~np.isfinite(joints).all(axis=2)
    for row, joint in np.argwhere(wrong).tolist():
        person = annotations.people[row]
        x, y = joints[row, joint].tolist()
        raise ValueError(
            f"{where}: person {person.person} of {person.image}: "
            f"{annotations.joint_set.joints[joint]} is annotated at ({x:g}, {y:g}), expected "
            "finite pixels"
        )
    for person in annotations.people:
        if not np.isfinite((*person.center, person.scale)).all():
            raise ValueError(
                f"{where}: person {person.person} of {person.image}: the frame has centre "
                f"{person.center} and scale {person.scale}, expected finite pixels"
            )


def _check_marks(points: Float[np.ndarray, "annotated 2"], where: str, advice: Advice) -> None:
    """Raise ValueError if joints lie at a point that stands for no joint, such as (-1, -1)."""
    values, counts = np.unique(points[points[:, 0] == points[:, 1], 0], return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        is_many = count >= max(_MANY_JOINTS, _MANY_SHARE * len(points))
        is_outside = (value < 0 or value >= _BEYOND) and count > 1
        if is_outside or (value == 0 and is_many):
            raise ValueError(
                f"{where}: {count:,} of {len(points):,} joints that are not missing lie at "
                f"({value:g}, {value:g}); {advice.missing.format(value=f'{value:g}')}"
            )


def _check_shares(
    stored: Float[np.ndarray, "person joint 2"], names: Sequence[str], where: str, advice: Advice
) -> None:
    """Raise ValueError if most people, or all of a joint's x or y, lie within the first pixels."""
    unit = advice.unit.format(unit="share")
    is_known = np.isfinite(stored)
    is_small = np.abs(np.where(is_known, stored, 0)) < _SHARES_BELOW
    several = is_known.all(axis=2).sum(axis=1) > 1
    small = several & is_small.all(axis=(1, 2))
    if 2 * small.sum() > several.sum():
        raise ValueError(
            f"{where}: of {small.sum():,} of {len(stored):,} people all joints lie below "
            f"{_SHARES_BELOW} px, as shares of the image would; {unit}"
        )
    columns = (is_known.sum(axis=0) >= _MANY_ROWS) & is_small.all(axis=0)
    for joint, axis in np.argwhere(columns).tolist():
        raise ValueError(
            f"{where}: {'xy'[axis]} of {names[joint]} lies below {_SHARES_BELOW} px in all "
            f"{is_known[:, joint, axis].sum():,} people who have it, as shares of the image would; "
            f"{unit}"
        )
