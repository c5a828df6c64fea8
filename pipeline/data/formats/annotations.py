"""What an annotation file holds once it is read, and the checks that readers share."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Person, Visibility


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The people of one annotation file; `skipped` counts entries left out, by reason.

    `index_base` is the number of the first pixel where the files themselves say it.
    """

    joint_set: JointSet
    people: list[Person]
    skipped: Mapping[str, int] = field(default_factory=dict)
    index_base: int | None = None


def read_json(path: Path) -> Any:
    """Read a JSON file, gzipped where its name ends in .gz. Raises ValueError naming the file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from error


def read_mat(path: Path, *, as_structs: bool = False) -> dict[str, Any]:
    """Read a MATLAB file, structs as objects with attributes if asked. Raises ValueError naming the file.

    As structs, axes of length 1 are dropped: a lone struct is itself, not an
    array of one (see `elements`).
    """
    import scipy.io

    options = {"struct_as_record": False, "squeeze_me": True} if as_structs else {}
    try:
        # As text: for a Path that is absent scipy says something else.
        contents: dict[str, Any] = scipy.io.loadmat(str(path), appendmat=False, **options)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise ValueError(f"{path}: not readable as a MATLAB file: {error}") from error
    return contents


def elements(value: Any) -> list[Any]:
    """The elements of a MATLAB array, which comes as a lone element where it has just one."""
    return list(np.atleast_1d(value).ravel())


def read_h5(path: Path) -> dict[str, Any]:
    """Read the datasets of an HDF5 file as arrays. Raises ValueError naming the file."""
    import h5py

    try:
        with h5py.File(path) as file:
            return {name: np.asarray(value) for name, value in file.items()}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, TypeError) as error:
        raise ValueError(f"{path}: not readable as HDF5: {error}") from error


def entry(record: Mapping[str, Any], field_name: str, where: str) -> Any:
    """Return a field of a record. Raises ValueError naming place and field."""
    if not isinstance(record, Mapping) or field_name not in record:
        raise ValueError(f"{where}: field {field_name!r} is absent")
    return record[field_name]


def numbers(value: Any, shape: tuple[int, ...], where: str) -> Float[np.ndarray, "..."]:
    """Return finite numbers of a given shape. Raises ValueError naming place, expected and got."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: expected numbers of shape {shape}, got {value!r:.80}") from None
    if array.shape != shape:
        raise ValueError(f"{where} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: expected finite numbers, got {value!r:.80}")
    return array


def positive(value: Any, where: str) -> float:
    """Return a number above 0. Raises ValueError naming place and value."""
    number = float(numbers(value, (), where))
    if number <= 0:
        raise ValueError(f"{where} must be above 0, got {number:g}")
    return number


def frame_joints(
    joints: tuple[tuple[float, float], ...],
    visibility: tuple[Visibility, ...],
) -> tuple[tuple[float, float], float]:
    """Centre and scale of the annotated joints' bounding box, a quarter wider than its longer side."""
    seen = [
        joint
        for joint, state in zip(joints, visibility, strict=True)
        if state is not Visibility.MISSING
    ]
    left, right = min(x for x, _ in seen), max(x for x, _ in seen)
    top, bottom = min(y for _, y in seen), max(y for _, y in seen)
    side = max(right - left, bottom - top, 1.0)
    return ((left + right) / 2, (top + bottom) / 2), 1.25 * side / 200
