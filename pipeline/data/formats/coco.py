"""Reader of COCO keypoints (Lin et al., ECCV 2014), of COCO's own joints or any others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import (
    PREDICTION,
    Annotations,
    entry,
    image_size_in,
    in_folder,
    numbers,
    path_in,
    positive,
    read_json,
    records_by_id,
    records_of,
)
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.tools.labels import Figure, Labels, annotations_of
from pipeline.data.formats.tools.skeleton import Skeleton
from pipeline.io.parsing import Identifier, identifier_of, items_of, text_of
from pipeline.pose.joint_file import read_joint_file
from pipeline.pose.person import Split, Visibility
from pipeline.settings.packing import AnnotationFiles

_STATES = {0, 1, 2}
# The folders of Roboflow's exports, and the file in each.
_SPLITS: Mapping[str, Split | None] = {"train": "train", "valid": "val", "test": None}
_EXPORT = "_annotations.coco.json"


def read_coco(files: AnnotationFiles) -> Annotations:
    """Read a COCO file, 0-based: K x [x, y, v] of the joints that its category names.

    v is 0 for unlabelled, 1 for occluded, 2 for visible. The joint set is that of the categories,
    with `skeleton` as limbs; where these name no joints, `files.joint_set` does. Crowds,
    annotations without keypoints, and those with a score (a tool's predictions, unless
    `files.predictions`) are skipped. There is no head box. A folder with a file for each split is
    that of an export of Roboflow. Raises ValueError naming file, annotation and field.
    """
    is_export = files.annotations.is_dir()
    return annotations_of(_of_splits(files) if is_export else _labels(files), files)


def is_coco(peek: Peek) -> str:
    """Recognise a file with images and annotations, or a folder with one for each split."""
    if peek.path.is_dir():
        found = list(_split_files(peek.path))
        several = f"{' and '.join(found)} have {_EXPORT} each, as Roboflow's exports"
        return several if len(found) > 1 else ""
    has_all = {"images", "annotations"} <= peek.keys
    return "it has lists of images and annotations" if has_all else ""


def _split_files(folder: Path) -> dict[str, Path]:
    """Return the files of an export by the folders of its splits."""
    paths = {name: folder / name / _EXPORT for name in _SPLITS}
    return {name: in_folder(folder, path) for name, path in paths.items() if path.is_file()}


def _of_splits(files: AnnotationFiles) -> Labels:
    """Read the files of an export's splits; that for testing is counted and left out."""
    paths = _split_files(files.annotations)
    if not paths:
        raise ValueError(
            f"{files.annotations} has no {_EXPORT} in {', '.join(_SPLITS)}; expected a file, or "
            "the folder of an export of Roboflow"
        )
    parts = {name: _labels(replace(files, annotations=path)) for name, path in paths.items()}
    skipped: Counter[str] = Counter()
    skeletons: dict[str, Skeleton] = {}
    figures: list[Figure] = []
    has_both = {"train", "val"} <= {_SPLITS[name] for name in parts}
    for name, part in parts.items():
        skipped.update(part.skipped)
        for category, skeleton in part.skeletons.items():
            if skeletons.setdefault(category, skeleton).joints != skeleton.joints:
                raise ValueError(
                    f"{paths[name]}: {category} has other keypoints than in the splits before; "
                    "expected the same in all"
                )
        if _SPLITS[name] is None:
            skipped["of the split test"] += len(part.figures)
            continue
        split = _SPLITS[name] if has_both else None
        figures += [
            replace(figure, image=f"{name}/{figure.image}", split=split) for figure in part.figures
        ]
    return Labels(
        name=files.annotations.absolute().name,
        skeletons=skeletons,
        figures=figures,
        skipped=skipped,
        files=tuple(paths.values()),
        notes=tuple(dict.fromkeys(note for part in parts.values() for note in part.notes)),
    )


def _labels(files: AnnotationFiles) -> Labels:
    """Read one file."""
    path = files.annotations
    contents = read_json(path)
    images = _images(path, contents)
    categories = _categories(contents, files)
    figures: list[Figure] = []
    skipped: Counter[str] = Counter()
    contents_of: dict[str, set[tuple[str, bytes]]] = {}
    for number, record in enumerate(records_of(contents, "annotations", str(path))):
        where = f"{path}: annotations[{number}]"
        if reason := _reason_to_skip(record, files, where):
            skipped[reason] += 1
            continue
        found = _figure(record, images, categories.of(record, where), where)
        figures.append(found)
        if "id" in record:
            content = found.image, found.joints.tobytes()
            contents_of.setdefault(str(record["id"]), set()).add(content)
    repeated = sum(len(found) > 1 for found in contents_of.values())
    notes = list(categories.notes)
    if repeated:
        notes.append(
            f"{repeated:,} ids of annotations are there several times with other content, as in "
            "joined exports; all are read, since each annotation names its image"
        )
    return Labels(
        name=path.name.removesuffix(".gz").removesuffix(".json"),
        skeletons={skeleton.name: skeleton for skeleton in categories.skeletons.values()},
        figures=figures,
        skipped=skipped,
        notes=tuple(notes),
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
    """The skeletons of a file's categories by id, those that name joints; `names` has all."""

    names: Mapping[Identifier, str]
    skeletons: Mapping[Identifier, Skeleton]
    notes: Sequence[str]

    def of(self, record: Mapping[str, Any], where: str) -> Skeleton:
        """Return the skeleton of an annotation. Raises ValueError if its category has none."""
        value = record.get("category_id")
        if value is None and len(self.names) == 1:
            value = next(iter(self.names))
        category = identifier_of(value, f"{where}: category_id")
        if category not in self.names:
            raise ValueError(f"{where}: category_id {category!r} is not among the categories")
        if category not in self.skeletons:
            raise ValueError(
                f"{where} has keypoints, but its category {self.names[category]} names none; "
                "expected a list of names in categories[].keypoints, or a joint-set file with the "
                "joints in their order: --joint-set FILE (docs/custom-joints.md)"
            )
        return self.skeletons[category]


def _categories(contents: Mapping[str, Any], files: AnnotationFiles) -> _Categories:
    path = files.annotations
    # Of a file whose categories name no joints.
    stated = read_joint_file(files.joint_set).joint_set.joints if files.joint_set else ()
    if not contents.get("categories"):
        if not stated:
            raise ValueError(
                f"{path}: there are no categories, expected one whose keypoints name the joints, "
                "since nothing else tells what they are; or a joint-set file with the joints in "
                "their order: --joint-set FILE (docs/custom-joints.md)"
            )
        # Files without categories may give their annotations any.
        ids = {
            identifier_of(record.get("category_id", 1), f"{path}: category_id")
            for record in records_of(contents, "annotations", str(path))
        }
        only = Skeleton(name="person", joints=stated)
        return _Categories(
            names=dict.fromkeys(ids, "person"), skeletons=dict.fromkeys(ids, only), notes=()
        )
    names: dict[Identifier, str] = {}
    skeletons: dict[Identifier, Skeleton] = {}
    notes: list[str] = []
    for known, (where, record) in records_by_id(contents, "categories", path).items():
        name = str(record.get("name", known))
        # Two categories may share a name.
        names[known] = f"{name} ({known})" if name in names.values() else name
        if record.get("keypoints") or stated:
            skeletons[known] = _skeleton(record, names[known], stated, where, notes)
    return _Categories(names=names, skeletons=skeletons, notes=notes)


def _skeleton(
    record: Mapping[str, Any], name: str, stated: tuple[str, ...], where: str, notes: list[str]
) -> Skeleton:
    joints = items_of(record.get("keypoints") or list(stated), f"{where}: keypoints", text_of)
    limbs = _limbs(record.get("skeleton"), len(joints), f"{where}: skeleton")
    if limbs is None:
        note = "the skeleton is of more joints than the keypoints have: limbs are left out"
        if note not in notes:
            notes.append(note)
    sigmas = record.get("sigmas") or []
    if sigmas:
        sigmas = numbers(sigmas, (len(joints),), f"{where}: sigmas").tolist()
    try:
        return Skeleton(name=name, joints=joints, limbs=limbs or (), sigmas=tuple(sigmas))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _limbs(value: Any, joints: int, where: str) -> tuple[tuple[int, int], ...] | None:
    """Return limbs, which count joints from 1, or from 0 where one is 0; None if they don't fit."""
    if not value:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list of pairs of joints, got {value!r:.80}")
    pairs = [
        numbers(pair, (2,), f"{where}[{number}]").tolist() for number, pair in enumerate(value)
    ]
    base = 0 if any(0 in pair for pair in pairs) else 1
    is_fit = all(joint - base in range(joints) for pair in pairs for joint in pair)
    return tuple((int(start) - base, int(end) - base) for start, end in pairs) if is_fit else None


def _reason_to_skip(record: Mapping[str, Any], files: AnnotationFiles, where: str) -> str | None:
    crowd = record.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise ValueError(f"{where}: iscrowd must be 0 or 1, got {crowd!r:.80}")
    if crowd:
        return "crowd"
    keypoints = record.get("keypoints")
    if keypoints is None or keypoints == []:
        return "no keypoints"
    if record.get("score") is not None and not files.predictions:
        return PREDICTION
    if isinstance(keypoints, list) and len(keypoints) % 3 == 0 and not any(keypoints[2::3]):
        return "no labelled joint"
    return None


def _figure(
    record: Mapping[str, Any], images: Mapping[Identifier, _Image], skeleton: Skeleton, where: str
) -> Figure:
    image_id = identifier_of(entry(record, "image_id", where), f"{where}: image_id")
    if image_id not in images:
        raise ValueError(f"{where}: image_id {image_id!r} is not among the images")
    image = images[image_id]
    joints, states = _joints(record, skeleton, where)
    return Figure(
        image=image.name,
        category=skeleton.name,
        joints=joints,
        states=states,
        box=_box(record, where),
        image_size=image.size,
        area=_area(record, where),
    )


def _joints(
    record: Mapping[str, Any], skeleton: Skeleton, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return joints and states. Raises ValueError unless labelled joints have finite pixels."""
    keypoints = record["keypoints"]
    if not isinstance(keypoints, list):
        raise ValueError(f"{where}: keypoints must be a list of numbers, got {keypoints!r:.80}")
    if len(keypoints) != 3 * len(skeleton.joints):
        raise ValueError(
            f"{where}: keypoints has {len(keypoints)} numbers, expected {3 * len(skeleton.joints)}:"
            f" x, y and visibility of each joint of {skeleton.name}"
        )
    states = np.array([_state(keypoints[k : k + 3], where) for k in range(0, len(keypoints), 3)])
    joints = np.zeros((len(states), 2))
    for joint in np.flatnonzero(states != Visibility.MISSING).tolist():
        joints[joint] = numbers(
            keypoints[3 * joint : 3 * joint + 2],
            (2,),
            f"{where}: keypoints of {skeleton.joints[joint]}, which is labelled",
        )
    return joints, states


def _state(triple: Sequence[Any], where: str) -> int:
    """Return a joint's visibility; of one that is all null it is 0."""
    *point, state = triple
    if state is None and not any(point):
        return 0
    if type(state) not in (int, float) or state not in _STATES:
        raise ValueError(f"{where}: visibility must be 0, 1 or 2, got {state!r:.80}")
    return int(state)


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
