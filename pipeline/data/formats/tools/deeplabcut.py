"""Reader of DeepLabCut's labels, which lightning-pose shares: CSV and HDF5."""

import csv
import io
import pickle
import pickletools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import (
    AUTHOR,
    PREDICTION,
    Annotations,
    in_folder,
    reading,
)
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.tools.labels import Figure, Labels, annotations_of
from pipeline.data.formats.tools.skeleton import Skeleton
from pipeline.data.formats.tools.yaml_files import read_yaml
from pipeline.data.photographs.video import SUFFIXES as VIDEOS
from pipeline.io.hdf5 import Hdf5File, as_text
from pipeline.pose.person import Visibility
from pipeline.settings.packing import AnnotationFiles

_KEY = "df_with_missing"
_CONFIG = "config.yaml"
# The individual that has the body parts which an image shows once.
_UNIQUE = "single"
_NOTHING = ("", "nan", "na")
_WHOLE = re.compile(r"\d{1,12}", re.ASCII)
# Above a file's folder: labeled-data/VIDEO lies two below the project.
_PROJECT_ABOVE = 2


def read_deeplabcut(files: AnnotationFiles) -> Annotations:
    """Read CollectedData_*.csv or .h5, a folder with some, or a project's folder.

    Of a folder with both the CSV is read. Pixels are 0-based; an empty x and y are missing.
    Individuals of several animals are people, and body parts that an image shows once belong to a
    person of their own, `single`. The project's config.yaml has the limbs. Tables with likelihoods,
    and those whose scorer is hourglass, are predictions; an index of numbers has the frames of the
    video VIDEO in a file VIDEODLC_*. Raises ValueError naming file, row, column and value.
    """
    found = [_of_video(_read(path), files.images) for path in _paths(files.annotations)]
    tables = [table for table in found if files.predictions or not table.is_predicted]
    _check_scorers(tables, files.annotations)
    config = _config(files.annotations)
    skipped: Counter[str] = Counter()
    left_out = (table for table in found if table.is_predicted and not files.predictions)
    skipped[PREDICTION] += sum(len(table.images) for table in left_out)
    figures: list[Figure] = []
    parts: dict[str, dict[str, None]] = {}
    for table in tables:
        for individual in table.individuals:
            category = _category(individual)
            parts.setdefault(category, {}).update(dict.fromkeys(table.parts(individual)))
    skeletons = {
        category: _skeleton(category, tuple(names), config) for category, names in parts.items()
    }
    for table in tables:
        figures += _figures(table, skeletons, skipped)
    labels = Labels(
        name=str(config.get("Task") or "deeplabcut"),
        skeletons=skeletons,
        figures=figures,
        skipped=+skipped,
        is_joined=True,
        files=tuple(table.path for table in tables if table.path != files.annotations),
    )
    return annotations_of(labels, files)


def is_deeplabcut(peek: Peek) -> str:
    """Recognise a table of DeepLabCut's, a folder of such tables, or a project's config.yaml."""
    if peek.path.name == _CONFIG and b"bodyparts" in peek.start:
        return "it has bodyparts, as DeepLabCut's projects"
    if peek.cells and peek.cells[0].lower() == "scorer":
        return "its first row names the scorer, as DeepLabCut's"
    if _KEY in peek.h5:
        return f"it has DeepLabCut's table {_KEY}"
    if peek.path.is_dir() and (found := _tables_in(peek.path)):
        return f"it has DeepLabCut's {found[0].relative_to(peek.path)}"
    return ""


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table: its columns as (individual, body part, coordinate), and a row an image.

    `scorer` has labelled it; empty of an HDF5 file, where DeepLabCut enters the project's own.
    """

    path: Path
    columns: list[tuple[str, str, str]]
    images: list[str]
    values: np.ndarray
    rows: list[str]
    scorer: str = ""

    @property
    def likelihood(self) -> bool:
        return any(name == "likelihood" for *_, name in self.columns)

    @property
    def is_predicted(self) -> bool:
        return self.likelihood or self.scorer == AUTHOR

    @property
    def individuals(self) -> list[str]:
        return list(dict.fromkeys(individual for individual, *_ in self.columns))

    def parts(self, individual: str) -> list[str]:
        return list(dict.fromkeys(part for name, part, _ in self.columns if name == individual))


def _check_scorers(tables: Sequence[_Table], path: Path) -> None:
    """Raise ValueError if two tables of a folder label the same image."""
    labelled: dict[tuple[Path, str], Path] = {}
    for table in tables:
        for image in table.images:
            other = labelled.setdefault((table.path.parent, image), table.path)
            if other != table.path:
                raise ValueError(
                    f"{path}: {image} is labelled in {other.name} and in {table.path.name}, "
                    "expected one scorer; give the path of one table"
                )


def _paths(path: Path) -> list[Path]:
    if path.name == _CONFIG:
        path = path.parent
    if not path.is_dir():
        return [path]
    found = _tables_in(path)
    if not found:
        raise ValueError(
            f"{path}: no CollectedData_*.csv or .h5 in it or its labeled-data, expected some"
        )
    return found


def _tables_in(folder: Path) -> list[Path]:
    """List a folder's tables, and those of its labeled-data: one of each folder and scorer."""
    tables = [
        in_folder(folder, path)
        for pattern in ("CollectedData*", "labeled-data/*/CollectedData*")
        for path in sorted(folder.glob(pattern))
        if path.suffix in (".csv", ".h5")
    ]
    is_csv = {path.with_suffix("") for path in tables if path.suffix == ".csv"}
    return [path for path in tables if path.suffix == ".csv" or path.with_suffix("") not in is_csv]


def _config(path: Path) -> dict[str, Any]:
    """Read the project's config.yaml; empty where there is none."""
    nearest = path if path.is_dir() else path.parent
    for folder in (nearest, *list(nearest.absolute().parents)[:_PROJECT_ABOVE]):
        config = folder / _CONFIG
        if config.is_file():
            content = read_yaml(config if config == path else in_folder(folder, config))
            return content if "bodyparts" in content else {}
    return {}


def _category(individual: str) -> str:
    return individual if individual == _UNIQUE else "individuals"


def _skeleton(category: str, joints: tuple[str, ...], config: dict[str, Any]) -> Skeleton:
    stated = config.get("skeleton")
    pairs = stated if isinstance(stated, list) else []
    limbs = [
        (joints.index(pair[0]), joints.index(pair[1]))
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(name in joints for name in pair)
    ]
    name = str(config.get("Task") or "deeplabcut") if category != _UNIQUE else category
    return Skeleton(name=name, joints=joints, limbs=tuple(limbs))


def _figures(
    table: _Table, skeletons: dict[str, Skeleton], skipped: Counter[str]
) -> Iterator[Figure]:
    for row, image in enumerate(table.images):
        is_labelled = False
        for individual in table.individuals:
            skeleton = skeletons[_category(individual)]
            joints = np.zeros((len(skeleton.joints), 2))
            states = np.zeros(len(skeleton.joints), np.int64)
            for part in table.parts(individual):
                x, y = _point(table, row, individual, part)
                if not np.isnan(x):
                    place = skeleton.joints.index(part)
                    joints[place], states[place] = (x, y), Visibility.VISIBLE
            if states.any():
                is_labelled = True
                yield Figure(
                    image=image, category=_category(individual), joints=joints, states=states
                )
        skipped["image without a label"] += not is_labelled


def _point(table: _Table, row: int, individual: str, part: str) -> tuple[float, float]:
    x, y = (
        float(table.values[row, table.columns.index((individual, part, axis))]) for axis in "xy"
    )
    if np.isnan(x) != np.isnan(y) or np.isinf((x, y)).any():
        raise ValueError(
            f"{table.path}: {table.rows[row]}: {part} has x {x:g} and y {y:g}, expected two "
            "numbers, or nothing in both"
        )
    return x, y


def _of_video(table: _Table, folder: Path | None) -> _Table:
    """Name the frames of a video's analysis, whose index has their numbers, VIDEO#NUMBER."""
    if not (table.likelihood and all(_WHOLE.fullmatch(image) for image in table.images)):
        return table
    root, stem = folder or table.path.parent, table.path.stem
    videos = [
        path.relative_to(root).as_posix()
        for path in (root.rglob("*") if folder else root.glob("*"))
        if path.suffix.lower() in VIDEOS
        and (path.stem == stem or stem.startswith(f"{path.stem}DLC"))
    ]
    first = stem.find("DLC", 1)
    name = (
        max(videos, key=lambda video: len(Path(video).stem))
        if videos
        else (f"{stem[:first] if first > 0 else stem}.mp4")
    )
    return replace(table, images=[f"{name}#{image}" for image in table.images])


def _read(path: Path) -> _Table:
    table = _read_h5(path) if path.suffix == ".h5" else _read_csv(path)
    known = Counter(table.columns)
    for (individual, part, name), count in known.items():
        who = f"{individual}, {part}".strip(", ")
        if count > 1:
            raise ValueError(f"{path}: {who} has the column {name} {count} times, expected once")
        if name not in ("x", "y", "likelihood"):
            raise ValueError(f"{path}: {who} has a column {name!r}, expected x and y")
        for axis in "xy":
            if (individual, part, axis) not in known:
                raise ValueError(f"{path}: {who} has no column {axis}, expected x and y")
    if not table.columns:
        raise ValueError(f"{path}: no body parts, expected columns of x and y for each")
    for number, (image, count) in enumerate(Counter(table.images).items()):
        if count > 1 or not image.strip("/"):
            raise ValueError(
                f"{path}: {table.rows[number]}: image {image!r} is there {count} times, expected "
                "the path of each image once"
            )
    return table


def _read_csv(path: Path) -> _Table:
    with reading(path, "CSV in UTF-8", csv.Error, UnicodeDecodeError, OSError):
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    names = [line[0].strip().lower() if line else "" for line in lines[:4]]
    expected = ["scorer", "individuals", "bodyparts", "coords"]
    if names != expected:
        expected.remove("individuals")
    if names[: len(expected)] != expected:
        raise ValueError(
            f"{path}: the first rows are {', '.join(names)}, expected DeepLabCut's "
            "scorer, bodyparts, coords, or with individuals as the second"
        )
    header = dict(zip(expected, lines, strict=False))
    width = len(header["coords"])
    # Since version 2.3 the path has three columns of its own.
    index = 1 + sum(not cell.strip() for cell in header["coords"][1:3])
    individuals = header.get("individuals", [""] * width)
    if not len(individuals) == len(header["bodyparts"]) == width:
        raise ValueError(f"{path}: the header's rows differ in their number of cells")
    columns = [
        (individuals[n].strip(), header["bodyparts"][n].strip(), header["coords"][n].strip())
        for n in range(index, width)
    ]
    images, rows, values = [], [], []
    for number, line in enumerate(lines[len(expected) :], start=len(expected) + 1):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) < width and not any(cell.strip() for cell in line[index:]):
            # Some writers leave the end of a row without labels away.
            line = line + [""] * (width - len(line))
        if len(line) != width:
            raise ValueError(
                f"{path}: line {number}: expected {width} cells as in the header, got {len(line)}"
            )
        rows.append(f"line {number}")
        images.append("/".join(cell.strip() for cell in line[:index]))
        values.append([_number(path, number, cell) for cell in line[index:]])
    return _Table(
        path=path,
        columns=columns,
        images=images,
        values=np.array(values, np.float64).reshape(len(values), len(columns)),
        rows=rows,
        scorer=header["scorer"][-1].strip(),
    )


def _number(path: Path, line: int, cell: str) -> float:
    if cell.strip().lower() in _NOTHING:
        return np.nan
    try:
        return float("x" if "_" in cell else cell)
    except ValueError:
        raise ValueError(
            f"{path}: line {line}: expected a number, or nothing, got {cell!r:.80}"
        ) from None


def _read_h5(path: Path) -> _Table:
    """Read a table that pandas wrote, in its format `table` or `fixed`."""
    with Hdf5File(path) as file:
        found = _pandas_table(file) if f"{_KEY}/table" in _names(file) else _pandas_fixed(file)
    columns, images, values = found
    if values.shape != (len(images), len(columns)):
        raise ValueError(
            f"{path}: {_KEY} has values of shape {values.shape}, expected "
            f"({len(images)}, {len(columns)})"
        )
    rows = [f"row {number + 1}" for number in range(len(images))]
    return _Table(path=path, columns=columns, images=images, values=values, rows=rows)


def _names(file: Hdf5File) -> list[str]:
    return [f"{_KEY}/{name}" for name in file.names(_KEY)]


def _pandas_table(
    file: Hdf5File,
) -> tuple[list[tuple[str, str, str]], list[str], np.ndarray]:
    table = file.array(f"{_KEY}/table")
    fields = table.dtype.names or ()
    blocks = [field for field in fields if field.startswith("values_block_")]
    if not blocks:
        raise ValueError(f"{file.path}: {_KEY}/table has no values_block_0, expected pandas' table")
    axes = _plain_pickle(file, file.attribute(_KEY, "non_index_axes"), "non_index_axes")
    try:
        names = [tuple(map(str, column)) for column in axes[0][1]]
    except (TypeError, IndexError, KeyError):
        raise ValueError(f"{file.path}: {_KEY} has no names of columns in non_index_axes") from None
    levels = [field for field in fields if field.startswith("level_")] or ["index"]
    if not set(levels) <= set(fields):
        raise ValueError(f"{file.path}: {_KEY}/table has no index, expected paths of images")
    parts = [_texts(file, table[level]) for level in levels]
    images = ["/".join(row) for row in zip(*parts, strict=True)]
    columns = [_column(file, name) for name in names if name[0] not in levels]
    found = [(columns, np.atleast_2d(_floats(file, table[blocks[0]])))]
    if len(blocks) > 1:
        found = [
            (_block_columns(file, block), np.atleast_2d(_floats(file, table[block])))
            for block in blocks
        ]
    return columns, images, _joined(file, found, columns)


def _pandas_fixed(
    file: Hdf5File,
) -> tuple[list[tuple[str, str, str]], list[str], np.ndarray]:
    is_values = re.compile(rf"{_KEY}/(block\d+)_values", re.ASCII)
    blocks = [match[1] for name in sorted(_names(file)) if (match := is_values.fullmatch(name))]
    found = [
        (_columns(file, f"{block}_items"), _floats(file, file.array(f"{_KEY}/{block}_values")))
        for block in blocks or ["block0"]
    ]
    columns = found[0][0] if len(found) == 1 else _columns(file, "axis0")
    rows = zip(*_levels(file, "axis1"), strict=True)
    return columns, ["/".join(map(str, row)) for row in rows], _joined(file, found, columns)


def _joined(
    file: Hdf5File,
    blocks: Sequence[tuple[list[tuple[str, str, str]], np.ndarray]],
    columns: list[tuple[str, str, str]],
) -> np.ndarray:
    """Join blocks of columns in the order of all: pandas keeps whole numbers by themselves."""
    found = [column for names, _ in blocks for column in names]
    shapes = [values.shape for _, values in blocks]
    expected = [(shapes[0][0] if shapes[0] else 0, len(names)) for names, _ in blocks]
    if shapes != expected or sorted(found) != sorted(columns):
        raise ValueError(
            f"{file.path}: {_KEY} has values of shape {', '.join(map(str, shapes))}, expected "
            f"{', '.join(map(str, expected))} of the {len(columns):,} columns"
        )
    values = np.concatenate([values for _, values in blocks], axis=1)
    place_of = {column: place for place, column in enumerate(found)}
    return values[:, [place_of[column] for column in columns]]


def _floats(file: Hdf5File, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{file.path}: {_KEY} has values of type {values.dtype}, expected numbers")
    return values.astype(np.float64)


def _block_columns(file: Hdf5File, block: str) -> list[tuple[str, str, str]]:
    """Return the columns of a block of a table, which its attribute has."""
    kinds = _plain_pickle(file, file.attribute(f"{_KEY}/table", f"{block}_kind"), f"{block}_kind")
    try:
        return [_column(file, tuple(map(str, name))) for name in kinds]
    except TypeError:
        raise ValueError(f"{file.path}: {_KEY} has no names of columns in {block}_kind") from None


def _columns(file: Hdf5File, axis: str) -> list[tuple[str, str, str]]:
    return [_column(file, name) for name in zip(*_levels(file, axis), strict=True)]


def _levels(file: Hdf5File, axis: str) -> list[list[str]]:
    """Read an index of pandas: of one level, or each level's values by their numbers."""
    names = _names(file)
    if f"{_KEY}/{axis}_level0" not in names:
        return [_texts(file, file.array(f"{_KEY}/{axis}"))]
    levels = []
    for number in range(sum(name.startswith(f"{_KEY}/{axis}_level") for name in names)):
        words = _texts(file, file.array(f"{_KEY}/{axis}_level{number}"))
        places = file.array(f"{_KEY}/{axis}_label{number}").astype(np.int64).tolist()
        if not all(0 <= place < len(words) for place in places):
            raise ValueError(f"{file.path}: {_KEY}/{axis}_label{number} names no level")
        levels.append([words[place] for place in places])
    return levels


def _column(file: Hdf5File, name: Sequence[str]) -> tuple[str, str, str]:
    # Scorer, individual where there are several, body part, coordinate.
    if len(name) not in (3, 4):
        raise ValueError(
            f"{file.path}: {_KEY} has a column {name}, expected scorer, body part and x or y"
        )
    return (name[1] if len(name) == 4 else ""), name[-2], name[-1]


def _texts(file: Hdf5File, values: np.ndarray) -> list[str]:
    if values.dtype.kind in "iu" and values.ndim == 1:
        return list(map(str, values.tolist()))
    if values.dtype.kind not in "SUO" or values.ndim != 1:
        raise ValueError(
            f"{file.path}: {_KEY} has an index of type {values.dtype}, expected text; convert the "
            "file to CSV in DeepLabCut"
        )
    return [as_text(word) for word in values.tolist()]


# What pickles of lists, tuples, texts and numbers consist of. Others name functions, or lengths
# for which memory is asked.
_PLAIN = re.compile(
    r"PROTO|FRAME|STOP|MARK|NONE|NEW(TRUE|FALSE)|(EMPTY_)?(LIST|TUPLE)|TUPLE[123]|APPENDS?|MEMOIZE"
    r"|(LONG_)?(BIN)?(PUT|GET)|(BIN)?INT[12]?|LONG1?|(BIN)?FLOAT|(SHORT_)?(BIN)?(UNICODE|STRING)"
    r"|(SHORT_)?BINBYTES"
)


def _plain_pickle(file: Hdf5File, data: Any, name: str) -> Any:
    """Read what pandas pickled of its columns' names. Raises ValueError if it holds more."""
    if not isinstance(data, bytes):
        raise ValueError(f"{file.path}: {_KEY} has no attribute {name}, expected pandas' table")
    try:
        for operation, value, _ in pickletools.genops(data):
            if not _PLAIN.fullmatch(operation.name):
                raise ValueError(f"it holds {operation.name} {value or ''}".rstrip())
            # The reader has a place for each number up to the highest.
            if "PUT" in operation.name and value is not None and value > len(data):
                raise ValueError(f"it numbers a value {value:,}")
        return pickle.loads(data)
    except Exception as error:
        raise ValueError(
            f"{file.path}: attribute {name} of {_KEY} is not plain: {error}; convert the file to "
            "CSV in DeepLabCut"
        ) from error
