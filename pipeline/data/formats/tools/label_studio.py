"""Reader of Label Studio's JSON export: keypoints in percent of the picture."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from pipeline.data.formats.annotations import (
    PREDICTION,
    Annotations,
    image_size_in,
    numbers,
    read_json,
)
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.tools.labels import Figure, Labels, annotations_of
from pipeline.data.formats.tools.skeleton import Skeleton
from pipeline.data.photographs.header import SUFFIXES
from pipeline.io.inside import is_inside
from pipeline.io.parsing import parse_xml
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Visibility
from pipeline.settings.packing import AnnotationFiles

_CONFIG_BYTES = 2**20
# Shapes whose label is an item of its own.
_UNNAMED = ("keypoint", "rectangle")
# Columns of the exports of one row an annotation.
_FLAT = {"annotation_id", "annotator"}
_DELIMITERS = {"CSV": ",", "TSV": "\t"}


def read_label_studio(files: AnnotationFiles) -> Annotations:
    """Read a list of tasks: keypoints in percent, tied to rectangles by parentID or a relation.

    Keypoints that are tied to none are one figure of their task. The order of the joints is that of
    the labelling configuration, an XML file beside with KeyPointLabels, else of COCO where all
    names are its, else of their first appearance. Of several annotations of a task the one marked
    as ground truth is read, else the latest. Raises ValueError naming file, task, result and value.
    """
    path = files.annotations
    peek = Peek(path)
    if path.is_file() and (kind := _flat_kind(peek)):
        raise ValueError(
            f"{path} is Label Studio's {kind} export, which lacks what ties joints to figures and "
            "how pictures were turned; export the project as JSON"
        )
    # The whole file is parsed once, if it is JSON at all.
    tasks = peek.json if path.is_file() and peek.json is not None else read_json(path)
    if not isinstance(tasks, list):
        raise ValueError(f"{path}: expected a list of tasks, got {tasks!r:.80}")
    skipped: Counter[str] = Counter()
    found: list[_Points] = []
    for number, task in enumerate(tasks):
        where = f"{path}: tasks[{number}]"
        for result in _results(task, files, skipped, where):
            found += _figures(task, result, skipped, where)
    joints, config, note = _order(found, path)
    name = "person"
    skeleton = Skeleton(name=name, joints=joints)
    labels = Labels(
        name=path.stem,
        skeletons={name: skeleton},
        figures=[_figure(points, skeleton) for points in found],
        skipped=+skipped,
        states_unit=True,
        files=(config,) if config else (),
        notes=(note,),
    )
    return annotations_of(labels, files)


def is_label_studio(peek: Peek) -> str:
    """Recognise a list of tasks with data and results, or an export that reading refuses."""
    if kind := _flat_kind(peek):
        return f"it has annotators and annotation_ids, as Label Studio's {kind} export"
    is_one = "data" in peek.record and bool({"annotations", "predictions"} & set(peek.record))
    return "it is a list of tasks with data and annotations" if is_one else ""


def _flat_kind(peek: Peek) -> str:
    """Name an export of one row an annotation; empty if the file is none."""
    if peek.json is not None:
        return "JSON-MIN" if set(peek.record) >= _FLAT else ""
    tables = (kind for kind, sign in _DELIMITERS.items() if set(peek.row(sign)) >= _FLAT)
    return next(tables, "")


@dataclass(frozen=True, kw_only=True)
class _Points:
    """A figure: its joints in pixels by name, and its box."""

    image: str
    points: Mapping[str, tuple[float, float]]
    box: tuple[float, float, float, float] | None
    size: tuple[int, int]


def _results(
    task: Any, files: AnnotationFiles, skipped: Counter[str], where: str
) -> Iterator[list[Any]]:
    """Yield the results of a task to read; count the others."""
    if not isinstance(task, dict):
        raise ValueError(f"{where} must be an object, got {task!r:.80}")
    kept = []
    for annotation in _list(task.get("annotations"), f"{where}: annotations"):
        if annotation.get("was_cancelled"):
            skipped["cancelled annotation"] += 1
        else:
            kept.append(annotation)
    if kept:
        truth = [annotation for annotation in kept if annotation.get("ground_truth")]
        latest = max(truth or kept, key=lambda annotation: str(annotation.get("updated_at") or ""))
        if len(kept) > 1:
            skipped["another annotation of the task"] += len(kept) - 1
        yield _list(latest.get("result"), f"{where}: result")
    if not kept:
        drafts = _list(task.get("drafts"), f"{where}: drafts")
        skipped["a draft that was not submitted"] += len(drafts)
    for prediction in _list(task.get("predictions"), f"{where}: predictions"):
        if not files.predictions or kept:
            skipped[PREDICTION] += 1
        else:
            yield _list(prediction.get("result"), f"{where}: result")


def _list(value: Any, where: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    # Exports may hold the numbers of predictions in place of these.
    records = (
        [item for item in value if not isinstance(item, int)] if isinstance(value, list) else []
    )
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in records):
        raise ValueError(f"{where} must be a list of objects, got {value!r:.80}")
    return records


def _figures(
    task: Mapping[str, Any], result: list[Any], skipped: Counter[str], where: str
) -> Iterator[_Points]:
    """Group a result's keypoints by their rectangle.

    With the tag KeyPointLabels a keypoint is one item; with KeyPoint and Labels its name is another
    item of its id.
    """
    boxes: dict[str, tuple[Any, str]] = {}
    points: list[tuple[Any, str]] = []
    related: dict[str, set[str]] = {}
    names = {str(item.get("id")): item for item in result if item.get("type") == "labels"}
    shapes = {str(item.get("id")) for item in result if item.get("type") in _UNNAMED}
    for number, item in enumerate(result):
        place = f"{where}: result[{number}]"
        kind = item.get("type")
        if kind in ("keypointlabels", "keypoint"):
            points.append((item, place))
        elif kind in ("rectanglelabels", "rectangle"):
            boxes[str(item.get("id"))] = item, place
        elif kind == "labels" and str(item.get("id")) in shapes:
            continue
        elif kind == "relation":
            ends = str(item.get("from_id")), str(item.get("to_id"))
            for one, other in (ends, ends[::-1]):
                related.setdefault(one, set()).add(other)
        else:
            skipped[f"{kind}, no keypoint"] += 1
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    size: tuple[int, int] | None = None
    for item, place in points:
        known, size = size, _size(item, place)
        if known not in (None, size):
            raise ValueError(
                f"{place}: original_width and original_height are {size}, expected those of the "
                f"keypoints before, {known}"
            )
        parent = str(item.get("parentID") or "")
        if not parent:
            near = sorted(related.get(str(item.get("id")), set()) & set(boxes))
            # Without a tie, all of a picture with one rectangle is of that.
            parent = near[0] if near else (next(iter(boxes)) if len(boxes) == 1 else "")
        is_named = item.get("type") == "keypointlabels"
        name = _label(item if is_named else names.get(str(item.get("id")), item), place)
        group = groups.setdefault(parent, {})
        if name in group:
            raise ValueError(
                f"{place}: {name} is there twice in one figure, expected once; tie keypoints to "
                "their rectangle by parentID"
            )
        group[name] = _pixels(item, ("x", "y"), size, place)
    skipped["rectangle without keypoints"] += len(boxes.keys() - groups.keys())
    for parent, group in groups.items():
        assert size is not None, "a group has points"
        box = _box(*boxes[parent], size) if parent in boxes else None
        yield _Points(image=_image(task, where), points=group, box=box, size=size)


def _size(item: Mapping[str, Any], where: str) -> tuple[int, int]:
    size = image_size_in(item, ("original_width", "original_height"), where)
    if size is None:
        raise ValueError(
            f"{where}: original_width and original_height are absent, expected the picture's "
            "size, since coordinates are percent of it"
        )
    return size


def _label(item: Mapping[str, Any], where: str) -> str:
    value = item.get("value")
    kind = "keypointlabels" if item.get("type") == "keypointlabels" else "labels"
    names = value.get(kind) if isinstance(value, dict) else None
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{where}: {kind} must be one name, got {names!r:.80}")
    return names[0]


def _pixels(
    item: Mapping[str, Any], names: tuple[str, str], size: tuple[int, int], where: str
) -> tuple[float, float]:
    """Return a point of percents in pixels of the picture as it is stored in the task."""
    value = item.get("value")
    fields = [value.get(name) if isinstance(value, dict) else None for name in names]
    percents = numbers(fields, (2,), f"{where}: {' and '.join(names)}")
    if (np.abs(percents) > 200).any():
        raise ValueError(
            f"{where}: {' and '.join(names)} must be percent of the picture, got {fields}"
        )
    if (percents == -1).all():
        raise ValueError(
            f"{where}: {' and '.join(names)} are -1, expected no keypoint where a joint is missing"
        )
    x, y = _unturned(percents[0], percents[1], item.get("image_rotation") or 0, where)
    return x / 100 * size[0], y / 100 * size[1]


def _unturned(x: float, y: float, rotation: Any, where: str) -> tuple[float, float]:
    """Return percents of the picture that was turned clockwise for labelling."""
    turned = {0: (x, y), 90: (y, 100 - x), 180: (100 - x, 100 - y), 270: (100 - y, x)}
    if not isinstance(rotation, int | float) or rotation % 360 not in turned:
        raise ValueError(f"{where}: image_rotation must be 0, 90, 180 or 270, got {rotation!r:.80}")
    return turned[int(rotation % 360)]


def _box(
    item: Mapping[str, Any], where: str, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return a rectangle in pixels, upright around it if it is turned; None if it has no size."""
    value = item.get("value")
    fields = value if isinstance(value, dict) else {}
    left, top, width, height = numbers(
        [fields.get(name) for name in ("x", "y", "width", "height")], (4,), f"{where}: rectangle"
    ).tolist()
    angle = np.deg2rad(float(numbers(fields.get("rotation") or 0, (), f"{where}: rotation")))
    rotation = item.get("image_rotation") or 0
    wide, high = size if rotation % 180 == 0 else size[::-1]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)]) / 100 * (wide, high)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    percents = (corners @ turn) / (wide, high) * 100 + (left, top)
    points = np.array([_unturned(x, y, rotation, where) for x, y in percents.tolist()])
    points = points / 100 * size
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    is_one = right - left > 0 and bottom - top > 0
    return (left, top, right - left, bottom - top) if is_one else None


def _image(task: Mapping[str, Any], where: str) -> str:
    """Return the path of a task's picture: of a URL its path, or the file that it names."""
    data = task.get("data")
    values = list(data.values()) if isinstance(data, dict) else []
    named = data.get("image") if isinstance(data, dict) else None
    texts = [value for value in values if isinstance(value, str)]
    pictures = [text for text in texts if _is_picture(text)]
    url = named or next(iter(pictures or texts), None)
    if not isinstance(url, str) or not url.strip():
        raise ValueError(f"{where}: data must have the path of an image, got {data!r:.80}")
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if local := parse_qs(parts.query).get("d"):
        return local[0]
    is_served = parts.scheme in ("http", "https") or url.startswith("/data/")
    return unquote(parts.path) if is_served else unquote(url)


def _is_picture(text: str) -> bool:
    """Whether a text names a picture by its suffix."""
    return PurePosixPath(text.partition("?")[0]).suffix.lower() in SUFFIXES


def _order(found: Sequence[_Points], path: Path) -> tuple[tuple[str, ...], Path | None, str]:
    """Return the joints in order, the configuration that states it, and a line about it."""
    used = list(dict.fromkeys(name for figure in found for name in figure.points))
    for config in sorted(path.parent.glob("*.xml")):
        names = _configured(config) if is_inside(path.parent, config) else ()
        if names and set(used) <= set(names):
            return names, config, f"the order of joints is that of {config.name}"
    if used and set(used) <= set(COCO.joints):
        return COCO.joints, None, "all joints are COCO's: the joint set is that"
    return tuple(used), None, "the order of joints is that of their first appearance"


def _configured(path: Path) -> tuple[str, ...]:
    """Read the keypoints of a labelling configuration; nothing if it is none."""
    if not path.is_file() or path.stat().st_size > _CONFIG_BYTES:
        return ()
    data = path.read_bytes()
    if b"KeyPointLabels" not in data:
        return ()
    try:
        root = parse_xml(data, str(path))
    except ValueError:
        return ()
    labels = [label for group in root.iter("KeyPointLabels") for label in group.iter("Label")]
    numbers_of = [label.get("model_index", "") for label in labels]
    if all(number.isdecimal() for number in numbers_of):
        labels.sort(key=lambda label: int(label.get("model_index", "0")))
    return tuple(dict.fromkeys(label.get("value", "") for label in labels))


def _figure(found: _Points, skeleton: Skeleton) -> Figure:
    joints = np.array([found.points.get(name, (0.0, 0.0)) for name in skeleton.joints])
    states = np.array(
        [
            Visibility.VISIBLE if name in found.points else Visibility.MISSING
            for name in skeleton.joints
        ],
        np.int64,
    )
    return Figure(
        image=found.image,
        category=skeleton.name,
        joints=joints,
        states=states,
        box=found.box,
        image_size=found.size,
    )
