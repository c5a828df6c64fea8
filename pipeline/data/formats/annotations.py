"""The annotations of a file, and the readers' common parts: opening it, checking its fields."""

import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io.inside import check_inside, check_whole
from pipeline.io.matlab import matlab_variables
from pipeline.io.parsing import Identifier, identifier_of, parse_json
from pipeline.io.text import briefly
from pipeline.io.unfolding import unfolded
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Person, Visibility
from pipeline.pose.shapes import Float, Int64

Point = tuple[float, float]
# The reason to skip what a tool found by itself.
PREDICTION = "a tool's prediction, no label (--predictions)"
# The author of our own predictions, by which files that hold no scores are known.
AUTHOR = "hourglass"


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """People of one annotation file. `skipped` counts entries left out, by reason.

    `index_base` is the number of the first pixel where the files themselves state it, and
    `states_unit` whether they state the unit of coordinates. `files` are those that were read
    beside the given ones. `notes` are lines to print.
    """

    joint_set: JointSet
    people: list[Person]
    skipped: Mapping[str, int] = field(default_factory=dict)
    index_base: int | None = None
    states_unit: bool = False
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def in_folder(folder: Path, path: Path) -> Path:
    """Return a path that was found below a folder of annotations.

    Raises ValueError if a link leads out of the folder.
    """
    try:
        check_inside(folder, path)
    except ValueError as error:
        raise ValueError(f"{error}; copy the folder with cp -rL, which follows links") from None
    return path


def because(skipped: Mapping[str, int]) -> str:
    """Return the end of an error on a file without people: what was skipped, by reason."""
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in skipped.items() if count)
    return f"; passed over were {reasons}" if reasons else ""


@contextmanager
def reading(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of opening and parsing a file into ValueErrors that name it.

    `errors` are those that mean that it is not readable as `kind`.
    """
    check_whole(path)
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except errors as error:
        raise ValueError(f"{path}: not readable as {kind}: {briefly(error)}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file, gzipped if its name ends in .gz. Raises ValueError naming the file."""
    with (
        reading(path, "JSON", OSError, EOFError, zlib.error, ValueError),
        path.open("rb") as file,
    ):
        text = unfolded(file).read() if path.suffix == ".gz" else file.read()
    return parse_json(text, str(path))


def read_mat(path: Path, *, as_structs: bool = False) -> dict[str, Any]:
    """Read a MATLAB file. Raises ValueError naming the file.

    With `as_structs`, axes of length 1 are dropped: a lone struct is itself, not an array of one
    (see `elements`).
    """
    with reading(path, "a MATLAB file", OSError, ValueError, zlib.error):
        return matlab_variables(path.read_bytes(), drops_axes=as_structs)


def elements(value: Any) -> list[Any]:
    """List the elements of a MATLAB array, which comes as a lone element where it has just one."""
    return list(np.atleast_1d(value).ravel())


def entry(record: Mapping[str, Any], field_name: str, where: str) -> Any:
    """Return a field of a record. Raises ValueError naming place and field."""
    if not isinstance(record, Mapping) or field_name not in record:
        raise ValueError(f"{where}: field {field_name!r} is absent")
    return record[field_name]


def records_of(contents: Any, field_name: str, where: str) -> list[dict[str, Any]]:
    """Return a field's list of objects. Raises ValueError naming place, field and record."""
    records = entry(contents, field_name, where)
    if not isinstance(records, list):
        raise ValueError(f"{where}: {field_name} must be a list, got {records!r:.80}")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(
                f"{where}: {field_name}[{number}] must be an object, got {record!r:.80}"
            )
    return records


def records_by_id(
    contents: Any,
    field_name: str,
    path: Path,
    same: Callable[[Mapping[str, Any]], object] = lambda record: record,
) -> dict[Identifier, tuple[str, dict[str, Any]]]:
    """Return the objects of a field's list by their ids, each with its place.

    Joined exports hold some of them again. Raises ValueError naming two of one id that are not the
    same.
    """
    found: dict[Identifier, tuple[str, dict[str, Any]]] = {}
    for number, record in enumerate(records_of(contents, field_name, str(path))):
        where = f"{path}: {field_name}[{number}]"
        known = identifier_of(entry(record, "id", where), f"{where}: id")
        _, other = found.setdefault(known, (where, record))
        if other is not record and same(other) != same(record):
            raise ValueError(
                f"{where} has the id {known!r} of another one before it, expected one id each"
            )
    return found


def numbers_in(
    record: Mapping[str, Any], field_name: str, shape: tuple[int, ...], where: str
) -> Float[np.ndarray, "..."]:
    """Return a field's finite numbers. Raises ValueError like `entry` and `numbers`."""
    return numbers(entry(record, field_name, where), shape, f"{where}: {field_name}")


def numbers(value: Any, shape: tuple[int, ...], where: str) -> Float[np.ndarray, "..."]:
    """Return finite numbers of a given shape. Raises ValueError naming place, expected and got."""
    try:
        if any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
            raise TypeError
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: expected numbers of shape {shape}, got {value!r:.80}") from None
    if array.shape != shape:
        raise ValueError(f"{where} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: expected finite numbers, got {value!r:.80}")
    return array


def path_in(record: Mapping[str, Any], field_name: str, where: str) -> str:
    """Return a field's path of an image. Raises ValueError naming place, field and value."""
    path = entry(record, field_name, where)
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{where}: {field_name} must be a path, got {path!r:.80}")
    if "\n" in path:
        raise ValueError(f"{where}: {field_name} must be a path of one line, got {path!r:.80}")
    return path


def image_size_in(
    record: Mapping[str, Any], field_names: tuple[str, str], where: str
) -> tuple[int, int] | None:
    """Return an image's width and height; None where one is absent, null or 0.

    Raises ValueError naming place, fields and values.
    """
    width, height = (record.get(name) or 0 for name in field_names)
    if width == 0 or height == 0:
        return None
    names = " and ".join(field_names)
    sides = numbers([width, height], (2,), f"{where}: {names}")
    if (sides % 1 != 0).any() or (sides <= 0).any():
        raise ValueError(
            f"{where}: {names} must be whole numbers above 0, got {width!r} and {height!r}"
        )
    return int(sides[0]), int(sides[1])


def positive(value: Any, where: str) -> float:
    """Return a number above 0. Raises ValueError naming place and value."""
    number = float(numbers(value, (), where))
    if number <= 0:
        raise ValueError(f"{where} must be above 0, got {number:g}")
    return number


def image_counter() -> Callable[[str], int]:
    """Return a function that numbers an image's people from 0, in the order of its calls."""
    counters: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    return lambda image: next(counters[image])


def person_of(
    joints: Float[np.ndarray, "joint 2"], states: Int64[np.ndarray, " joint"], **fields: Any
) -> Person:
    """Make a person of arrays: joints in 0-based pixels, and values of Visibility."""
    return Person(
        joints=tuple((x, y) for x, y in joints.tolist()),
        visibility=tuple(map(Visibility, states.tolist())),
        **fields,
    )


def box_of_joints(
    joints: Float[np.ndarray, "joint 2"], states: Int64[np.ndarray, " joint"]
) -> tuple[float, float, float, float] | None:
    """Return the box (left, top, width, height) of the annotated joints; None if it has no size."""
    annotated = joints[states != Visibility.MISSING]
    if not len(annotated):
        return None
    left, top = annotated.min(axis=0).tolist()
    width, height = (annotated.max(axis=0) - (left, top)).tolist()
    return (left, top, width, height) if width > 0 and height > 0 else None


def frame_joints(
    joints: Float[np.ndarray, "joint 2"], states: Int64[np.ndarray, " joint"]
) -> tuple[Point, float]:
    """Frame the annotated joints: the square a quarter wider than their box's longer side."""
    annotated = joints[states != Visibility.MISSING]
    (left, top), (right, bottom) = annotated.min(axis=0).tolist(), annotated.max(axis=0).tolist()
    side = max(right - left, bottom - top, 1.0)
    return ((left + right) / 2, (top + bottom) / 2), 1.25 * side / 200
