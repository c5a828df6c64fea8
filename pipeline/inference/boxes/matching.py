"""Places of people in pictures, and the pictures that the names in a file of boxes mean."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from pipeline.inference.predictor import Frame
from pipeline.io.parsing import composed, nearest_name

# Names without a picture for which the nearest picture is looked up.
_MOST_NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class Place:
    """A person's frame, with the box that it is computed from and the detector's score, if any."""

    frame: Frame
    box: tuple[float, float, float, float] | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Places of people in the file `path`, by the picture's name or COCO number and the frame.

    `ids` has COCO's numbers of pictures by name. `left_out` counts entries that are not a single
    person, by reason. `category` describes which of several categories is taken.
    """

    path: Path
    places: Mapping[tuple[str | int, int | None], list[Place]]
    ids: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    category: str = ""

    def matched(self, pictures: Iterable[Path]) -> "MatchedBoxes":
        """Match pictures to names in the file.

        A picture's path ends with its name in the file, with or without the suffix, or the file's
        name with its number. Raises ValueError if several pictures match one name.
        """
        pictures = list(pictures)
        names = {name for name, _ in self.places}
        known = _Names(names | set(self.ids), names)
        found: dict[Path, str | int] = {}
        taken: dict[str | int, Path] = {}
        for picture in pictures:
            matching = known.of(picture)
            if matching is None:
                continue
            if matching in taken:
                raise ValueError(
                    f"{self.path}: {matching!r} may be {taken[matching]} or {picture}; "
                    "give paths that tell them apart"
                )
            found[picture], taken[matching] = matching, picture
        unknown = sorted(names - set(taken), key=str)
        files = [picture.name for picture in pictures if picture not in found]
        return MatchedBoxes(
            boxes=self,
            names=found,
            unknown=len(unknown),
            nearest={name: _nearest(name, files) for name in unknown[:_MOST_NEAREST]},
        )


class _Names:
    """Names of a file of boxes, by the last part of their paths, in Unicode's composed form."""

    def __init__(self, names: Iterable[str | int], numbers: Iterable[str | int]) -> None:
        self._numbers = {number for number in numbers if isinstance(number, int)}
        self._by_last: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for name in names:
            if isinstance(name, str):
                parts = PurePath(composed(name)).parts
                self._by_last[parts[-1] if parts else ""].append((parts, name))

    def of(self, picture: Path) -> str | int | None:
        """Return the longest name that a picture's path ends with, else its number if known."""
        path = Path(composed(str(picture.absolute())))
        for parts in (path.parts, path.with_suffix("").parts):
            ends = [
                (len(ending), name)
                for ending, name in self._by_last.get(parts[-1], [])
                if parts[-len(ending) :] == ending
            ]
            if ends:
                return max(ends)[1]
        number = image_number(picture)
        return number if number in self._numbers else None


def _nearest(name: str | int, files: list[str]) -> str | None:
    if isinstance(name, int):
        return None
    last = PurePath(name).name
    if PurePath(last).suffix:
        return nearest_name(last, files)
    stems = {PurePath(file).stem: file for file in files}
    close = nearest_name(last, stems)
    return None if close is None else stems[close]


@dataclass(frozen=True, kw_only=True)
class MatchedBoxes:
    """Boxes with pictures' names in the file.

    `unknown` counts names without a picture; `nearest` has the nearest picture of the first ones.
    """

    boxes: Boxes
    names: Mapping[Path, str | int]
    unknown: int
    nearest: Mapping[str | int, str | None] = field(default_factory=dict)

    def of(self, picture: Path, frame: int | None) -> list[Place]:
        """Return the people in a picture; none if it is not in the file."""
        name = self.names.get(picture)
        return [] if name is None else self.boxes.places.get((name, frame), [])

    def image_id(self, picture: Path) -> int | None:
        """Return the picture's number in the file, if it has one."""
        name = self.names.get(picture)
        return name if isinstance(name, int) else self.boxes.ids.get(str(name))

    def examples(self) -> str:
        """Name some names without a picture, each with the nearest picture if there is one."""
        shown = [
            f"{name!r}" + (f" (nearest: {close})" if close else "")
            for name, close in self.nearest.items()
        ]
        return ", ".join(shown) + ", ..." * (self.unknown > len(shown))


def image_number(picture: Path) -> int | None:
    """Return the number at the end of a name, as in COCO: 397133 of 000000397133.jpg."""
    digits = re.search(r"\d+$", picture.stem)
    return int(digits[0]) if digits else None
