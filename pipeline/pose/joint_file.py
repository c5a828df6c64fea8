"""Joint-set files: a user's own joints in TOML, and how their table counts pixels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.io.inside import read_whole
from pipeline.io.parsing import did_you_mean, fields_of, items_of, number_of, parse_toml
from pipeline.pose.joint_set import JointNames, JointSet, Measure, read_fields
from pipeline.pose.joint_sets import OKS, PCK_BOX, PCKH
from pipeline.pose.sides import are_sides, side_of, side_pairs

# Its segment is replaced by the two joints of each set.
PCK_SEGMENT = Measure(
    key="pck_segment",
    title="PCK-segment",
    normaliser="segment",
    segment=(0, 1),
    thresholds=(0.2, 0.1),
)
_MEASURES = {"head": PCKH, "box": PCK_BOX, "oks": OKS}
# Units that are parts of the image's size, and the number of them in the whole.
PARTS = {"share": 1, "percent": 100}
_UNITS = ("pixels", *PARTS)


@dataclass(frozen=True, kw_only=True)
class JointFile:
    """A joint set, and how its table counts.

    `index_base` is the number, 0 or 1, of the first pixel. `unit` is that of coordinates: pixels,
    or shares or percentages of the image's size; None where the file doesn't state it, and they are
    pixels. `missing` is the x and y of a joint that is not annotated, None where its cells are
    empty.
    """

    joint_set: JointSet
    index_base: int
    unit: str | None = None
    missing: float | None = None


def read_joint_file(path: Path) -> JointFile:
    """Read a joint-set file. Raises ValueError with file, field, value and what was expected."""
    try:
        content = parse_toml(read_whole(path), str(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    try:
        return _joint_file(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def joint_file_text(joint_set: JointSet) -> str:
    """Write a joint set with its first measure as a joint-set file, which counts pixels from 0."""
    content, measure = joint_set.to_json(), joint_set.measures[0]
    is_segment = measure.normaliser == "segment"
    segment = [joint_set.joints[joint] for joint in measure.segment]
    groups = ", ".join(f"{json.dumps(name)} = {_toml(v)}" for name, v in content["groups"].items())
    lines = {
        "name": _toml(joint_set.name),
        "joints": _toml(content["joints"]),
        "flip_pairs": _toml(content["flip_pairs"]),
        "limbs": _toml(content["limbs"]),
        "groups": f"{{ {groups} }}",
        "in_mean": _toml(content["in_mean"]),
        "normaliser": _toml(segment if is_segment else measure.normaliser),
        "thresholds": _toml(list(measure.thresholds)),
        **({"sigmas": _toml(content["sigmas"])} if joint_set.sigmas else {}),
        "index_base": "0",
    }
    return "".join(f"{name} = {value}\n" for name, value in lines.items())


def _toml(value: str | list[Any]) -> str:
    # Texts, numbers and lists of them are alike in JSON and TOML.
    return json.dumps(value)


def _joint_file(content: dict[str, Any]) -> JointFile:
    given = fields_of(
        content,
        "joint set",
        required=("name", "joints", "normaliser", "index_base"),
        optional=(
            "flip_pairs",
            "limbs",
            "groups",
            "in_mean",
            "sigmas",
            "thresholds",
            "unit",
            "missing",
        ),
    )
    defaults = {"flip_pairs": [], "limbs": [], "groups": {}, "in_mean": given["joints"]}
    read = read_fields(defaults | given)
    joint_set = JointSet(**read, measures=(_measure(given, read["joints"]),))
    check_sides(joint_set, joint_set.joints)
    index_base = given["index_base"]
    if type(index_base) is not int or index_base not in (0, 1):
        raise ValueError(
            "index_base must be the number of the first pixel in the table, 0 or 1, "
            f"got {index_base!r}"
        )
    unit, missing = given.get("unit"), given.get("missing")
    if unit not in (None, *_UNITS):
        raise ValueError(f"unit must be one of {', '.join(_UNITS)}, got {unit!r}")
    return JointFile(
        joint_set=joint_set,
        index_base=index_base,
        unit=unit,
        missing=None if missing is None else number_of(missing, "missing"),
    )


def _measure(given: dict[str, Any], joints: Sequence[str]) -> Measure:
    """Return the normaliser's measure, with the thresholds of the file if it has any."""
    normaliser = given["normaliser"]
    if isinstance(normaliser, list):
        pair = JointNames(joints).pair(normaliser, "normaliser")
        measure = replace(PCK_SEGMENT, segment=pair)
    elif str(normaliser) in _MEASURES:
        measure = _MEASURES[normaliser]
    else:
        close = did_you_mean(str(normaliser), _MEASURES)
        raise ValueError(
            f"normaliser must be {', '.join(map(repr, _MEASURES))} or a list of two joints, got "
            f"{normaliser!r}{close}"
        )
    if "thresholds" not in given:
        return measure
    return replace(measure, thresholds=items_of(given["thresholds"], "thresholds", number_of))


def check_sides(joint_set: JointSet, names: Sequence[str]) -> None:
    """Raise ValueError if joints named left and right alike are not a flip pair, or pairs wrong.

    `names` are the joints as the file spells them. Without the pair, mirrored images would keep
    their sides.
    """
    mirror = joint_set.mirror
    for first, second in joint_set.flip_pairs:
        side = side_of(names[first])
        if side and side == side_of(names[second]):
            raise ValueError(
                f"flip_pairs has [{names[first]!r}, {names[second]!r}], which are both {side}; "
                "expected joints that change places in a mirrored image"
            )
    for first, second in side_pairs(names):
        if not all(are_sides(names[joint], names[mirror[joint]]) for joint in (first, second)):
            raise ValueError(
                f"flip_pairs lacks [{names[first]!r}, {names[second]!r}], which change places in a "
                "mirrored image"
            )
