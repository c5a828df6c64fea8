"""Readers of people's boxes: COCO annotations, COCO detections, or a table."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.formats.annotations import entry, read_json
from pipeline.data.formats.plausible import SHARES_BELOW
from pipeline.data.formats.table_cells import Cells, read_cells
from pipeline.inference.boxes.categories import Category, choose_category
from pipeline.inference.boxes.matching import Boxes, Place
from pipeline.inference.predictor import Frame
from pipeline.inference.pyfunc import BOX, FRAME
from pipeline.io.parsing import Identifier, composed, identifier_of, items_of, text_of

# A box's columns in a table of jobs.pack.
_PACKED_BOX = tuple(f"box_{name}" for name in BOX)
_NO_BOX, _NO_SIZE = "without a box", "of no size"


def read_boxes(path: Path, category: str = "") -> Boxes:
    """Read a .json file, or a table as `jobs.pack` reads it, of the entries of one category.

    `category` is an id or a name; if it is empty, people's is chosen. Entries without a box, or
    with an empty one, are left out. Raises ValueError naming file, entry and field.
    """
    if path.suffix.lower() in (".csv", ".parquet"):
        if category:
            raise ValueError(f"--boxes-category {category}: {path} is a table, without categories")
        return _checked(_read_table(path))
    if path.suffix.lower() not in (".json", ".gz"):
        raise ValueError(f"{path}: expected a .json, .csv or .parquet file")
    return _checked(_read_coco(path, category))


def _checked(boxes: Boxes) -> Boxes:
    """Raise ValueError if the file has no box to use, or only shares of pictures."""
    if not boxes.places:
        left_out = ", ".join(f"{count:,} {why}" for why, count in boxes.left_out.items())
        raise ValueError(f"{boxes.path}: expected people's boxes, got {left_out or 'no entry'}")
    sides = [max(place.box[2:]) for found in boxes.places.values() for place in found if place.box]
    if sides and max(sides) < SHARES_BELOW:
        raise ValueError(
            f"{boxes.path}: all {len(sides):,} boxes are below {SHARES_BELOW} px, as shares of "
            "the picture would be; expected pixels: multiply x and width by the picture's width, "
            "y and height by its height"
        )
    return boxes


def _read_coco(path: Path, category: str) -> Boxes:
    content = read_json(path)
    images, names = None, dict[Identifier, str]()
    if isinstance(content, list):
        records, label = content, ""
    elif not isinstance(content, dict):
        raise ValueError(f"{path}: expected COCO's annotations or detections, got {content!r:.80}")
    else:
        images = _image_names(entry(content, "images", str(path)), path)
        listed = content.get("categories") or []
        for record, where in _records(listed, f"{path}: categories"):
            name = text_of(entry(record, "name", where), f"{where}: name")
            number = identifier_of(entry(record, "id", where), f"{where}: id")
            if names.setdefault(number, name) != name:
                raise ValueError(
                    f"{where}: id {number!r} belongs to {names[number]} and to {name}, expected an "
                    "id for each category"
                )
        records, label = entry(content, "annotations", str(path)), "annotations"
    entries = _records(records, f"{path}: {label}")
    categories = [_category_of(record, where) for record, where in entries]
    counts = Counter(one for one in categories if one is not None)
    chosen = choose_category(path, names, counts, category)
    return _places(path, entries, categories, images, chosen)


def _records(value: Any, where: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return a list's records, each with its place in the file."""

    def record_of(item: Any, where: str) -> tuple[Mapping[str, Any], str]:
        if not isinstance(item, Mapping):
            raise ValueError(f"{where} must be an object, got {item!r:.80}")
        return item, where

    return list(items_of(value, where, record_of))


def _image_names(value: Any, path: Path) -> dict[Identifier, str]:
    names: dict[Identifier, str] = {}
    for record, where in _records(value, f"{path}: images"):
        number = identifier_of(entry(record, "id", where), f"{where}: id")
        name = _path_in(text_of(entry(record, "file_name", where), f"{where}: file_name"))
        if names.setdefault(number, name) != name:
            raise ValueError(
                f"{where}: id {number!r} belongs to {names[number]} and to {name}, expected an id "
                "for each image; were two files joined?"
            )
    return names


def _path_in(name: str) -> str:
    """Return a name as a path with slashes, in Unicode's composed form."""
    return composed(name.replace("\\", "/"))


def _category_of(record: Mapping[str, Any], where: str) -> Identifier | None:
    value = record.get("category_id")
    return None if value is None else identifier_of(value, f"{where}: category_id")


def _places(
    path: Path,
    entries: Sequence[tuple[Mapping[str, Any], str]],
    categories: Sequence[Identifier | None],
    images: Mapping[Identifier, str] | None,
    chosen: Category,
) -> Boxes:
    """Place the entries by their image's name, or without `images` by its id."""
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for (record, where), category in zip(entries, categories, strict=True):
        image = identifier_of(entry(record, "image_id", where), f"{where}: image_id")
        if images is not None and image not in images:
            raise ValueError(f"{where}: image_id {image!r} is not among the images")
        name = images[image] if images is not None else image
        place = _place_of_record(record, where)
        if record.get("iscrowd"):
            left_out["crowd"] += 1
        elif chosen.id is not None and category not in (None, chosen.id):
            left_out["of another category"] += 1
        elif isinstance(place, str):
            left_out[place] += 1
        else:
            places[_path_in(name) if isinstance(name, str) else name, None].append(place)
    ids = {name: number for number, name in (images or {}).items() if isinstance(number, int)}
    return Boxes(path=path, places=places, ids=ids, left_out=left_out, category=chosen.sentence)


def _place_of_record(record: Mapping[str, Any], where: str) -> Place | str:
    """Return an entry's place, or the reason to leave it out."""
    box, score = record.get("bbox"), record.get("score")
    if box is None or box == []:
        return _NO_BOX
    if not isinstance(box, list) or len(box) != len(BOX):
        raise ValueError(f"{where}: bbox must be [x, y, width, height], got {box!r:.80}")
    numbers = [_number(value, f"{where}: bbox") for value in box]
    return _place(numbers, None if score is None else _number(score, f"{where}: score"), where)


def _place(numbers: Sequence[float], score: float | None, where: str) -> Place | str:
    """Return the place of a box, or with three numbers of a frame; or the reason to leave it out.

    Raises ValueError if a number is not finite.
    """
    if min(numbers[2:]) <= 0:
        return _NO_SIZE
    try:
        if len(numbers) == len(FRAME):
            x, y, scale = numbers
            return Place(frame=Frame(center=(x, y), scale=scale), score=score)
        left, top, width, height = box = numbers[0], numbers[1], numbers[2], numbers[3]
        return Place(frame=Frame.of_box(left, top, width, height), box=box, score=score)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_table(path: Path) -> Boxes:
    """Read a table with a row per person: image, box or frame, and optionally frame and score."""
    cells = read_cells(path)
    kinds = [kind for kind in (FRAME, BOX, _PACKED_BOX) if set(kind) <= set(cells.columns)]
    if "image" not in cells.columns or not kinds:
        raise ValueError(
            f"{path}: columns must be image and either {', '.join(BOX)} or {', '.join(FRAME)}, "
            f"got {list(cells.columns)}"
        )
    places: dict[tuple[str | int, int | None], list[Place]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for row, where in enumerate(cells.rows):
        name = identifier_of(cells.columns["image"][row], f"{path}: {where}: image")
        key = _path_in(name) if isinstance(name, str) else name
        frame = cells.whole("frame", row, least=0) if cells.has(row, "frame") else None
        place = _place_of_row(cells, row, kinds)
        if isinstance(place, str):
            left_out[place] += 1
        else:
            places[key, frame].append(place)
    return Boxes(path=path, places=places, left_out=left_out)


def _place_of_row(cells: Cells, row: int, kinds: Sequence[tuple[str, ...]]) -> Place | str:
    """Return the place by the first kind of columns that the row fills."""
    for kind in kinds:
        if cells.has(row, *kind):
            numbers = [cells.number(column, row) for column in kind]
            score = cells.number("score", row) if cells.has(row, "score") else None
            return _place(numbers, score, f"{cells.path}: {cells.rows[row]}")
    return _NO_BOX


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} must be a number, got {value!r:.80}") from None
