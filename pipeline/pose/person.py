"""The record that every annotation reader yields: one person in one photograph."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Split = Literal["train", "val"]


class Visibility(IntEnum):
    """State of a joint. Never inferred from a coordinate being zero."""

    MISSING = 0
    OCCLUDED = 1
    VISIBLE = 2


@dataclass(frozen=True, kw_only=True)
class Person:
    """One annotated person. Coordinates are pixels of the original image, the first pixel's centre at 0.

    `center` and `scale` frame the person: the square of side 200 * scale
    around `center` is what a network sees. `joints` are (x, y), and mean
    nothing where `visibility` is MISSING; they may lie outside the image.
    `head_size` is 0.6 times the diagonal of the head box (MPII), None where
    the source has no head box. `box` is (x, y, width, height), None where the
    source has none. `image_size` is (width, height) as the annotations state
    it. `split` is the source's own, None where it has none.
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
    split: Split | None = None

    @property
    def key(self) -> str:
        """Name of the person within a dataset: the image's path without its suffix, and the index."""
        stem, _, _ = self.image.rpartition(".")
        return f"{(stem or self.image).replace('/', '-').replace('.', '-')}_{self.person:02d}"
