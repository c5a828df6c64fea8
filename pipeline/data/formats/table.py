"""Reader of a user's own table: a row a person, its joints as a joint-set file names them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.data.formats.annotations import (
    Annotations,
    Point,
    frame_joints,
    image_counter,
    person_of,
)
from pipeline.data.formats.table_cells import Cells, read_cells
from pipeline.io.parsing import did_you_mean
from pipeline.pose.geometry import frame_box
from pipeline.pose.joint_file import PARTS, JointFile
from pipeline.pose.joint_set import JointSet, Measure
from pipeline.pose.person import Person, Visibility

Sizes = Mapping[str, tuple[int, int]]
SizesOf = Callable[[Sequence[str]], Sizes]

_BOX = ("box_x", "box_y", "box_width", "box_height")
_FRAME = ("center_x", "center_y", "scale")
_IMAGE_SIZE = ("image_width", "image_height")
# Columns that a table has all of or none.
_TOGETHER = (_BOX, _FRAME, _IMAGE_SIZE)
_COLUMNS = ("image", "person", "split", "head_size", *_BOX, *_FRAME, *_IMAGE_SIZE)
_NO_PAIRS = "flip pairs: none, so that joints keep their names in mirrored images"
_STATES = {
    **{str(state.value): state for state in Visibility},
    **{state.name.lower(): state for state in Visibility},
}
# A few joints may truly lie where a wrong base or zeros for missing joints would put many;
# that many, in number and in share, are taken for the mistake.
_SUSPICIOUS_JOINTS, _SUSPICIOUS_SHARE = 10, 0.01


def read_table(path: Path, joint_file: JointFile, sizes_of: SizesOf | None = None) -> Annotations:
    """Read a table of the joints that a joint-set file names; its pixels count from `index_base`.

    With the unit `share` or `percent`, coordinates and box are parts of image_width and
    image_height; without these columns, of the sizes that `sizes_of` finds for images. One that it
    does not find has no photograph, and what it holds is not packed.

    Columns: `image`, and for each joint NAME_x and NAME_y, in pixels; by choice NAME_visibility,
    `person`, `split`, `head_size`, box, centre and scale, and size of the image. A joint is missing
    where x and y are empty or the file's value for missing, or its visibility says so.
    Without a centre the frame comes from the box as COCO's does, else from the joints. People
    without a joint are skipped, and so are those with one joint, no centre and no box. Raises
    ValueError naming file, line, column, value and what was expected.
    """
    joint_set, base = joint_file.joint_set, joint_file.index_base
    cells = read_cells(path)
    _check_columns(cells, joint_set)
    _check_unit(cells, joint_file, sizes_of)
    sizes: Sizes = {}
    if sizes_of is not None and joint_file.unit in PARTS and not _has_sizes(cells):
        sizes = sizes_of([_image(cells, row) for row in range(len(cells.rows))])
    people: list[Person] = []
    skipped: Counter[str] = Counter()
    for row, number in enumerate(_person_numbers(cells)):
        person = _person(cells, row, number, joint_file, sizes)
        if isinstance(person, Person):
            people.append(person)
        else:
            skipped[person] += 1
    _check_pixels(path, people, base)
    _check_sizes(path, people, joint_set.measures[0])
    return Annotations(
        joint_set=joint_set,
        people=people,
        skipped=skipped,
        index_base=base,
        states_unit=joint_file.unit is not None,
        notes=() if joint_set.flip_pairs else (_NO_PAIRS,),
    )


def _check_columns(cells: Cells, joint_set: JointSet) -> None:
    """Raise ValueError naming a column that is unknown, or absent though needed, or a joint's."""
    for name in joint_set.joints:
        if f"{name}_x" in _COLUMNS:
            raise ValueError(
                f"{cells.path}: a joint of a table can't be named {name!r}, since {name}_x and "
                f"{name}_y are columns of their own"
            )
    needed = ["image", *(f"{name}_{axis}" for name in joint_set.joints for axis in "xy")]
    known = [*_COLUMNS, *needed[1:], *(f"{name}_visibility" for name in joint_set.joints)]
    for column in cells.columns:
        if column not in known:
            close = did_you_mean(column, known)
            expected = ", ".join(_COLUMNS) + " and, of each joint, NAME_x, NAME_y, NAME_visibility"
            raise ValueError(
                f"{cells.path}: unknown column {column!r}{close or f'; expected {expected}'}"
            )
    for column in needed:
        if column not in cells.columns:
            raise ValueError(f"{cells.path}: column {column!r} is absent")
    for together in _TOGETHER:
        absent = [column for column in together if column not in cells.columns]
        if absent and len(absent) < len(together):
            raise ValueError(
                f"{cells.path}: column {absent[0]!r} is absent, expected all of "
                f"{', '.join(together)} or none"
            )


def _has_sizes(cells: Cells) -> bool:
    return _IMAGE_SIZE[0] in cells.columns


def _check_unit(cells: Cells, joint_file: JointFile, sizes_of: SizesOf | None) -> None:
    """Raise ValueError if coordinates are parts of sizes that nothing tells."""
    if joint_file.unit not in PARTS:
        return
    where = f"{cells.path}: unit = {joint_file.unit!r} of the joint-set file"
    if _FRAME[0] in cells.columns:
        raise ValueError(f"{where} takes no centre, got the column {_FRAME[0]!r}")
    if sizes_of is None and not _has_sizes(cells):
        raise ValueError(
            f"{where} needs the photographs' sizes: give their folder by --images, or the columns "
            f"{' and '.join(_IMAGE_SIZE)}"
        )


def _person_numbers(cells: Cells) -> list[int]:
    """Number each row's person within its image, by the column `person` or by counting.

    Raises ValueError if the column has a number twice.
    """
    images = [_image(cells, row) for row in range(len(cells.rows))]
    if "person" not in cells.columns:
        return list(map(image_counter(), images))
    numbers = [cells.whole("person", row, least=0) for row in range(len(cells.rows))]
    first: dict[tuple[str, int], str] = {}
    for name, image, number in zip(cells.rows, images, numbers, strict=True):
        if (image, number) in first:
            raise ValueError(
                f"{cells.path}: {name}: person {number} of {image} is on "
                f"{first[image, number]} already, expected each once"
            )
        first[image, number] = name
    return numbers


def _person(
    cells: Cells, row: int, number: int, joint_file: JointFile, sizes: Sizes
) -> Person | str:
    """Make a row's person, or return the reason to skip it."""
    base = joint_file.index_base
    points, states = zip(
        *(_joint(cells, row, name, joint_file.missing) for name in joint_file.joint_set.joints),
        strict=True,
    )
    image = _image(cells, row)
    is_part = joint_file.unit in PARTS
    size = _image_size(cells, row, is_needed=is_part) or sizes.get(image)
    unit = _unit(size, joint_file)
    joints, visibility = np.array(points) * unit - base, np.array(states)
    if not visibility.any():
        return "no annotated joint"
    box = _box(cells, row, base, unit)
    frame = _frame(cells, row, base) or (frame_box(box) if box else None)
    if frame is None and np.count_nonzero(visibility) < 2:
        # A frame around one joint has no size.
        return "one annotated joint, and neither centre nor box"
    center, scale = frame or frame_joints(joints, visibility)
    return person_of(
        joints,
        visibility,
        image=image,
        person=number,
        center=center,
        scale=scale,
        head_size=cells.positive("head_size", row) if cells.has(row, "head_size") else None,
        box=box,
        image_size=size,
        split=_split(cells, row),
    )


def _image(cells: Cells, row: int) -> str:
    expected = "the path of a photograph below --images"
    path = PurePosixPath(cells.text("image", row, expected))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise cells.wrong("image", row, expected)
    # So that ./a.jpg and a.jpg are one image, on one side of the split.
    return str(path)


def _split(cells: Cells, row: int) -> str | None:
    if "split" not in cells.columns:
        return None
    name = cells.text("split", row, "train or val")
    if name not in ("train", "val"):
        raise cells.wrong("split", row, "train or val")
    return name


def _unit(size: tuple[int, int] | None, joint_file: JointFile) -> tuple[float, float]:
    """Return the pixels of a coordinate's unit, along x and y, in a picture of a size."""
    parts = PARTS.get(joint_file.unit or "")
    if parts is None or size is None:
        return 1.0, 1.0
    return size[0] / parts, size[1] / parts


def _joint(cells: Cells, row: int, name: str, missing: float | None) -> tuple[Point, Visibility]:
    """Return a joint as the table has it, and its state."""
    x, y, visibility = f"{name}_x", f"{name}_y", f"{name}_visibility"
    stated = _state(cells, row, visibility) if cells.has(row, visibility) else None
    if not cells.has(row, x, y):
        if stated:
            raise cells.wrong(visibility, row, f"missing, since {x} and {y} are empty")
        return (0.0, 0.0), Visibility.MISSING
    for column, other in ((x, y), (y, x)):
        if not cells.has(row, column):
            raise cells.wrong(column, row, f"a number, as in {other}, or nothing in both")
    point = cells.number(x, row), cells.number(y, row)
    if missing is not None and point == (missing, missing):
        if stated:
            raise cells.wrong(
                visibility, row, f"missing, since {x} and {y} are {missing:g}, as missing joints'"
            )
        return (0.0, 0.0), Visibility.MISSING
    return point, Visibility.VISIBLE if stated is None else stated


def _state(cells: Cells, row: int, column: str) -> Visibility:
    # A column of numbers with gaps is written as 2.0.
    name = str(cells.columns[column][row]).strip().lower().removesuffix(".0")
    if name not in _STATES:
        raise cells.wrong(column, row, "one of " + ", ".join(_STATES))
    return _STATES[name]


def _box(
    cells: Cells, row: int, base: int, unit: tuple[float, float]
) -> tuple[float, float, float, float] | None:
    """Return the box; None where it is absent, or has no size."""
    if not cells.has(row, *_BOX):
        return None
    x, y, width, height = (cells.number(column, row) for column in _BOX)
    if min(width, height) <= 0:
        return None
    return x * unit[0] - base, y * unit[1] - base, width * unit[0], height * unit[1]


def _frame(cells: Cells, row: int, base: int) -> tuple[Point, float] | None:
    """Return centre and scale where the row has them."""
    if not cells.has(row, *_FRAME):
        return None
    x, y = (cells.number(column, row) - base for column in _FRAME[:2])
    return (x, y), cells.positive("scale", row)


def _image_size(cells: Cells, row: int, *, is_needed: bool) -> tuple[int, int] | None:
    """Return the size that the table has; None where it may be absent and is."""
    if not _has_sizes(cells) or not (is_needed or cells.has(row, *_IMAGE_SIZE)):
        return None
    width, height = (cells.whole(column, row, least=1) for column in _IMAGE_SIZE)
    return width, height


def _check_pixels(path: Path, people: list[Person], base: int) -> None:
    """Raise ValueError if many joints lie where zeros for missing ones or a wrong base put them."""
    states = np.array([person.visibility for person in people]).ravel()
    joints = np.array([person.joints for person in people]).reshape(-1, 2)
    stored = joints[states != Visibility.MISSING] + base
    many = max(_SUSPICIOUS_JOINTS, _SUSPICIOUS_SHARE * len(stored))
    zeros = int((stored == 0).all(axis=1).sum())
    if zeros >= many:
        raise ValueError(
            f"{path}: {zeros:,} of {len(stored):,} joints that are not missing lie at (0, 0); "
            "expected empty cells, or the visibility missing, where a joint is not annotated, or "
            "missing = 0 in the joint-set file"
        )
    before = int(((stored >= 0) & (stored < 1)).any(axis=1).sum())
    if base == 1 and before >= many:
        raise ValueError(
            f"{path}: {before:,} of {len(stored):,} joints have an x or y from 0 to 1, before the "
            "first pixel by index_base = 1 of the joint-set file; expected index_base = 0"
        )


def _check_sizes(path: Path, people: list[Person], measure: Measure) -> None:
    """Raise ValueError if no person has the size that the measure divides by."""
    columns, has_any = {
        "head": ("head_size", any(person.head_size for person in people)),
        "box": (", ".join(_BOX), any(person.box for person in people)),
        "oks": (", ".join(_BOX), any(person.box for person in people)),
        "segment": ("", True),
    }[measure.normaliser]
    if people and not has_any:
        raise ValueError(
            f"{path}: expected {columns} of at least one person, since the joint-set file has "
            f"normaliser = {measure.normaliser!r}; got none"
        )
