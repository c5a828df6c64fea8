"""Readers of the HDF5 files that Newell et al. train from (pose-hg-train's data/*/annot/*.h5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from pipeline.data.formats.annotations import (
    Annotations,
    entry,
    image_counter,
    numbers_in,
    person_of,
)
from pipeline.io.hdf5 import read_h5
from pipeline.io.text import briefly
from pipeline.pose.joint_sets import FLIC, MPII, JointSet
from pipeline.pose.person import Visibility

# Head-top to neck, in pixels a unit of scale: MPII's own scale makes the median 33.33 over the
# people of mpii_annotations.json. Adjusted, as in valid.h5, it is 26.67, adjusted twice 21.33.
# The limits are halfway; 98 in 100 people of valid.h5 lie from 26.1 to 27.2.
_HEAD_A_SCALE = (24, 30)
# The centre's height below the middle of the joints' box, a unit of scale: medians of
# 9.8 in valid.h5 and -2.9 over the same people unadjusted; the limit is halfway. People differ
# by 8 to either side (quartiles), so that the median of a few is no evidence.
_CENTER_A_SCALE = 3.4
_CENTER_PEOPLE = 100
_UPPER_NECK, _HEAD_TOP = MPII.joints.index("upper_neck"), MPII.joints.index("head_top")


@dataclass(frozen=True, kw_only=True)
class _Arrays:
    """A file's fields as they are: 1-based pixels. `states` are values of Visibility."""

    images: list[str]
    joints: Float[np.ndarray, "person joint 2"]
    states: Int64[np.ndarray, "person joint"]
    center: Float[np.ndarray, "person 2"]
    scale: Float[np.ndarray, " person"]

    @property
    def shown(self) -> Bool[np.ndarray, "person joint"]:
        return self.states != Visibility.MISSING


def read_mpii_h5(path: Path) -> Annotations:
    """Read MPII's annot/{train,valid}.h5: 1-based pixels, centre and scale adjusted already.

    Joints are truncated to whole pixels. (0, 0) means missing, `visible` 0 beside other coordinates
    occluded. `normalize` is the head size. A file is one split, so people have none. People without
    a joint, such as those of test.h5, are skipped. Raises ValueError naming file, field and shape,
    and where centre and scale are not adjusted, as in annot.h5.
    """
    contents = read_h5(path)
    arrays = _arrays(contents, MPII, path)
    _check_scale(arrays, path)
    _check_center(arrays, path)
    count = len(arrays.images)
    sizes = numbers_in(contents, "normalize", (count,), str(path)).tolist()
    indices = numbers_in(contents, "person", (count,), str(path)).astype(np.int64).tolist()
    # -1 is the authors' "no head box".
    return _annotations(arrays, MPII, indices, [size if size > 0 else None for size in sizes])


def read_flic(path: Path) -> Annotations:
    """Read FLIC's annot/{train,valid}.h5: 1-based pixels, centre and scale final.

    (0, 0) means missing, `visible` 0 beside other coordinates occluded. `normalize`, the size of
    the torso, is not kept: the measure takes it from the joints. The files have 3,987 and 1,016
    people, numbered within their image in the file's order; they have no split, since a file is
    one. Raises ValueError naming file, field and shape.
    """
    arrays = _arrays(read_h5(path), FLIC, path)
    indices = list(map(image_counter(), arrays.images))
    return _annotations(arrays, FLIC, indices, [None] * len(indices))


def _arrays(contents: dict[str, Any], joint_set: JointSet, path: Path) -> _Arrays:
    def field(name: str, *shape: int) -> np.ndarray:
        return numbers_in(contents, name, (count, *shape), str(path))

    num_joints = len(joint_set.joints)
    count = len(np.atleast_1d(entry(contents, "part", str(path))))
    joints, visible = field("part", num_joints, 2), field("visible", num_joints)
    # -1 stands where a person has no joints at all.
    if not np.isin(visible, (-1, 0, 1)).all():
        raise ValueError(f"{path}: visible must be 0 or 1, got {np.unique(visible)[:5]}")
    scale = field("scale")
    if (scale <= 0).any():
        number = int(np.argmax(scale <= 0))
        raise ValueError(f"{path}: scale[{number}] must be above 0, got {scale[number]:g}")
    is_missing = (joints == 0).all(axis=-1) | (visible < 0)
    return _Arrays(
        images=_names(entry(contents, "imgname", str(path)), count, f"{path}: imgname"),
        joints=joints,
        states=np.where(is_missing, 0, visible + 1).astype(np.int64),
        center=field("center", 2),
        scale=scale,
    )


def _names(value: np.ndarray, count: int, where: str) -> list[str]:
    """Decode names of fixed length, or rows of character codes padded with zeros."""
    if len(value) != count or value.ndim > 2:
        raise ValueError(f"{where} has shape {value.shape}, expected ({count},) or ({count}, N)")
    if value.ndim == 2:
        value = np.array([bytes(row) for row in value.astype(np.uint8)], dtype=object)
    try:
        names = [
            (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0 ")
            for name in value.tolist()
        ]
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not readable as text: {briefly(error)}") from error
    if not all(names):
        raise ValueError(f"{where}[{names.index('')}] is empty")
    return names


def _check_scale(arrays: _Arrays, path: Path) -> None:
    """Raise ValueError unless scales, measured against heads, are adjusted once."""
    both = arrays.shown[:, [_HEAD_TOP, _UPPER_NECK]].all(axis=1)
    if not both.any():
        return
    heads = arrays.joints[both, _HEAD_TOP] - arrays.joints[both, _UPPER_NECK]
    median = float(np.median(np.linalg.norm(heads, axis=1) / arrays.scale[both]))
    least, most = _HEAD_A_SCALE
    if not least <= median <= most:
        state = "not adjusted" if median > most else "adjusted more than once"
        raise ValueError(
            f"{path}: scale is {state}: heads are {median:.1f} px a unit of scale, expected "
            f"{least} to {most} (train.h5 and valid.h5 are adjusted once, annot.h5 is not)"
        )


def _check_center(arrays: _Arrays, path: Path) -> None:
    """Raise ValueError unless centres, measured against many people's joints, are adjusted."""
    has_joints = arrays.shown.any(axis=1)
    if has_joints.sum() < _CENTER_PEOPLE:
        return
    y, shown = arrays.joints[has_joints, :, 1], arrays.shown[has_joints]
    top = np.where(shown, y, np.inf).min(axis=1)
    bottom = np.where(shown, y, -np.inf).max(axis=1)
    below = arrays.center[has_joints, 1] - (top + bottom) / 2
    median = float(np.median(below / arrays.scale[has_joints]))
    if median < _CENTER_A_SCALE:
        raise ValueError(
            f"{path}: center is not adjusted: it lies {median:.1f} px a unit of scale below the "
            f"middle of the joints, expected at least {_CENTER_A_SCALE}"
        )


def _annotations(
    arrays: _Arrays,
    joint_set: JointSet,
    indices: Sequence[int],
    head_sizes: Sequence[float | None],
) -> Annotations:
    people = [
        person_of(
            arrays.joints[row] - 1,
            arrays.states[row],
            image=arrays.images[row],
            person=indices[row],
            center=tuple((arrays.center[row] - 1).tolist()),
            scale=float(arrays.scale[row]),
            head_size=head_sizes[row],
        )
        for row in np.flatnonzero(arrays.shown.any(axis=1)).tolist()
    ]
    skipped = len(arrays.images) - len(people)
    return Annotations(
        joint_set=joint_set,
        people=people,
        skipped={"no annotated joint": skipped} if skipped else {},
    )
