"""Coordinates that no photograph has: not finite, marks of missing joints, parts of the image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.formats.annotations import Annotations
from pipeline.pose.person import Person, Visibility
from pipeline.pose.shapes import Bool, Float

# A few joints may truly lie at the first pixel; that many, in number and share, are a mark, and so
# is one joint there in all people, if they are several.
_MANY_JOINTS, _MANY_SHARE, _SEVERAL = 10, 0.01, 3
# An x that equals y, below 0 or from here on, twice is a mark, and both of -1 even once.
_BEYOND = 9999
_MARK = -1
# Shares of an image lie from 0 to 1, or a little outside.
SHARES_BELOW = 2
# More pixels than a row of any picture has.
_FARTHEST = 1e7
# Times that a box or frame is at most as long as the extent of the joints, and at least a part of
# it a head; and frames that a head is long at most.
_MOST_TIMES, _MOST_HEADS = 150, 5
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


def check_plausible(
    annotations: Annotations, where: str, base: int, advice: Advice
) -> tuple[str, ...]:
    """Check that annotated joints can be pixels, of which `base` numbers the first.

    Returns lines on a few joints and people that look wrong all the same. Raises ValueError.
    """
    people = annotations.people
    annotated = np.array([person.visibility for person in people]) != Visibility.MISSING
    joints = np.array([person.joints for person in people], np.float64)
    _check_finite(annotations, joints, annotated, where)
    stored = np.where(annotated[..., None], joints + base, np.nan)
    _check_marks(stored, annotated, where, advice)
    if not annotations.states_unit:
        _check_shares(stored, annotations.joint_set.joints, where, advice)
    _check_frames(annotations, joints, annotated, where)
    return tuple(_doubts(annotations, stored, annotated))


def _doubts(
    annotations: Annotations,
    stored: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
) -> Iterator[str]:
    at_zero = annotated & (stored == 0).all(axis=2)
    if at_zero.any():
        yield (
            f"{at_zero.sum():,} of {annotated.sum():,} joints that are not missing lie at (0, 0) "
            f"({_first(annotations, at_zero.any(axis=1))}): check whether these are labelled"
        )
    if not annotations.states_unit and (small := _are_shares(stored)).any():
        yield (
            f"all joints of {small.sum():,} of {len(stored):,} people lie below {SHARES_BELOW} px "
            f"({_first(annotations, small)}): check whether these are shares of the image"
        )


def _first(annotations: Annotations, rows: Bool[np.ndarray, " person"]) -> str:
    """Return the first image of some people, and how many images there are."""
    images = {annotations.people[row].image: None for row in np.flatnonzero(rows).tolist()}
    return next(iter(images)) + (f" and {len(images) - 1:,} more" if len(images) > 1 else "")


def _are_shares(stored: Float[np.ndarray, "person joint 2"]) -> Bool[np.ndarray, " person"]:
    """Tell of people with several joints whether all of them lie within the first pixels."""
    is_known = np.isfinite(stored)
    is_small = np.abs(np.where(is_known, stored, 0)) < SHARES_BELOW
    return (is_known.all(axis=2).sum(axis=1) > 1) & is_small.all(axis=(1, 2))


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


def box_note(people: Sequence[Person], sizes: Mapping[str, tuple[int, int]]) -> str:
    """Return a line if boxes look like two corners instead of a corner and a size, else nothing.

    All second pairs then lie right of and below the first ones and in their images, whose `sizes`
    are given, and a third of the boxes would stick out of them.
    """
    found = [(person.box, sizes[person.image]) for person in people if person.box is not None]
    if len(found) < _MANY_ROWS:
        return ""
    boxes, ends = (np.array(values, np.float64) for values in zip(*found, strict=True))
    corners, others = boxes[:, :2], boxes[:, 2:]
    is_corner = ((others > corners) & (others <= ends + 1)).all()
    outside = (corners + others > ends + 1).any(axis=1)
    if not is_corner or 3 * outside.sum() < len(boxes):
        return ""
    return (
        f"{outside.sum():,} of {len(boxes):,} boxes would reach beyond their image: if they are "
        "two corners, make x, y, width and height of them"
    )


def _check_finite(
    annotations: Annotations,
    joints: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    where: str,
) -> None:
    wrong = annotated & ~(np.abs(joints) < _FARTHEST).all(axis=2)
    for row, joint in np.argwhere(wrong).tolist():
        person = annotations.people[row]
        x, y = joints[row, joint].tolist()
        raise ValueError(
            f"{where}: person {person.person} of {person.image}: "
            f"{annotations.joint_set.joints[joint]} is annotated at ({x:g}, {y:g}), expected "
            "pixels"
        )
    for person in annotations.people:
        if not np.isfinite((*person.center, person.scale)).all():
            raise ValueError(
                f"{where}: person {person.person} of {person.image}: the frame has centre "
                f"{person.center} and scale {person.scale}, expected finite pixels"
            )


def _check_marks(
    stored: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    where: str,
    advice: Advice,
) -> None:
    """Raise ValueError if joints lie at a point that stands for no joint, such as (-1, -1)."""
    points = stored[annotated]
    at_zero, known = (stored == 0).all(axis=2).sum(axis=0), annotated.sum(axis=0)
    is_joint_at_zero = bool(((at_zero == known) & (known >= _SEVERAL)).any())
    values, counts = np.unique(points[points[:, 0] == points[:, 1], 0], return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        is_many = count >= max(_MANY_JOINTS, _MANY_SHARE * len(points))
        is_outside = (value < 0 or value >= _BEYOND) and (count > 1 or value == _MARK)
        if is_outside or (value == 0 and (is_many or is_joint_at_zero)):
            raise ValueError(
                f"{where}: {count:,} of {len(points):,} joints that are not missing lie at "
                f"({value:.15g}, {value:.15g}); "
                f"{advice.missing.format(value=f'{value:.15g}')}"
            )


def _check_frames(
    annotations: Annotations,
    joints: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    where: str,
) -> None:
    """Raise ValueError if most boxes, frames or head sizes are in another unit than the joints."""
    people = annotations.people
    boxes = np.array([person.box or (np.nan,) * 4 for person in people], np.float64)
    centres = np.array([person.center for person in people], np.float64)
    sides = np.array([200 * person.scale for person in people], np.float64)
    heads = np.array([person.head_size or np.nan for person in people], np.float64)
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    unfit = {
        "box": _are_elsewhere(joints, annotated, middles, boxes[:, 2:]),
        "scale": _are_elsewhere(joints, annotated, centres, np.stack([sides, sides], axis=1)),
        "head_size": (_MOST_TIMES * heads < sides) | (heads > _MOST_HEADS * sides),
    }
    known = {"box": boxes[:, 0], "scale": sides, "head_size": heads}
    for field, rows in unfit.items():
        count, first = np.isfinite(known[field]).sum(), people[int(rows.argmax())]
        if 2 * rows.sum() > count:
            raise ValueError(
                f"{where}: {field} {getattr(first, field)} of {first.image} does not fit its "
                f"joints, nor does it in {rows.sum():,} of {count:,} people; expected the unit of "
                "the joints (a frame has sides of 200 * scale)"
            )


def _are_elsewhere(
    joints: Float[np.ndarray, "person joint 2"],
    annotated: Bool[np.ndarray, "person joint"],
    middles: Float[np.ndarray, "person 2"],
    sizes: Float[np.ndarray, "person 2"],
) -> Bool[np.ndarray, " person"]:
    """Tell where most joints are beside a box by more than its size, or a dot in it."""
    near = (np.abs(joints - middles[:, None]) < 1.5 * sizes[:, None]).all(axis=2) & annotated
    is_beside = np.isfinite(sizes[:, 0]) & (2 * near.sum(axis=1) < annotated.sum(axis=1))
    least = np.where(annotated[..., None], joints, np.inf).min(axis=1)
    most = np.where(annotated[..., None], joints, -np.inf).max(axis=1)
    extents = (most - least).max(axis=1)
    return is_beside | ((extents > 0) & (_MOST_TIMES * extents < sizes.max(axis=1)))


def _check_shares(
    stored: Float[np.ndarray, "person joint 2"], names: Sequence[str], where: str, advice: Advice
) -> None:
    """Raise ValueError if most people, or all of a joint's x or y, lie within the first pixels."""
    unit = advice.unit.format(unit="share")
    is_known = np.isfinite(stored)
    is_small = np.abs(np.where(is_known, stored, 0)) < SHARES_BELOW
    several, small = is_known.all(axis=2).sum(axis=1) > 1, _are_shares(stored)
    if 2 * small.sum() > several.sum():
        raise ValueError(
            f"{where}: all joints of {small.sum():,} of {len(stored):,} people lie below "
            f"{SHARES_BELOW} px, as shares of the image would; {unit}"
        )
    columns = (is_known.sum(axis=0) >= _MANY_ROWS) & is_small.all(axis=0)
    for joint, axis in np.argwhere(columns).tolist():
        raise ValueError(
            f"{where}: {'xy'[axis]} of {names[joint]} lies below {SHARES_BELOW} px in all "
            f"{is_known[:, joint, axis].sum():,} people who have it, as shares of the image would; "
            f"{unit}"
        )
