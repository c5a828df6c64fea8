"""People whose records look wrong, by check."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from pipeline.data.inspection.columns import Columns
from pipeline.pose.joint_sets import JointSet

# An upright person fills about four fifths of MPII's frame and is some eight heads tall, which
# makes a head a tenth of the frame; close-ups and people bent double stay within these shares.
_HEAD_SHARES = (0.02, 0.5)
_TINY_FRAME_PX = 32
# Joints that one reason names.
_LISTED = 3

# The rows that a check flags, each with the reason.
Flags = dict[int, str]


def anomalies(columns: Columns, joint_set: JointSet) -> dict[str, Flags]:
    """Run every check; return by its name the rows that it flags, and why."""
    return {name: check(columns, joint_set) for name, check in _CHECKS.items()}


def _far_joints(columns: Columns, joint_set: JointSet) -> Flags:
    reach = np.linalg.norm(columns.joints - columns.centers[:, None], axis=2)
    # Negated, so that a coordinate that is NaN counts as far.
    far = columns.annotated & ~(reach <= columns.frames_px[:, None])
    longest = np.where(far, reach, 0).max(axis=1, initial=0)
    return {
        row: f"{_listed(far[row], joint_set)}: up to {longest[row]:.0f} px from the centre, "
        f"frame side {columns.frames_px[row]:.0f} px"
        for row in _rows(far.any(axis=1))
    }


def _joints_outside(columns: Columns, joint_set: JointSet) -> Flags:
    outside, sizes = columns.outside, columns.image_sizes
    beyond = np.maximum(-0.5 - columns.joints, columns.joints - sizes[:, None] + 0.5).max(axis=2)
    longest = np.where(outside, beyond, 0).max(axis=1, initial=0)
    return {
        row: f"{_listed(outside[row], joint_set)} outside {sizes[row, 0]:.0f}x{sizes[row, 1]:.0f} "
        f"by up to {longest[row]:.1f} px"
        for row in _rows(outside.any(axis=1))
    }


def _head_sizes(columns: Columns, _: JointSet) -> Flags:
    sizes, (low, high) = columns.head_sizes, _HEAD_SHARES
    frames = columns.frames_px
    odd = (sizes <= 0) | (sizes < low * frames) | (sizes > high * frames)
    return {
        row: f"head size {sizes[row]:.4g} px, frame side {frames[row]:.0f} px" for row in _rows(odd)
    }


def _no_joints(columns: Columns, _: JointSet) -> Flags:
    has_none = ~columns.annotated.any(axis=1)
    return dict.fromkeys(_rows(has_none), "a bad sample to training (data.bad_samples)")


def _few_joints(columns: Columns, joint_set: JointSet) -> Flags:
    counts, joints = columns.annotated.sum(axis=1), len(joint_set.joints)
    # A joint set may have fewer than three.
    few = (counts > 0) & (counts < min(3, joints))
    return {row: f"{counts[row]} of {joints} joints" for row in _rows(few)}


def _frames_outside(columns: Columns, _: JointSet) -> Flags:
    half = columns.frames_px[:, None] / 2
    low = np.maximum(columns.centers - half, -0.5)
    high = np.minimum(columns.centers + half, columns.image_sizes - 0.5)
    inside = np.prod(np.maximum(high - low, 0), axis=1)
    areas = columns.frames_px**2
    return {
        row: f"{100 * (1 - inside[row] / areas[row]):.0f}% of the frame outside the image"
        for row in _rows(inside < areas / 2)
    }


def _unreadable(columns: Columns, _: JointSet) -> Flags:
    return {row: fault for row, fault in enumerate(columns.unreadable) if fault}


def _tiny_people(columns: Columns, _: JointSet) -> Flags:
    sides = columns.frames_px
    return {row: f"frame side {sides[row]:.1f} px" for row in _rows(sides < _TINY_FRAME_PX)}


def _rows(is_flagged: ArrayLike) -> list[int]:
    return np.flatnonzero(is_flagged).tolist()


def _listed(chosen: Bool[np.ndarray, " joint"], joint_set: JointSet) -> str:
    names = [joint_set.joints[joint] for joint in np.flatnonzero(chosen).tolist()]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


_CHECKS: dict[str, Callable[[Columns, JointSet], Flags]] = {
    "joints farther than one frame side from the centre": _far_joints,
    "annotated joints outside the image": _joints_outside,
    "head size not within 2-50% of the frame side": _head_sizes,
    "no annotated joint": _no_joints,
    "only 1 or 2 annotated joints": _few_joints,
    "more than half of the frame outside the image": _frames_outside,
    "picture not decodable": _unreadable,
    "frame side under 32 pixels": _tiny_people,
}
