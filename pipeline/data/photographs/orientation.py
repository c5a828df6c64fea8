"""EXIF orientation: whether joints are of the photograph as stored or held upright."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from pipeline.data.photographs.header import QUARTER_TURNS, Header
from pipeline.pose.geometry import Matrix, transform
from pipeline.pose.person import Person

Held = Literal["upright", "stored"]
_MIRRORED = (2, 4, 5, 7)
_UPSIDE_DOWN, _RIGHT_TO_LEFT = (3, 4, 7, 8), (2, 3, 6, 7)


def stated_orientation(person: Person, header: Header) -> Held | None:
    """Tell by the size in the annotations how they hold a photograph; None if it does not tell."""
    if person.image_size is None or header.upright_size == header.stored_size:
        return None
    sizes: Mapping[tuple[int, int], Held] = {
        header.upright_size: "upright",
        header.stored_size: "stored",
    }
    return sizes.get(person.image_size)


def orientations(
    people: Iterable[Person], headers: Mapping[str, Header], default: Held
) -> dict[str, Held]:
    """Tell for each image with an EXIF orientation how its annotations hold it.

    The size in the annotations decides. Images whose sizes don't tell are held as those whose do,
    where these agree, and otherwise as `default` says.
    """
    stated: dict[str, Held | None] = {
        person.image: stated_orientation(person, headers[person.image])
        for person in people
        if headers[person.image].orientation != 1
    }
    known = {held for held in stated.values() if held}
    usual = known.pop() if len(known) == 1 else default
    return {image: held or usual for image, held in stated.items()}


def held_upright(person: Person, header: Header, mirror: Sequence[int]) -> Person:
    """Return a person of the photograph as stored, in pixels of the photograph held upright.

    Where EXIF mirrors the photograph, left and right change places as `mirror` says.
    """
    matrix = upright_from_stored(header)
    joints = transform(np.array(person.joints), matrix).tolist()
    order = mirror if header.orientation in _MIRRORED else range(len(mirror))
    x, y = transform(np.array(person.center), matrix).tolist()
    size = person.image_size
    is_turned = header.orientation in QUARTER_TURNS
    return replace(
        person,
        joints=tuple((joints[joint][0], joints[joint][1]) for joint in order),
        visibility=tuple(person.visibility[joint] for joint in order),
        center=(x, y),
        box=None if person.box is None else _turned_box(person.box, matrix, is_turned),
        image_size=size[::-1] if size and is_turned else size,
    )


def upright_from_stored(header: Header) -> Matrix:
    """Map pixels of a photograph as stored to those of it held upright."""
    matrix = np.eye(3)
    if header.orientation in QUARTER_TURNS:
        matrix = matrix[[1, 0, 2]]
    width, height = header.upright_size
    if header.orientation in _RIGHT_TO_LEFT:
        matrix = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
    if header.orientation in _UPSIDE_DOWN:
        matrix = np.array([[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]) @ matrix
    return matrix


def _turned_box(
    box: tuple[float, float, float, float], matrix: Matrix, is_turned: bool
) -> tuple[float, float, float, float]:
    left, top, width, height = box
    # Boxes start at a pixel's edge, and points count from its centre.
    middle = np.array([left + width / 2 - 0.5, top + height / 2 - 0.5])
    x, y = transform(middle, matrix).tolist()
    if is_turned:
        width, height = height, width
    return x + 0.5 - width / 2, y + 0.5 - height / 2, width, height
