"""Places of people in pictures, from COCO annotations, COCO detections or a CSV table."""

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

# COCO's id of the category person; detections don't have its name.
_PERSON = 1


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
    person, by reason.
    """

    path: Path
    places: Mapping[tuple[str | int, int | None], list[Place]]
    ids: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def matched(self, pictures: Iterable[Path]) -> "MatchedBoxes":
        """Match pictures to names in the file.

        A picture's path ends with its name in the file, or the file's name with its number.
        Raises ValueError if several pictures match one name.
        """
        names = {name for name, _ in self.places}
        by_last: dict[str, list[str]] = defaultdict(list)
        for name in names | set(self.ids):
            if isinstance(name, str):
                by_last[PurePath(name).name].append(name)
        found: dict[Path, str | int] = {}
        taken: dict[str | int, Path] = {}
        for picture in pictures:
            matching = _matching_name(picture, by_last, names)
            if matching is None:
                continue
            if matching in taken:
                raise ValueError(
                    f"{self.path}: {matching!r} may be {taken[matching]} or {picture}; "
                    "give paths that tell them apart"
                )
            found[picture], taken[matching] = matching, picture
        return MatchedBoxes(boxes=self, names=found, unknown=len(names - set(taken)))


def _matching_name(
    picture: Path, by_last: Mapping[str, list[str]], names: set[str | int]
) -> str | int | None:
    parts = picture.absolute().parts
    candidates = [(PurePath(name).parts, name) for name in by_last.get(picture.name, [])]
    ends = [(len(ending), name) for ending, name in candidates if parts[-len(ending) :] == ending]
    if ends:
        return max(ends)[1]
    number = image_number(picture)
    return number if number in names else None


@dataclass(frozen=True, kw_only=True)
class MatchedBoxes:
    """Boxes with pictures' names in the file; `unknown` counts names without a picture."""

    boxes: Boxes
    names: Mapping[Path, str | int]
    unknown: int

    def of(self, picture: Path, frame: int | None) -> list[Place]:
        """Return the people in a picture; none if it is not in the file."""
        name = self.names.get(picture)
        return [] if name is None else self.boxes.places.get((name, frame), [])

    def image_id(self, picture: Path) -> int | None:
        """Return the picture's number in the file, if it has one."""
        name = self.names.get(picture)
        return name if isinstance(name, int) else self.boxes.ids.get(str(name))


def image_number(picture: Path) -> int | None:
    """Return the number at the end of a name, as in COCO: 397133 of 000000397133.jpg."""
    digits = re.search(r"\d+$", picture.stem)
    return int(digits[0]) if digits else None


def read_boxes(path: Path) -> Boxes:
    """Read a .json or .csv file of boxes. Raises ValueError naming file, entry and field."""
    if path.suffix == ".csv":
        return _read_csv(path)
    if path.suffixes[-1:] not in ([".json"], [".gz"]):
        raise ValueError(f"{path}: expected a .json or .csv file")
    content = read_json(path)
    if isinstance(content, list):
        return _read_records(path, "", content, None, _PERSON)
    names: dict[Any, str] = {}
    for number, image in enumerate(entry(content, "images", str(path))):
        where = f"{path}: images[{number}]"
        names[entry(image, "id", where)] = str(entry(image, "file_name", where))
    person = _category(content.get("categories"), path)
    records = entry(content, "annotations", str(path))
    return _read_records(path, "annotations", records, names, person)


def _read_records(
    path: Path,
    label: str,
    records: Iterable[Any],
    names: Mapping[Any, str] | None,
    person: Any,
) -> Boxes:
    """Read COCO annotations, or without `names` of the images COCO detections."""
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for number, record in enumerate(records):
        where = f"{path}: {label}[{number}]"
        name = entry(record, "image_id", where)
        if names is not None:
            if name not in names:
                raise ValueError(f"{where}: image_id {name!r} is not among the images")
            name = names[name]
        elif isinstance(name, bool) or not isinstance(name, int | str):
            raise ValueError(f"{where}: image_id must be a number or a name, got {name!r:.80}")
        if record.get("iscrowd"):
            left_out["crowd"] += 1
        elif person is not None and record.get("category_id", person) != person:
            left_out["of another category"] += 1
        else:
            places[name, None].append(_place_of_record(record, where))
    ids = {name: number for number, name in (names or {}).items() if isinstance(number, int)}
    return Boxes(path=path, places=places, ids=ids, left_out=left_out)


def _category(categories: Any, path: Path) -> Any:
    """Return the id of the category of people; None if the file has no categories."""
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


def _place_of_record(record: Mapping[str, Any], where: str) -> Place:
    box, score = entry(record, "bbox", where), record.get("score")
    if not isinstance(box, list) or len(box) != len(BOX):
        raise ValueError(f"{where}: bbox must be [x, y, width, height], got {box!r:.80}")
    numbers = [_number(value, f"{where}: bbox") for value in box]
    return _place(numbers, None if score is None else _number(score, f"{where}: score"), where)


def _place(numbers: list[float], score: float | None, where: str) -> Place:
    """Return the place of a box, or with three numbers of a frame."""
    try:
        if len(numbers) == len(FRAME):
            x, y, scale = numbers
            return Place(frame=Frame(center=(x, y), scale=scale), score=score)
        left, top, width, height = box = numbers[0], numbers[1], numbers[2], numbers[3]
        return Place(frame=Frame.of_box(left, top, width, height), box=box, score=score)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_csv(path: Path) -> Boxes:
    """Read a table with a row per person: image, box or frame, and optionally frame and score."""
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
            f"{path}: columns must be image and either {', '.join(BOX)} or {', '.join(FRAME)}, "
            f"got {columns}"
        )
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    for line, row in enumerate(rows, start=2):
        where = f"{path}: line {line}"
        name, frame = row["image"], _optional(row, "frame", where)
        if not name:
            raise ValueError(f"{where}: image is empty")
        if frame is not None and not (frame.is_integer() and frame >= 0):
            raise ValueError(
                f"{where}: frame must be a whole number of at least 0, got {row['frame']!r}"
            )
        numbers = [_number(row[column], f"{where}: {column}") for column in kinds[0]]
        place = _place(numbers, _optional(row, "score", where), where)
        places[name, None if frame is None else int(frame)].append(place)
    return Boxes(path=path, places=places)


def _optional(row: Mapping[str, Any], name: str, where: str) -> float | None:
    return _number(row[name], f"{where}: {name}") if row.get(name) else None


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where} must be a number, got {value!r:.80}") from None
