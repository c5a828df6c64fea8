"""Reader of MPII Human Pose (Andriluka et al., CVPR 2014) as published: the struct RELEASE."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import (
    Annotations,
    elements,
    entry,
    numbers,
    person_of,
    positive,
    read_mat,
)
from pipeline.data.formats.mpii import HEAD_BIAS, adjusted
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person, Visibility

_NUM_JOINTS = len(MPII.joints)
# `is_visible` is a number or text; a joint without it, as head and neck, is visible.
_STATES = {"": Visibility.VISIBLE, "1": Visibility.VISIBLE, "0": Visibility.OCCLUDED}


def read_mpii_mat(path: Path) -> Annotations:
    """Read mpii_human_pose_v1_u12_1.mat: 1-based pixels, centre and scale unadjusted.

    A person is an annorect with annopoints, scale and objpos, numbered by its place among its
    image's annorects, from 0. Others are skipped, and so are the people of test images, who have no
    joints. The head size is from the head box, None without. People have no split: the common one
    of 22,246 and 2,958 people is not in this file but in mpii-json's, and both parts are training
    images here. Raises ValueError naming file, image and field.
    """
    release = entry(read_mat(path, as_structs=True), "RELEASE", str(path))
    images = elements(_field(release, "annolist", f"{path}: RELEASE"))
    # Tools that write this format leave it away.
    trains = _optional(release, "img_train")
    is_training = [True] * len(images) if trains is None else elements(trains)
    if len(images) != len(is_training):
        raise ValueError(
            f"{path}: img_train has {len(is_training)} values, expected {len(images)}, "
            "as annolist has images"
        )
    people: list[Person] = []
    skipped: Counter[str] = Counter()
    for number, (image, is_one) in enumerate(zip(images, is_training, strict=True), start=1):
        for result in _read_image(image, bool(is_one), f"{path}: annolist({number})"):
            if isinstance(result, Person):
                people.append(result)
            else:
                skipped[result] += 1
    return Annotations(joint_set=MPII, people=people, skipped=skipped)


def _read_image(image: Any, is_training: bool, where: str) -> Iterator[Person | str]:
    """Yield a person, or the reason to leave one out, for each annorect."""
    name = str(_field(_field(image, "image", where), "name", f"{where}.image"))
    for number, rect in enumerate(elements(_optional(image, "annorect", default=()))):
        reason = _reason_to_skip(rect) if is_training else "person of a test image"
        yield reason or _person(name, number, rect, f"{where}.annorect({number + 1})")


def _reason_to_skip(rect: Any) -> str | None:
    for field in ("annopoints", "scale", "objpos"):
        if _optional(rect, field) is None:
            return f"no {field}"
    if not elements(_optional(rect.annopoints, "point", default=())):
        return "no annotated joint"
    return None


def _person(image: str, number: int, rect: Any, where: str) -> Person:
    x, y = (_number(rect.objpos, axis, f"{where}.objpos") for axis in "xy")
    center, scale = adjusted((x, y), positive(rect.scale, f"{where}.scale"))
    joints, states = np.full((_NUM_JOINTS, 2), -1.0), np.zeros(_NUM_JOINTS, np.int64)
    for count, point in enumerate(elements(rect.annopoints.point), start=1):
        at = f"{where}.annopoints.point({count})"
        joint = int(_number(point, "id", at))
        if not 0 <= joint < _NUM_JOINTS:
            raise ValueError(f"{at}.id must be from 0 to {_NUM_JOINTS - 1}, got {joint}")
        joints[joint] = _number(point, "x", at) - 1, _number(point, "y", at) - 1
        flag = _optional(point, "is_visible", default="")
        if str(flag) not in _STATES:
            raise ValueError(f"{at}.is_visible must be 0 or 1, got {flag!r}")
        states[joint] = _STATES[str(flag)]
    return person_of(
        joints,
        states,
        image=image,
        person=number,
        center=center,
        scale=scale,
        head_size=_head_size(rect, where),
    )


def _head_size(rect: Any, where: str) -> float | None:
    corners = ("x1", "y1", "x2", "y2")
    if any(_optional(rect, corner) is None for corner in corners):
        return None
    x1, y1, x2, y2 = (_number(rect, corner, where) for corner in corners)
    return HEAD_BIAS * float(np.hypot(x2 - x1, y2 - y1)) or None


def _optional(struct: Any, name: str, default: Any = None) -> Any:
    """Return a struct's field, the default where it is absent or empty."""
    value = getattr(struct, name, default)
    is_empty = not value.size if isinstance(value, np.ndarray) else value == ""
    return default if is_empty else value


def _field(struct: Any, name: str, where: str) -> Any:
    value = _optional(struct, name)
    if value is None:
        raise ValueError(f"{where}: field {name!r} is absent or empty")
    return value


def _number(struct: Any, name: str, where: str) -> float:
    return float(numbers(_field(struct, name, where), (), f"{where}.{name}"))
