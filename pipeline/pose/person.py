"""The record of all annotation readers: one person in one photograph."""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

_FRAME = re.compile(r"(.+)#((?:\w+/)?[0-9]{1,12})", re.ASCII)

Split = Literal["train", "val"]


class Visibility(IntEnum):
    """State of a joint, as annotated. A coordinate of zero says nothing about it."""

    MISSING = 0
    OCCLUDED = 1
    VISIBLE = 2


@dataclass(frozen=True, kw_only=True)
class Person:
    """One annotated person.

    `image` is the path of a photograph, or PATH#NUMBER of a frame in a video, counted from 0.
    Coordinates are pixels of the original image, with the first pixel's centre at 0. A network sees
    the square of side 200 * `scale` around `center`. `joints` are (x, y); they may lie outside the
    image, and are undefined where `visibility` is MISSING. `head_size` is 0.6 times the diagonal of
    the head box (MPII). `box` is (x, y, width, height), `image_size` (width, height) in the
    annotations. `area` is that of the person's outline in square pixels (COCO). `split` is the
    source's own. `name` stands for the image in keys where its path
    would give the name of another. A value is None where the source has none.
    """

    image: str
    person: int
    center: tuple[float, float]
    scale: float
    joints: tuple[tuple[float, float], ...]
    visibility: tuple[Visibility, ...]
    head_size: float | None = None
    box: tuple[float, float, float, float] | None = None
    image_size: tuple[int, int] | None = None
    area: float | None = None
    split: Split | None = None
    name: str = ""

    @property
    def key(self) -> str:
        """Name within a dataset: that of the image, and the person's index."""
        return f"{self.name or image_name(self.image)}_{self.person:02d}"


def frame_of(image: str) -> tuple[str, str]:
    """Split the name of a frame, PATH#NUMBER, into the path and the place in it.

    In a file of several videos the place is VIDEO/NUMBER. It is empty for any other picture.
    """
    found = _FRAME.fullmatch(image)
    return (found[1], found[2]) if found else (image, "")


def image_name(image: str) -> str:
    """Return an image's name in keys: its path without suffix, slashes and dots.

    The number of a frame has six digits, so that names are in its order.
    """
    path, place = frame_of(image)
    stem, _, _ = path.rpartition(".")
    if place:
        group, _, number = place.rpartition("/")
        stem = "-".join(filter(None, (stem or path, group, number.zfill(6))))
    return (stem or path).replace("/", "-").replace(".", "-")
