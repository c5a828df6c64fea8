"""Where people are in pictures, as a file says it: COCO's annotations or detections, or a CSV table."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pipeline.data.formats.annotations import entry, read_json
from pipeline.inference.predictor import Frame
from pipeline.inference.pyfunc import BOX, FRAME

# COCO's number of the category person, which detections give without its name.
_PERSON = 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one person is: a frame, with the box and the detector's score that it is from, if any."""

    frame: Frame
    box: tuple[float, float, float, float] | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The places of people by the picture's name in the file, or its number in COCO, and frame number in a video.

    `left_out` counts entries that are no single person, by reason.
    """

    path: Path
    places: Mapping[tuple[str | int, int | None], list[Place]]
    ids: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def matched(self, pictures: Iterable[Path]) -> "MatchedBoxes":
        """Find each picture's name in the file: a path that ends with it, or a number at the end of the file's name.

        Raises ValueError if a name means several pictures.
        """
        names = {name for name, _ in self.places}
        by_last: dict[str, list[str]] = defaultdict(list)
        for name in names | set(self.ids):
            if isinstance(name, str):
                by_last[PurePath(name).name].append(name)
        found: dict[Path, str | int] = {}
        taken: dict[str | int, Path] = {}
        for picture in pictures:
            meant = self._name_of(picture, by_last, names)
            if meant is None:
                continue
            if meant in taken:
                raise ValueError(
                    f"{self.path}: {meant!r} may be {taken[meant]} or {picture}; give paths that tell them apart"
                )
            found[picture], taken[meant] = meant, picture
        return MatchedBoxes(boxes=self, names=found, unknown=len(names - set(taken)))

    def _name_of(
        self, picture: Path, by_last: Mapping[str, list[str]], names: set[str | int]
    ) -> str | int | None:
        parts = picture.absolute().parts
        ends = [
            name
            for name in by_last.get(picture.name, [])
            if parts[-len(PurePath(name).parts) :] == PurePath(name).parts
        ]
        if ends:
            return max(ends, key=lambda name: len(PurePath(name).parts))
        number = image_number(picture)
        return number if number in names else None


@dataclass(frozen=True, kw_only=True)
class MatchedBoxes:
    """Places of people by path; `unknown` counts pictures of the file that are not among the inputs."""

    boxes: Boxes
    names: Mapping[Path, str | int]
    unknown: int

    def of(self, picture: Path, frame: int | None) -> list[Place]:
        """The people of a picture; none if the file does not know it."""
        name = self.names.get(picture)
        return [] if name is None else self.boxes.places.get((name, frame), [])

    def image_id(self, picture: Path) -> int | None:
        """The picture's number, if the file gives it one."""
        name = self.names.get(picture)
        return name if isinstance(name, int) else self.boxes.ids.get(str(name))


def image_number(picture: Path) -> int | None:
    """The number at the end of a picture's name, as COCO's pictures have it: 397133 of 000000397133.jpg."""
    digits = re.search(r"\d+$", picture.stem)
    return int(digits[0]) if digits else None


def read_boxes(path: Path) -> Boxes:
    """Read a .json or .csv file of boxes. Raises ValueError naming file, entry and field."""
    if path.suffix == ".csv":
        return _read_csv(path)
    if path.suffixes[-1:] in ([".json"], [".gz"]):
        content = read_json(path)
        return (
            _detections(path, content) if isinstance(content, list) else _annotations(path, content)
        )
    raise ValueError(f"{path}: expected a .json or .csv file")


def _annotations(path: Path, content: Any) -> Boxes:
    """COCO's annotation file: images, annotations and, if it says so, categories."""
    names: dict[Any, str] = {}
    for number, image in enumerate(entry(content, "images", str(path))):
        where = f"{path}: images[{number}]"
        names[entry(image, "id", where)] = str(entry(image, "file_name", where))
    person = _category(content.get("categories"), path)
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for number, record in enumerate(entry(content, "annotations", str(path))):
        where = f"{path}: annotations[{number}]"
        image_id = entry(record, "image_id", where)
        if image_id not in names:
            raise ValueError(f"{where}: image_id {image_id!r} is not among the images")
        if reason := _reason_to_leave_out(record, person):
            left_out[reason] += 1
        else:
            places[names[image_id], None].append(_place_of(record, where))
    ids = {name: number for number, name in names.items() if isinstance(number, int)}
    return Boxes(path=path, places=places, ids=ids, left_out=left_out)


def _detections(path: Path, content: list[Any]) -> Boxes:
    """COCO's results of a detector: a list, each with image_id, bbox and score."""
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for number, record in enumerate(content):
        where = f"{path}: [{number}]"
        image_id = entry(record, "image_id", where)
        if isinstance(image_id, bool) or not isinstance(image_id, int | str):
            raise ValueError(f"{where}: image_id must be a number or a name, got {image_id!r:.80}")
        if reason := _reason_to_leave_out(record, _PERSON):
            left_out[reason] += 1
        else:
            places[image_id, None].append(_place_of(record, where))
    return Boxes(path=path, places=places, left_out=left_out)


def _category(categories: Any, path: Path) -> Any:
    """The id of the category that people have; None where the file has no categories."""
    if not categories:
        return None
    known = {
        entry(one, "name", f"{path}: categories[{n}]"): one.get("id")
        for n, one in enumerate(categories)
    }
    if "person" in known:
        return known["person"]
    if len(known) == 1:
        return next(iter(known.values()))
    raise ValueError(f"{path}: none of the categories is 'person': {', '.join(map(str, known))}")


def _reason_to_leave_out(record: Mapping[str, Any], person: Any) -> str:
    if record.get("iscrowd"):
        return "crowd"
    if person is not None and record.get("category_id", person) != person:
        return "of another category"
    return ""


def _place_of(record: Mapping[str, Any], where: str) -> Place:
    numbers = entry(record, "bbox", where)
    if not isinstance(numbers, list) or len(numbers) != len(BOX):
        raise ValueError(f"{where}: bbox must be [x, y, width, height], got {numbers!r:.80}")
    score = record.get("score")
    return _boxed(
        [_number(value, f"{where}: bbox") for value in numbers],
        None if score is None else _number(score, f"{where}: score"),
        where,
    )


def _boxed(numbers: list[float], score: float | None, where: str) -> Place:
    left, top, width, height = numbers
    try:
        frame = Frame.of_box(left, top, width, height)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Place(frame=frame, box=(left, top, width, height), score=score)


def _read_csv(path: Path) -> Boxes:
    """A row a person: image, then x, y, width, height or center_x, center_y, scale; a video's have frame; score if known."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not readable as CSV: {error}") from None
    kinds = [kind for kind in (BOX, FRAME) if set(kind) <= set(columns)]
    if "image" not in columns or len(kinds) != 1:
        raise ValueError(
            f"{path}: columns must be image and either {', '.join(BOX)} or {', '.join(FRAME)}, got {columns}"
        )
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    for line, row in enumerate(rows, start=2):
        where = f"{path}: line {line}"
        name, frame = row["image"], _optional(row, "frame", where)
        if not name:
            raise ValueError(f"{where}: image is empty")
        if frame is not None and not (frame.is_integer() and frame >= 0):
            raise ValueError(
                f"{where}: frame must be a whole number from 0 on, got {row['frame']!r}"
            )
        key = (name, None if frame is None else int(frame))
        places[key].append(_place_of_row(row, kinds[0], where))
    return Boxes(path=path, places=places)


def _place_of_row(row: Mapping[str, Any], kind: tuple[str, ...], where: str) -> Place:
    numbers = [_number(row[name], f"{where}: {name}") for name in kind]
    score = _optional(row, "score", where)
    if kind == BOX:
        return _boxed(numbers, score, where)
    try:
        frame = Frame(center=(numbers[0], numbers[1]), scale=numbers[2])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Place(frame=frame, score=score)


def _optional(row: Mapping[str, Any], name: str, where: str) -> float | None:
    return _number(row[name], f"{where}: {name}") if row.get(name) else None


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where} must be a number, got {value!r:.80}") from None
