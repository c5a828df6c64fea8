"""Reader of Leeds Sports Pose Extended (Johnson and Everingham, CVPR 2011)."""

from pathlib import Path

import numpy as np

from pipeline.data.annotations import Annotations, entry, frame_joints, read_mat
from pipeline.data.people import Person, Visibility
from pipeline.joints import LSP


def read_lspet(path: Path) -> Annotations:
    """Read LSPET's joints.mat, an array (14, 3, N) of x, y and a flag; pixels are 0-based.

    A flag of 1 means visible. Rows with flag 0 hold coordinates that were
    extrapolated out of the image, so they are read as missing. Centre and scale
    are derived from the joints. People without two visible joints are skipped.
    Raises ValueError naming file and shape.
    """
    array = np.asarray(entry(read_mat(path), "joints", str(path)))
    if array.ndim != 3 or array.shape[:2] != (14, 3):
        hint = " (that is the layout of LSP, not LSPET)" if array.shape[:2] == (3, 14) else ""
        raise ValueError(f"{path}: joints has shape {array.shape}, expected (14, 3, N){hint}")
    flags = np.unique(array[:, 2])
    if not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{path}: joints[:, 2] must hold flags 0 and 1, got {flags[:5]}")
    if not np.isfinite(array[:, :2]).all():
        raise ValueError(f"{path}: joints must be finite, got NaN or infinity")
    people = []
    for number in range(array.shape[2]):
        x, y, flag = array[:, :, number].T
        if flag.sum() >= 2:
            people.append(_person(number, x, y, flag))
    skipped = array.shape[2] - len(people)
    return Annotations(
        joint_set=LSP, people=people, skipped={"fewer than two visible joints": skipped}
    )


def _person(number: int, x: np.ndarray, y: np.ndarray, flag: np.ndarray) -> Person:
    joints = tuple(zip(x.tolist(), y.tolist(), strict=True))
    visibility = tuple(Visibility.VISIBLE if visible else Visibility.MISSING for visible in flag)
    center, scale = frame_joints(joints, visibility)
    return Person(
        image=f"im{number + 1:05d}.jpg",
        person=0,
        center=center,
        scale=scale,
        joints=joints,
        visibility=visibility,
    )
