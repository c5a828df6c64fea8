"""Reader of YOLO-pose datasets, as Ultralytics defines them: data.yaml, and a text an image."""

import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import PREDICTION, Annotations, in_folder
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.tools.labels import Figure, Labels, annotations_of
from pipeline.data.formats.tools.skeleton import Skeleton
from pipeline.data.formats.tools.yaml_files import read_yaml
from pipeline.data.photographs.header import SUFFIXES, read_header
from pipeline.io.inside import is_inside, read_whole
from pipeline.io.parsing import composed
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Split, Visibility
from pipeline.settings.packing import AnnotationFiles

_SPLITS: dict[str, Split | None] = {"train": "train", "val": "val", "test": None}
# The key of data.yaml that names who has predicted all of a dataset.
PREDICTED_BY = "predicted_by"
_MOST_NAMED, _MOST_LETTERS = 8, 100_000
# Shares of the picture; a joint may lie outside.
_FARTHEST = 2.0


def read_yolo_pose(files: AnnotationFiles) -> Annotations:
    """Read a dataset by its data.yaml or folder: class, box and joints as shares of the picture.

    `kpt_names` name the joints; without, 17 with COCO's `flip_idx` are COCO's, others joint_1 and
    so on. `flip_idx` has the flip pairs. Of `kpt_shape: [K, 2]` a joint below 0 or at (0, 0) is
    missing. The split is the dataset's if it has images for training and for validation. Lines with
    a confidence, and all of a dataset with `predicted_by`, are predictions. Raises ValueError
    naming file, line, field and value.
    """
    path = _yaml_in(files.annotations)
    content = read_yaml(path)
    joints, values = _shape(content, path)
    classes = _classes(content, path)
    skeletons, notes = _skeletons(content, classes, joints, path)
    root = files.images or path.parent
    pictures, places = _pictures(content, root, path)
    splits = set(pictures.values())
    is_predicted = bool(content.get(PREDICTED_BY))
    skipped: Counter[str] = Counter()
    figures: list[Figure] = []
    texts: list[Path] = []
    for picture, text in _texts(pictures, places, root).items():
        split = pictures.get(picture) or _split_beside(picture, pictures, places)
        if text is None or not text.stat().st_size:
            skipped["image without a label"] += 1
            continue
        texts.append(text)
        # Of a picture that is not there, or can't be read, packing says so.
        size = _size(in_folder(root, picture), files) or (1, 1)
        for line in _lines(text, joints, values, skipped, files):
            if is_predicted and not files.predictions:
                skipped[PREDICTION] += 1
            elif split == "test":
                skipped["of the split test"] += 1
            else:
                category = _class_of(line, classes)
                if content.get("kpt_names") is not None and not skeletons[category].is_named:
                    raise ValueError(
                        f"{line.where}: the class {category} is not in kpt_names of {path}, "
                        f"expected its {joints} names, got {content.get('kpt_names')!r:.80}"
                    )
                shares = _Shares(size=size, line=line)
                figures.append(
                    Figure(
                        image=picture.relative_to(root).as_posix(),
                        category=category,
                        joints=shares.joints(joints, values),
                        states=shares.states(joints, values, text),
                        box=shares.box,
                        image_size=size,
                        split=_SPLITS[split] if {"train", "val"} <= splits else None,
                    )
                )
    labels = Labels(
        name=path.parent.absolute().name,
        skeletons=skeletons,
        figures=figures,
        skipped=+skipped,
        states_unit=True,
        files=(*([path] if path != files.annotations else []), *texts),
        notes=tuple(notes),
    )
    return annotations_of(labels, files)


def is_yolo_pose(peek: Peek) -> str:
    """Recognise a data.yaml with the shape of keypoints, or its folder."""
    path = peek.path
    found = _yamls_in(path) if path.is_dir() else [path] if _has_shape(path) else []
    return f"{found[0].name} has kpt_shape, as Ultralytics' pose datasets" if found else ""


def _yaml_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = _yamls_in(path)
    if not found:
        for other in sorted(path.glob("*.y*ml")):
            in_folder(path, other)
    if len(found) != 1:
        raise ValueError(
            f"{path} has {len(found)} YAML files with kpt_shape, expected one; give its path"
        )
    return found[0]


def _yamls_in(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.y*ml"))
    return [path for path in paths if is_inside(folder, path) and _has_shape(path)]


def _has_shape(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") and b"kpt_shape" in Peek(path).start


def _shape(content: dict[str, Any], path: Path) -> tuple[int, int]:
    shape = content.get("kpt_shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(number) is int for number in shape)
        or not 1 <= shape[0] <= 1000
        or shape[1] not in (2, 3)
    ):
        raise ValueError(
            f"{path}: kpt_shape must be [joints, 2 or 3], at most 1,000 joints, got {shape!r:.80}"
        )
    return shape[0], shape[1]


def _classes(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the names of the classes by their numbers, in the order of these."""
    names = content.get("names")
    found = _by_number(dict(enumerate(names)) if isinstance(names, list) else names)
    if not found or len(set(map(str, found.values()))) != len(found):
        raise ValueError(
            f"{path}: names must list the classes by their numbers, each once, got {names!r:.80}"
        )
    return {number: str(found[number]) for number in sorted(found)}


def _by_number(value: Any) -> dict[int, Any]:
    """Return a mapping by whole numbers, which may be written as text; empty if it is none."""
    given = value if isinstance(value, dict) else {}
    is_one = all(re.fullmatch(r"\d{1,9}", str(number), re.ASCII) for number in given)
    return {int(number): item for number, item in given.items()} if is_one else {}


def _skeletons(
    content: dict[str, Any], classes: dict[int, str], count: int, path: Path
) -> tuple[dict[str, Skeleton], list[str]]:
    flip_idx = content.get("flip_idx")
    pairs = None if flip_idx is None else _pairs(flip_idx, count, path)
    stated = content.get("kpt_names")
    notes: list[str] = []
    by_number = _by_number(stated)
    if isinstance(stated, dict) and len(by_number) != len(stated):
        raise ValueError(
            f"{path}: kpt_names must list the names of joints by the numbers of their classes, got "
            f"{stated!r:.80}"
        )
    skeletons = {}
    for number, name in classes.items():
        own = by_number.get(number) if isinstance(stated, dict) else stated
        is_named = own is not None
        if not is_named:
            is_coco = count == len(COCO.joints) and flip_idx == list(COCO.mirror)
            own = list(COCO.joints) if is_coco else [f"joint_{k + 1}" for k in range(count)]
            note = (
                "17 joints with COCO's flip_idx are read as COCO's"
                if is_coco
                else "the dataset does not name its joints (kpt_names); --joint-set FILE does"
            )
            # Of classes that no label has, no names are missed.
            notes = notes if isinstance(stated, dict) else [note]
        if not isinstance(own, list) or len(own) != count:
            raise ValueError(
                f"{path}: kpt_names of class {number} must be {count} names as in kpt_shape, got "
                f"{own!r:.80}"
            )
        skeletons[name] = Skeleton(
            name=name, joints=tuple(map(str, own)), flip_pairs=pairs, is_named=is_named
        )
    return skeletons, notes


def _pairs(flip_idx: Any, count: int, path: Path) -> tuple[tuple[int, int], ...]:
    is_order = isinstance(flip_idx, list) and sorted(map(str, flip_idx)) == sorted(
        map(str, range(count))
    )
    if not is_order or any(flip_idx[other] != joint for joint, other in enumerate(flip_idx)):
        raise ValueError(
            f"{path}: flip_idx must have each of the {count} joints once, pairs changing places, "
            f"got {flip_idx!r:.80}"
        )
    return tuple((joint, other) for joint, other in enumerate(flip_idx) if joint < other)


def _pictures(
    content: dict[str, Any], root: Path, path: Path
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return the pictures of the dataset and the folders that it names, each with its split."""
    found: dict[Path, str] = {}
    places: dict[Path, str] = {}
    for split in _SPLITS:
        entries = content.get(split)
        for entry in entries if isinstance(entries, list) else [entries]:
            if entry is None or entry == "":
                continue
            place = _inside(entry, content.get("path"), root)
            if place is None and split != "test":
                raise ValueError(
                    f"{path}: {split} is {entry!r:.200}, but there is no such folder or list in "
                    f"{root}; give the folder that it is in as --images"
                )
            if place is None:
                continue
            if place.is_dir():
                places.setdefault(place, split)
            for picture in _listed(in_folder(root, place), root):
                found.setdefault(picture, split)
    if not found:
        raise ValueError(f"{path}: no images, expected folders of images as train and val")
    return found, places


def _inside(entry: Any, base: Any, root: Path) -> Path | None:
    """Find a folder or list below the root, however its path begins."""
    parts, before = _parts(entry), _parts(base or "")
    # Ultralytics joins both; exports are moved, and write ../train/images of their own folder.
    for path in (*_ends(before + parts, root), *_ends(parts, root)):
        # Unlike a path's own method it answers for names that are too long, too.
        if os.path.exists(path):  # noqa: PTH110
            return path
    return None


def _parts(path: Any) -> list[str]:
    return [
        part for part in str(path).strip().replace("\\", "/").split("/") if part not in ("", ".")
    ]


def _ends(parts: Sequence[str], root: Path) -> Iterator[Path]:
    """Yield the paths below the root that the ends of a path may mean, the longest first."""
    for start in range(len(parts)):
        if ".." not in parts[start:]:
            yield root.joinpath(*parts[start:])


def _listed(place: Path, root: Path) -> Iterator[Path]:
    """Yield the pictures in a folder, or those that a text lists."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path
        return

    @cache
    def within(folder: Path) -> dict[str, Path]:
        is_folder = os.path.isdir(folder)  # noqa: PTH112
        return {composed(path.name): path for path in folder.iterdir()} if is_folder else {}

    for line in read_whole(place).decode(errors="replace").splitlines():
        found = _inside(line, None, root) if line.strip() else None
        if found is not None and found.is_file():
            yield found
            continue
        paths = [path for path in _ends(_parts(line), root) if path.suffix.lower() in SUFFIXES]
        forms = (within(path.parent).get(composed(path.name)) for path in paths)
        # A picture that is not there has the path by which its labels are found.
        labelled = (
            path
            for path in paths
            if composed(f"{path.stem}.txt") in within(_labels_of(path.parent, root)[0])
        )
        if paths:
            yield next((form for form in forms if form), None) or next(labelled, paths[0])


def _texts(
    pictures: Collection[Path], places: Collection[Path], root: Path
) -> dict[Path, Path | None]:
    """Return each picture with its labels, None where it has none.

    Labels without a picture, in folders that are named, go with the path that it would have. Names
    are equal whatever their Unicode form. Raises ValueError if a link leads out to labels.
    """
    found: dict[Path, Path | None] = {}
    folders: dict[Path, list[Path]] = {}
    for picture in pictures:
        folders.setdefault(picture.parent, []).append(picture)
    for folder, inside in folders.items():
        texts, limit = _texts_beside(folder, root)
        for picture in inside:
            text = texts.get(composed(picture.stem))
            is_one = text is not None and in_folder(limit, text).is_file()
            found[picture] = text if is_one else None
    used = set(found.values())
    suffix = next(iter(pictures)).suffix
    for folder in dict.fromkeys(
        folder for place in places for folder in _folders_of_labels(place, folders, root)
    ):
        files = folder.iterdir() if folder.is_dir() else ()
        stems = {composed(path.stem) for path in files if path.suffix != ".txt"}
        texts, limit = _texts_beside(folder, root)
        for stem, text in texts.items():
            is_alone = stem not in stems and text not in used and is_inside(limit, text)
            if is_alone and text.is_file() and _has_labels(text):
                own = folders.get(folder)
                found[folder / f"{text.stem}{own[0].suffix if own else suffix}"] = text
                used.add(text)
    return found


def _folders_of_labels(place: Path, known: Collection[Path], root: Path) -> Iterator[Path]:
    """Yield the folders in a place that may have had pictures, by the texts of their labels.

    Those that still have some, `known`, come first.
    """
    mirror, top = _labels_of(place, root)[0], place.absolute()
    texts = {text.parent for folder in (mirror, top) for text in folder.rglob("*.txt")}
    found: set[Path] = set()
    for folder in texts:
        candidates = []
        if folder.is_relative_to(mirror):
            candidates.append(place / folder.relative_to(mirror))
        if folder.is_relative_to(top):
            parts = list(folder.relative_to(top).parts)
            candidates.append(place.joinpath(*parts))
            if "labels" in parts:
                parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
                candidates.insert(0, place.joinpath(*parts))
        fitting = [path for path in candidates if _labels_of(path, root)[0] == folder]
        found.update(fitting[:1])
    yield from sorted(found, key=lambda folder: (folder not in known, folder))


def _has_labels(text: Path) -> bool:
    """Whether a text begins with a class, a box and joints, unlike a list of classes."""
    with text.open(encoding="utf-8-sig", errors="replace") as file:
        words = file.readline(_MOST_LETTERS).split()
    return len(words) > 5 and all(re.fullmatch(r"[-+.\deE]+", word) for word in words)


def _split_beside(picture: Path, pictures: Mapping[Path, str], places: Mapping[Path, str]) -> str:
    """Return the split of the folder of a picture that is not there."""
    above = (split for place, split in places.items() if picture.is_relative_to(place))
    beside = (split for other, split in pictures.items() if other.parent == picture.parent)
    return next(above, None) or next(beside)


def _texts_beside(folder: Path, root: Path) -> tuple[dict[str, Path], Path]:
    """Return the texts of a folder of pictures by their stems, and the folder they have to be in.

    Raises ValueError if a link leads out of that.
    """
    labels, limit = _labels_of(folder, root)
    is_folder = os.path.isdir(labels)  # noqa: PTH112
    texts = sorted(labels.glob("[!.]*.txt")) if is_folder else []
    return {composed(text.stem): text for text in texts}, limit


def _labels_of(folder: Path, root: Path) -> tuple[Path, Path]:
    """Return where the labels of a folder of pictures lie: under labels/ as under the last images/.

    Return also the folder that they have to be in: `root`, or labels/ beside it. Raises ValueError
    if that is a link which leads out.
    """
    parts, limit = list(folder.absolute().parts), root.absolute()
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
        if last < len(limit.parts):
            limit = Path(*parts[: last + 1])
            in_folder(limit.parent, limit)
    return Path(*parts), limit


def _size(picture: Path, files: AnnotationFiles) -> tuple[int, int] | None:
    """Return the picture's size as its labels see it; None if it can't be read."""
    try:
        with picture.open("rb") as file:
            header = read_header(file, files.max_pixels)
    except (OSError, ValueError):
        return None
    return header.stored_size if files.exif == "stored" else header.upright_size


@dataclass(frozen=True)
class _Line:
    where: str
    values: list[float]


def _lines(
    text: Path, joints: int, values: int, skipped: Counter[str], files: AnnotationFiles
) -> Iterator[_Line]:
    """Yield the lines of a text that have joints. Raises ValueError naming a wrong one."""
    count = 5 + joints * values
    content = read_whole(text).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(content.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{text}: line {number}"
        if len(words) == 5:
            skipped["no keypoints"] += 1
            continue
        if len(words) == count + 1 and not files.predictions:
            skipped[PREDICTION] += 1
            continue
        if len(words) not in (count, count + 1):
            raise ValueError(
                f"{where} has {len(words)} numbers, expected {count}: class, box, and "
                f"{joints} joints of {values} numbers as in kpt_shape"
            )
        yield _Line(where, [_share(word, where) for word in words])


def _share(word: str, where: str) -> float:
    try:
        number = float("x" if "_" in word else word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: expected finite numbers, got {word!r:.80}")
    return number


def _class_of(line: _Line, classes: dict[int, str]) -> str:
    number = line.values[0]
    if number not in classes:
        known = ", ".join(map(str, list(classes)[:_MOST_NAMED]))
        more = f" or another of {len(classes):,}" if len(classes) > _MOST_NAMED else ""
        raise ValueError(f"{line.where}: class must be {known}{more}, got {number:g}")
    return classes[int(number)]


@dataclass(frozen=True, kw_only=True)
class _Shares:
    """A line's shares in pixels of a picture of `size`."""

    size: tuple[int, int]
    line: _Line

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        x, y, width, height = self._checked(self.line.values[1:5], "box")
        wide, high = self.size
        if width <= 0 or height <= 0:
            return None
        return (x - width / 2) * wide, (y - height / 2) * high, width * wide, height * high

    def _points(self, joints: int, values: int) -> np.ndarray:
        return np.array(self.line.values[5 : 5 + joints * values]).reshape(joints, values)

    def joints(self, joints: int, values: int) -> np.ndarray:
        points = self._points(joints, values)
        missing = self._missing(points)
        shares = np.where(missing[:, None], 0, points[:, :2])
        self._checked(shares.ravel().tolist(), "joints")
        pixels: np.ndarray = shares * np.array(self.size, np.float64)
        return pixels

    def states(self, joints: int, values: int, text: Path) -> np.ndarray:
        points = self._points(joints, values)
        missing = self._missing(points)
        if values == 2:
            return np.where(missing, Visibility.MISSING, Visibility.VISIBLE).astype(np.int64)
        if not np.isin(points[:, 2], (0, 1, 2)).all():
            raise ValueError(
                f"{self.line.where}: visibility must be 0, 1 or 2, got {points[:, 2].tolist()}"
            )
        if (~missing & (points[:, :2] == -1).all(axis=1)).any():
            raise ValueError(
                f"{self.line.where}: a joint is at (-1, -1), expected the visibility 0 where a "
                "joint is missing"
            )
        return points[:, 2].astype(np.int64)

    def _missing(self, points: np.ndarray) -> np.ndarray:
        if points.shape[1] == 3:
            return np.asarray(points[:, 2] == 0)
        return np.asarray((points < 0).any(axis=1) | (points == 0).all(axis=1))

    def _checked(self, shares: Sequence[float], what: str) -> Sequence[float]:
        for share in shares:
            if abs(share) > _FARTHEST:
                raise ValueError(
                    f"{self.line.where}: {what} has {share:g}, expected shares of the picture from "
                    "0 to 1"
                )
        return shares
