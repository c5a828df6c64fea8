"""Reader of COCO keypoints (Lin et al., ECCV 2014)."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import (
    OWN_JOINTS,
    Annotations,
    entry,
    frame_joints,
    image_counter,
    image_size_in,
    numbers,
    path_in,
    person_of,
    positive,
    read_json,
    records_of,
)
from pipeline.io.parsing import Identifier, identifier_of
from pipeline.pose.geometry import frame_box
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Person, Visibility

_NUM_KEYPOINTS = 3 * len(COCO.joints)
_STATES = {0, 1, 2}
_MOST_NAMED = 3


def read_coco(path: Path) -> Annotations:
    """Read person_keypoints_*.json, 0-based: 17 x [x, y, v].

    v is 0 for unlabelled, 1 for occluded, 2 for visible. The frame is a square a quarter wider than
    the box's longer side, or where there is no box of a size than the labelled joints. Crowds,
    annotations without keypoints, without a labelled joint, or with one and no box, and an
    annotation that is there again are skipped. There is no head box. Raises ValueError naming
    file, annotation and field, and where a category's keypoints are not COCO's.
    """
    contents = read_json(path)
    images = _images(path, contents)
    categories = _Categories(path=path, contents=contents)
    people: list[Person] = []
    skipped: Counter[str] = Counter()
    number_in = image_counter()
    known: set[tuple[Any, ...]] = set()
    for number, record in enumerate(records_of(contents, "annotations", str(path))):
        where = f"{path}: annotations[{number}]"
        found: Person | str | None = _reason_to_skip(record)
        if found is None:
            categories.check(record, where)
            found = _person(record, images, known, where)
        if isinstance(found, Person):
            people.append(replace(found, person=number_in(found.image)))
        else:
            skipped[found] += 1
    without_box = sum(person.box is None for person in people)
    notes = [f"{without_box:,} people have no box of a size: their joints frame them"]
    return Annotations(
        joint_set=COCO,
        people=people,
        skipped=skipped,
        notes=tuple(notes if without_box else ()),
    )


@dataclass(frozen=True, kw_only=True)
class _Image:
    place: str
    name: str
    size: tuple[int, int] | None


def _images(path: Path, contents: Any) -> dict[Identifier, _Image]:
    """Read the images by id. Raises ValueError if two files share one."""
    images: dict[Identifier, _Image] = {}
    for number, record in enumerate(records_of(contents, "images", str(path))):
        place = f"images[{number}]"
        where = f"{path}: {place}"
        name = path_in(record, "file_name", where)
        size = image_size_in(record, ("width", "height"), where)
        image = _Image(place=place, name=name, size=size)
        number_of_it = identifier_of(entry(record, "id", where), f"{where}: id")
        other = images.setdefault(number_of_it, image)
        if other.name != name:
            raise ValueError(
                f"{path}: {other.place} ({other.name}) and {place} ({name}) share the id "
                f"{number_of_it!r}, expected one id an image; number images and annotations anew "
                "before joining files"
            )
    return images


@dataclass(frozen=True, kw_only=True)
class _Categories:
    """The categories of a file, whose keypoints have to be COCO's where they are used."""

    path: Path
    contents: Mapping[str, Any]

    @cached_property
    def _faults(self) -> dict[Identifier, str | None]:
        """Reason why each category's annotations can't be read, by its id; None if they can."""
        if not self.contents.get("categories"):
            return {}
        found: dict[Identifier, str | None] = {}
        for number, record in enumerate(records_of(self.contents, "categories", str(self.path))):
            place = f"categories[{number}]"
            where = f"{self.path}: {place}"
            known = identifier_of(entry(record, "id", where), f"{where}: id")
            difference = _difference(record.get("keypoints"), f"{where}: keypoints")
            found[known] = difference and f"{place} ({record.get('name', known)}) {difference}"
        return found

    def check(self, record: Mapping[str, Any], where: str) -> None:
        """Raise ValueError unless an annotation is of a category with COCO's keypoints."""
        if not self._faults:
            raise ValueError(
                f"{self.path}: there are no categories, expected one whose keypoints are COCO's "
                f"{len(COCO.joints)} names in their order, since nothing else tells what the "
                f"joints are; {OWN_JOINTS}"
            )
        fault = self._faults[self._category(record, where)]
        if fault:
            raise ValueError(f"{self.path}: {fault}; {OWN_JOINTS}")

    def _category(self, record: Mapping[str, Any], where: str) -> Identifier:
        value = record.get("category_id")
        if value is None and len(self._faults) == 1:
            return next(iter(self._faults))
        category = identifier_of(value, f"{where}: category_id")
        if category not in self._faults:
            raise ValueError(f"{where}: category_id {category!r} is not among the categories")
        return category


def _difference(names: Any, where: str) -> str | None:
    """Tell how a category's keypoints differ from COCO's; None if they don't."""
    if not names:
        return f"names no keypoints, expected COCO's {len(COCO.joints)}"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} must be a list of names, got {names!r:.80}")
    found, expected = list(map(_plain, names)), list(map(_plain, COCO.joints))
    if found == expected:
        return None
    if sorted(found) == sorted(expected):
        place = next(place for place, name in enumerate(found) if name != expected[place])
        return (
            f"has COCO's keypoints in another order: keypoints[{place}] is {names[place]!r}, "
            f"expected {COCO.joints[place]!r}"
        )
    other = [name for name, plain in zip(names, found, strict=True) if plain not in expected]
    absent = [name for name, plain in zip(COCO.joints, expected, strict=True) if plain not in found]
    return (
        f"has {len(names)} keypoints that are not COCO's {len(COCO.joints)}"
        + (f": {_some(other)} are unknown" if other else "")
        + (f"{' and' if other else ':'} {_some(absent)} are absent" if absent else "")
    )


def _plain(name: str) -> str:
    """Return a joint's name without case and separators: tools write Left Eye or left-eye."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _reason_to_skip(record: Any) -> str | None:
    if record.get("iscrowd"):
        return "crowd"
    keypoints = record.get("keypoints")
    if keypoints is None or keypoints == []:
        return "no keypoints"
    if isinstance(keypoints, list) and not any(keypoints[2::3]):
        return "no labelled joint"
    return None


def _person(
    record: Mapping[str, Any],
    images: Mapping[Identifier, _Image],
    known: set[tuple[Any, ...]],
    where: str,
) -> Person | str:
    """Make an annotation's person, or return the reason to skip it. `known` has those before."""
    image_id = identifier_of(entry(record, "image_id", where), f"{where}: image_id")
    if image_id not in images:
        raise ValueError(f"{where}: image_id {image_id!r} is not among the images")
    joints, states = _joints(record, where)
    box = _box(record, where)
    if box is None and np.count_nonzero(states) < 2:
        # A frame around one joint has no size.
        return "one labelled joint and no box"
    this = (str(record.get("id")), image_id, joints.tobytes(), states.tobytes())
    if "id" in record and this in known:
        return "the same annotation again"
    known.add(this)
    image = images[image_id]
    center, scale = frame_box(box) if box else frame_joints(joints, states)
    return person_of(
        joints,
        states,
        image=image.name,
        person=0,
        center=center,
        scale=scale,
        box=box,
        image_size=image.size,
        area=_area(record, where),
    )


def _joints(record: Mapping[str, Any], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return joints and states. Raises ValueError unless labelled joints have finite pixels."""
    keypoints = record["keypoints"]
    if not isinstance(keypoints, list):
        raise ValueError(f"{where}: keypoints must be a list of numbers, got {keypoints!r:.80}")
    if len(keypoints) != _NUM_KEYPOINTS:
        raise ValueError(
            f"{where}: keypoints has {len(keypoints)} numbers, expected {_NUM_KEYPOINTS}; "
            f"{OWN_JOINTS}"
        )
    visibility = [state or 0 for state in keypoints[2::3]]
    if not all(isinstance(state, int | float) and state in _STATES for state in visibility):
        raise ValueError(f"{where}: visibility must be 0, 1 or 2, got {keypoints[2::3]}")
    states = np.array(visibility, np.int64)
    joints = np.zeros((len(states), 2))
    for joint in np.flatnonzero(states != Visibility.MISSING).tolist():
        joints[joint] = numbers(
            keypoints[3 * joint : 3 * joint + 2],
            (2,),
            f"{where}: keypoints of {COCO.joints[joint]}, which is labelled",
        )
    return joints, states


def _area(record: Mapping[str, Any], where: str) -> float | None:
    """Return the area; None where it is absent, null, or 0."""
    value = record.get("area") or None
    return None if value is None else positive(value, f"{where}: area")


def _box(record: Mapping[str, Any], where: str) -> tuple[float, float, float, float] | None:
    """Return the box; None where it is absent, null, empty, or has no size."""
    value = record.get("bbox")
    if value is None or value == []:
        return None
    left, top, width, height = numbers(value, (4,), f"{where}: bbox").tolist()
    return (left, top, width, height) if min(width, height) > 0 else None
