"""COCO's files for average precision: annotations as the truth, and keypoint results."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from pipeline.data.formats.annotations import (
    entry,
    numbers,
    numbers_in,
    path_in,
    read_json,
    records_by_id,
    records_of,
)
from pipeline.io.parsing import Identifier, identifier_of, items_of, text_of
from pipeline.pose.joint_sets import JOINT_SETS, JointSet

# A person's area where only the box is known: the share that CrowdPose's and Ultralytics'
# evaluations take.
AREA_OF_BOX = 0.53


@dataclass(frozen=True, kw_only=True)
class AnnotatedPeople:
    """The truth: one row per person, in pixels of the original images.

    `images` are numbers of the images; `boxes` are (left, top, width, height). `crowd` marks
    annotations of groups, which are ignored as often as they are detected.
    """

    images: Int64[np.ndarray, " person"]
    categories: Int64[np.ndarray, " person"]
    joints: Float[np.ndarray, "person joint 2"]
    annotated: Bool[np.ndarray, "person joint"]
    boxes: Float[np.ndarray, "person 4"]
    areas: Float[np.ndarray, " person"]
    crowd: Bool[np.ndarray, " person"]


@dataclass(frozen=True, kw_only=True)
class DetectedPeople:
    """Predicted people, with a score by which they are ranked."""

    images: Int64[np.ndarray, " person"]
    categories: Int64[np.ndarray, " person"]
    joints: Float[np.ndarray, "person joint 2"]
    scores: Float[np.ndarray, " person"]


@dataclass(frozen=True, kw_only=True)
class CocoTruth:
    """The people of an annotation file.

    `images` and `categories` number the file's ids, and `files` has the images' paths where the
    file names them. `notes` say what the file lacked.
    """

    people: AnnotatedPeople
    sigmas: tuple[float, ...]
    images: Mapping[Identifier, int]
    categories: Mapping[Identifier, int]
    files: Mapping[Identifier, str]
    notes: tuple[str, ...]


def read_coco_truth(path: Path, joint_set: JointSet | None = None) -> CocoTruth:
    """Read an annotation file, everybody in it, crowds and people without labelled joints included.

    The OKS sigmas are those of `joint_set`, or of the known set with the categories' keypoints.
    An area that is absent is 0.53 times the box's, a box that is absent that of the labelled
    joints. Raises ValueError naming file, record and field.
    """
    contents = read_json(path)
    names, categories = _categories(path, contents)
    found = records_by_id(contents, "images", path, lambda record: record.get("file_name"))
    images = {known: number for number, known in enumerate(found)}
    files = {
        known: path_in(record, "file_name", where)
        for known, (where, record) in found.items()
        if "file_name" in record
    }
    records = records_of(contents, "annotations", str(path))
    count, joints = len(records), len(names)
    people = AnnotatedPeople(
        images=np.zeros(count, np.int64),
        categories=np.zeros(count, np.int64),
        joints=np.zeros((count, joints, 2)),
        annotated=np.zeros((count, joints), bool),
        boxes=np.zeros((count, 4)),
        areas=np.zeros(count),
        crowd=np.zeros(count, bool),
    )
    without = {"box": 0, "area": 0}
    for row, record in enumerate(records):
        where = f"{path}: annotations[{row}]"
        people.images[row] = _known(record, "image_id", images, where)
        people.categories[row] = _known(record, "category_id", categories, where)
        people.joints[row], people.annotated[row] = _keypoints(record, joints, where)
        labelled = people.joints[row][people.annotated[row]]
        people.boxes[row], has_box = _box(record, labelled, where)
        area = record.get("area")
        if area is None:
            area = AREA_OF_BOX * people.boxes[row, 2] * people.boxes[row, 3]
            without["area"] += 1
        without["box"] += not has_box
        people.areas[row] = numbers(area, (), f"{where}: area")
        people.crowd[row] = bool(record.get("iscrowd"))
    instead = {
        "box": "that of their labelled joints is taken",
        "area": f"{AREA_OF_BOX:g} times the box's is taken",
    }
    notes = [
        f"{count:,} people have no {it}: {instead[it]}" for it, count in without.items() if count
    ]
    return CocoTruth(
        people=people,
        sigmas=_sigmas(path, names, joint_set),
        images=images,
        categories=categories,
        files=files,
        notes=tuple(notes),
    )


def read_coco_results(path: Path, truth: CocoTruth) -> DetectedPeople:
    """Read keypoint results: a list of image_id, category_id, keypoints and score.

    Raises ValueError naming file, record and field, and where a result is of an image or a
    category that the truth doesn't have.
    """
    contents, count = read_json(path), len(truth.sigmas)
    found = records_of({"results": contents}, "results", str(path))
    joints = np.zeros((len(found), count, 2))
    images, categories = np.zeros(len(found), np.int64), np.zeros(len(found), np.int64)
    scores = np.zeros(len(found))
    for number, record in enumerate(found):
        where = f"{path}: results[{number}]"
        images[number] = _known(record, "image_id", truth.images, where)
        categories[number] = _known(record, "category_id", truth.categories, where)
        keypoints = numbers_in(record, "keypoints", (3 * count,), where)
        joints[number] = keypoints.reshape(count, 3)[:, :2]
        scores[number] = numbers_in(record, "score", (), where)
    return DetectedPeople(images=images, categories=categories, joints=joints, scores=scores)


def _categories(path: Path, contents: Any) -> tuple[tuple[str, ...], dict[Identifier, int]]:
    """Return the keypoints' names, and the number of each category by its id."""
    records = records_by_id(contents, "categories", path)
    names: tuple[str, ...] = ()
    for where, record in records.values():
        here = items_of(entry(record, "keypoints", where), f"{where}: keypoints", text_of)
        if names and here != names:
            raise ValueError(
                f"{where} has other keypoints than categories[0]: {', '.join(here):.80}; expected "
                "the same in all categories"
            )
        names = here
    if not names:
        raise ValueError(f"{path}: categories: expected one with keypoints, got {len(records)}")
    return names, {known: number for number, known in enumerate(records)}


def _sigmas(path: Path, names: tuple[str, ...], joint_set: JointSet | None) -> tuple[float, ...]:
    if joint_set is None:
        known = [known for known in JOINT_SETS.values() if known.sigmas and known.joints == names]
        if not known:
            raise ValueError(
                f"{path}: the OKS sigmas of its {len(names)} keypoints ({', '.join(names):.60}) "
                "are not known: give a joint-set file with sigmas by --joint-set"
            )
        return known[0].sigmas
    if joint_set.joints != names:
        raise ValueError(
            f"{path}: its keypoints are {', '.join(names):.80}, those of joint set "
            f"{joint_set.name} are {', '.join(joint_set.joints):.80}; expected the same"
        )
    if not joint_set.sigmas:
        raise ValueError(f"joint set {joint_set.name} has no sigmas, which OKS needs")
    return joint_set.sigmas


def _known(
    record: Mapping[str, Any], name: str, known: Mapping[Identifier, int], where: str
) -> int:
    value = identifier_of(entry(record, name, where), f"{where}: {name}")
    if value not in known:
        raise ValueError(f"{where}: {name} {value!r} is not in the annotation file")
    return known[value]


def _keypoints(
    record: Mapping[str, Any], count: int, where: str
) -> tuple[Float[np.ndarray, "joint 2"], Bool[np.ndarray, " joint"]]:
    """Return joints, and which are labelled; nothing of an annotation without keypoints is."""
    value = record.get("keypoints")
    if value is None or value == []:
        return np.zeros((count, 2)), np.zeros(count, bool)
    triples = numbers(value, (3 * count,), f"{where}: keypoints").reshape(count, 3)
    return triples[:, :2], triples[:, 2] > 0


def _box(
    record: Mapping[str, Any], labelled: Float[np.ndarray, "joint 2"], where: str
) -> tuple[Float[np.ndarray, " 4"], bool]:
    """Return the box, and whether the annotation has it."""
    value = record.get("bbox")
    if value is not None and value != []:
        return numbers(value, (4,), f"{where}: bbox"), True
    if not len(labelled):
        return np.zeros(4), False
    corner = labelled.min(axis=0)
    return np.concatenate([corner, labelled.max(axis=0) - corner]), False
