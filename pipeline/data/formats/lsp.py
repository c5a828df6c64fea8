"""Readers of Leeds Sports Pose (Johnson and Everingham, BMVC 2010) and its extension (CVPR 2011)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pipeline.data.formats.annotations import Annotations, entry, frame_joints, read_mat
from pipeline.pose.joint_sets import LSP
from pipeline.pose.person import Person, Split, Visibility

_LSP_AXES, _LSPET_AXES = (3, 14), (14, 3)
# People of the published LSP, of whom the first half trains (Johnson and Everingham, BMVC 2010).
_LSP_PEOPLE = 2000


def read_lsp(path: Path) -> Annotations:
    """Read LSP's joints.mat, an array (3, 14, N) of x, y and a flag; pixels are 0-based.

    A flag of 1 means occluded, the opposite of LSPET's; occluded joints have
    coordinates. Pixels are taken as LSPET's are: both files hold continuous
    coordinates and state no base. Centre and scale are derived from the joints.
    Of the published 2,000 people the first 1,000 train and the last 1,000
    validate, as is common; of another number none has a split. Raises
    ValueError naming file and shape.
    """
    x_y_flag = _read_joints(path, _LSP_AXES).transpose(2, 1, 0)
    people = [
        _person(
            f"im{number + 1:04d}.jpg",
            person,
            np.where(person[:, 2] == 1, Visibility.OCCLUDED, Visibility.VISIBLE),
            _lsp_split(number, len(x_y_flag)),
        )
        for number, person in enumerate(x_y_flag)
    ]
    return Annotations(joint_set=LSP, people=people)


def read_lspet(path: Path) -> Annotations:
    """Read LSPET's joints.mat, an array (14, 3, N) of x, y and a flag; pixels are 0-based.

    A flag of 1 means visible. Rows with flag 0 hold coordinates that were
    extrapolated out of the image, so they are read as missing. Centre and scale
    are derived from the joints. People without two visible joints are skipped.
    Raises ValueError naming file and shape.
    """
    x_y_flag = _read_joints(path, _LSPET_AXES).transpose(2, 0, 1)
    people = [
        _person(
            f"im{number + 1:05d}.jpg",
            person,
            np.where(person[:, 2] == 1, Visibility.VISIBLE, Visibility.MISSING),
        )
        for number, person in enumerate(x_y_flag)
        if person[:, 2].sum() >= 2
    ]
    skipped = len(x_y_flag) - len(people)
    return Annotations(
        joint_set=LSP, people=people, skipped={"fewer than two visible joints": skipped}
    )


def _read_joints(path: Path, axes: tuple[int, int]) -> Float[np.ndarray, "..."]:
    array = np.asarray(entry(read_mat(path), "joints", str(path)))
    if array.ndim != 3 or array.shape[:2] != axes:
        expected = f"({axes[0]}, {axes[1]}, N)"
        hint = ""
        if array.ndim == 3 and array.shape[:2] == axes[::-1]:
            other, ours = ("LSP", "LSPET") if axes == _LSPET_AXES else ("LSPET", "LSP")
            hint = f" (that is the layout of {other}, not {ours})"
        raise ValueError(f"{path}: joints has shape {array.shape}, expected {expected}{hint}")
    part_axis = axes.index(3)
    coordinates, flags = np.split(array.astype(np.float64), [2], axis=part_axis)
    if not np.isin(flags, (0, 1)).all():
        place = "[:, 2]" if part_axis else "[2]"
        raise ValueError(
            f"{path}: joints{place} must hold flags 0 and 1, got {np.unique(flags)[:5]}"
        )
    if not np.isfinite(coordinates).all():
        raise ValueError(f"{path}: joints must be finite, got NaN or infinity")
    return np.concatenate([coordinates, flags], axis=part_axis)


def _lsp_split(number: int, people: int) -> Split | None:
    if people != _LSP_PEOPLE:
        return None
    return "train" if number < _LSP_PEOPLE // 2 else "val"


def _person(
    image: str,
    x_y_flag: Float[np.ndarray, "14 3"],
    states: np.ndarray,
    split: Split | None = None,
) -> Person:
    joints = tuple((x, y) for x, y in x_y_flag[:, :2].tolist())
    visibility = tuple(Visibility(state) for state in states.tolist())
    center, scale = frame_joints(joints, visibility)
    return Person(
        image=image,
        person=0,
        center=center,
        scale=scale,
        joints=joints,
        visibility=visibility,
        split=split,
    )
