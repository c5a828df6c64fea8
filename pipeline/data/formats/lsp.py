"""Readers of Leeds Sports Pose (Johnson and Everingham, BMVC 2010) and its extension (CVPR 2011).

Both files hold continuous coordinates and state no base. Those of the extension are 0-based, and
those of LSP are taken to be.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pipeline.data.formats.annotations import (
    Annotations,
    entry,
    frame_joints,
    person_of,
    read_mat,
)
from pipeline.pose.joint_sets import LSP
from pipeline.pose.person import Person, Visibility

# The first two axes of each file's `joints`, the third being people.
_AXES = {"LSP": (3, 14), "LSPET": (14, 3)}
# The published LSP, whose first half trains (Johnson and Everingham, BMVC 2010).
_LSP_PEOPLE = 2000


def read_lsp(path: Path) -> Annotations:
    """Read LSP's joints.mat, an array (3, 14, N) of x, y and a flag.

    A flag of 1 means occluded, the opposite of LSPET's; occluded joints have coordinates. Centre
    and scale are derived from the joints. Of the published 2,000 people the first 1,000 train and
    the last 1,000 validate, as is common; of another number none has a split. Raises ValueError
    naming file and shape.
    """
    x_y_flag = _read_joints(path, "LSP")
    people = _people(x_y_flag, (Visibility.VISIBLE, Visibility.OCCLUDED), "im{:04d}.jpg")
    if len(people) == _LSP_PEOPLE:
        people = [
            replace(person, split="train" if number < _LSP_PEOPLE // 2 else "val")
            for number, person in enumerate(people)
        ]
    return Annotations(joint_set=LSP, people=people)


def read_lspet(path: Path) -> Annotations:
    """Read LSPET's joints.mat, an array (14, 3, N) of x, y and a flag.

    A flag of 1 means visible. Rows with flag 0 hold coordinates that were extrapolated out of the
    image, so they are read as missing. Centre and scale are derived from the joints. People without
    two visible joints are skipped. Raises ValueError naming file and shape.
    """
    x_y_flag = _read_joints(path, "LSPET")
    people = _people(x_y_flag, (Visibility.MISSING, Visibility.VISIBLE), "im{:05d}.jpg")
    skipped = {"fewer than two visible joints": len(x_y_flag) - len(people)}
    return Annotations(joint_set=LSP, people=people, skipped=skipped)


def _read_joints(path: Path, dataset: str) -> Float[np.ndarray, "person 14 3"]:
    axes = _AXES[dataset]
    array = np.asarray(entry(read_mat(path), "joints", str(path)))
    if array.ndim != 3 or array.shape[:2] != axes:
        hint = "".join(
            f" (that is the layout of {other}, not {dataset})"
            for other, its_axes in _AXES.items()
            if array.ndim == 3 and array.shape[:2] == its_axes
        )
        expected = f"({axes[0]}, {axes[1]}, N)"
        raise ValueError(f"{path}: joints has shape {array.shape}, expected {expected}{hint}")
    x_y_flag = array.astype(np.float64).transpose(2, axes.index(14), axes.index(3))
    flags = x_y_flag[..., 2]
    if not np.isin(flags, (0, 1)).all():
        place = "[:, 2]" if axes.index(3) else "[2]"
        raise ValueError(
            f"{path}: joints{place} must hold flags 0 and 1, got {np.unique(flags)[:5]}"
        )
    if not np.isfinite(x_y_flag).all():
        raise ValueError(f"{path}: joints must be finite, got NaN or infinity")
    return x_y_flag


def _people(
    x_y_flag: Float[np.ndarray, "person 14 3"],
    states_by_flag: tuple[Visibility, Visibility],
    name: str,
) -> list[Person]:
    """Make a person of each row that has two annotated joints; `name` formats its image's name."""
    people = []
    for number, row in enumerate(x_y_flag, start=1):
        joints, states = row[:, :2], np.array(states_by_flag)[row[:, 2].astype(np.int64)]
        if np.count_nonzero(states) >= 2:
            center, scale = frame_joints(joints, states)
            image = name.format(number)
            people.append(
                person_of(joints, states, image=image, person=0, center=center, scale=scale)
            )
    return people
