"""Small files as the authors of datasets publish them: MATLAB's structs and HDF5."""

from pathlib import Path

import h5py
import numpy as np
import scipy.io

NOTHING = np.zeros((0, 0))


def struct_array(records: list[dict]) -> np.ndarray:
    """A MATLAB struct array (1, N): every element has every field, empty where it was not set."""
    names = list(dict.fromkeys(name for record in records for name in record))
    array = np.empty((1, len(records)), dtype=[(name, object) for name in names])
    for number, record in enumerate(records):
        for name in names:
            array[name][0, number] = record.get(name, NOTHING)
    return array


def point(joint: int, **changes) -> dict:
    return {"x": 101.0 + joint, "y": 201.5 + joint, "id": joint, "is_visible": 1} | changes


def points(*of: dict) -> dict:
    return {"point": struct_array(list(of))}


def rect(**changes) -> dict:
    """A person with two joints whose head box has a diagonal of 50."""
    return {
        "x1": 627,
        "y1": 100,
        "x2": 657,
        "y2": 140,
        "scale": 3.0,
        "objpos": {"x": 594, "y": 257},
        "annopoints": points(point(0), point(15)),
    } | changes


def image(name: str, *rects: dict) -> dict:
    return {
        "image": {"name": name},
        "annorect": struct_array(list(rects)) if rects else NOTHING,
        "frame_sec": NOTHING,
        "vididx": NOTHING,
    }


def write_release(
    path: Path, images: list[dict], is_training: list[int] | None = None, absent: str = ""
) -> Path:
    flags = [1] * len(images) if is_training is None else is_training
    single = np.empty((len(images), 1), object)
    single[:] = [[NOTHING]] * len(images)
    release = {
        "annolist": struct_array(images),
        "img_train": np.array([flags], np.uint8),
        "version": "12",
        "single_person": single,
    }
    release.pop(absent, None)
    scipy.io.savemat(path, {"RELEASE": release})
    return path


def h5_fields(people: int = 2, joints: int = 16, **changes) -> dict[str, np.ndarray]:
    """Upright people of scale 3.75, who were of scale 3 before the authors adjusted them."""
    part = np.stack([np.full(joints, 500.0), 300.0 + 20 * np.arange(joints)], axis=-1)
    if joints == 16:
        # Heads of 26.67 pixels a unit of scale.
        part[8], part[9] = (500, 260), (500, 160)
    part = np.stack([part] * people)
    middle = (part[..., 1].min() + part[..., 1].max()) / 2
    return {
        "part": part,
        "visible": np.ones((people, joints)),
        "center": np.array([[500.0, middle + 10 * 3.75]] * people),
        "scale": np.full(people, 3.75),
        "normalize": np.full(people, 60.0),
        "imgname": np.array([f"{n:09d}.jpg".encode() for n in range(people)]),
        "index": np.arange(people) * 1.0,
        "person": np.zeros(people),
        "torsoangle": np.zeros(people),
    } | changes


def write_h5(path: Path, fields: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in fields.items():
            file[name] = value
    return path


def lsp_array(people: int = 2) -> np.ndarray:
    """People of the same pose: (3, 14, N), x from 5.5 to 135.5 and y from 0.25 to 260.25."""
    joints = np.zeros((3, 14, people))
    joints[0] = np.arange(14)[:, None] * 10 + 5.5
    joints[1] = np.arange(14)[:, None] * 20 + 0.25
    return joints


def write_lsp(path: Path, joints: np.ndarray) -> Path:
    scipy.io.savemat(path, {"joints": joints})
    return path


def lspet_array() -> np.ndarray:
    """Two people: (14, 3, 2). The second has garbage where its flag is 0."""
    joints = np.zeros((14, 3, 2))
    joints[:, 0] = np.arange(14)[:, None] * 10 + 5.5
    joints[:, 1] = np.arange(14)[:, None] * 20 + 0.25
    joints[:, 2] = 1
    joints[3, :, 1] = (-4000.0, 9000.0, 0)
    return joints
