"""Joint-set files: a user's own joints in TOML, and how their table counts pixels."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.io.parsing import did_you_mean, fields_of, text_of
from pipeline.pose.joint_set import (
    JointSet,
    Measure,
    groups_of,
    indices_of,
    numbers_of,
    pair_of,
    pairs_of,
    texts_of,
)

_OTHER_SIDE = {"left": "right", "Left": "Right", "l": "r", "L": "R"}


@dataclass(frozen=True, kw_only=True)
class JointFile:
    """A joint set, and the number, 0 or 1, that its table gives the first pixel."""

    joint_set: JointSet
    index_base: int


def read_joint_file(path: Path) -> JointFile:
    """Read a joint-set file. Raises ValueError naming file, field, value and what was expected."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as TOML: {error}") from error
    try:
        return _joint_file(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _joint_file(content: dict[str, Any]) -> JointFile:
    given = fields_of(
        content,
        "joint set",
        required=("name", "joints", "normaliser", "index_base"),
        optional=("flip_pairs", "limbs", "groups", "in_mean", "thresholds"),
    )
    joints = texts_of(given["joints"], "joints")
    joint_set = JointSet(
        name=text_of(given["name"], "name"),
        joints=joints,
        flip_pairs=pairs_of(given.get("flip_pairs", []), joints, "flip_pairs"),
        limbs=pairs_of(given.get("limbs", []), joints, "limbs"),
        groups=groups_of(given.get("groups", {}), joints),
        in_mean=indices_of(given.get("in_mean", list(joints)), joints, "in_mean"),
        measures=(_measure(given, joints),),
    )
    _check_columns(joints)
    _check_sides(joint_set)
    index_base = given["index_base"]
    if type(index_base) is not int or index_base not in (0, 1):
        raise ValueError(
            "index_base must be the number of the first pixel in the table, 0 or 1, "
            f"got {index_base!r}"
        )
    return JointFile(joint_set=joint_set, index_base=index_base)


def _measure(given: dict[str, Any], joints: Sequence[str]) -> Measure:
    """The measure that a normaliser stands for, with its usual thresholds unless the file has its own."""
    normaliser = given["normaliser"]
    if normaliser == "head":
        measure = Measure(key="pckh", title="PCKh", normaliser="head", thresholds=(0.5, 0.1))
    elif normaliser == "box":
        measure = Measure(key="pck_box", title="PCK-box", normaliser="box", thresholds=(0.05, 0.2))
    elif isinstance(normaliser, list):
        measure = Measure(
            key="pck_segment",
            title="PCK-segment",
            normaliser="segment",
            segment=pair_of(normaliser, joints, "normaliser"),
            thresholds=(0.2, 0.1),
        )
    else:
        close = did_you_mean(str(normaliser), ("head", "box"))
        raise ValueError(
            f"normaliser must be 'head', 'box' or a list of two joints, got {normaliser!r}{close}"
        )
    if "thresholds" not in given:
        return measure
    return replace(measure, thresholds=numbers_of(given["thresholds"], "thresholds"))


def _check_columns(joints: Sequence[str]) -> None:
    """Raise ValueError if a joint's columns in the table would be those of box or centre."""
    for name in ("box", "center"):
        if name in joints:
            raise ValueError(
                f"joints must not name {name!r}: {name}_x and {name}_y are columns of their own"
            )


def _check_sides(joint_set: JointSet) -> None:
    """Raise ValueError if joints called left and right alike are no pair: mirrored images would swap them."""
    names, mirror = joint_set.joints, joint_set.mirror
    for joint, name in enumerate(names):
        other = "_".join(_OTHER_SIDE.get(part, part) for part in name.split("_"))
        if other != name and other in names and names[mirror[joint]] != other:
            raise ValueError(
                f"flip_pairs lacks [{name!r}, {other!r}], which change places in a mirrored image"
            )
