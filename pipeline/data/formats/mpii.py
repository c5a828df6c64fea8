"""Readers of MPII Human Pose (Andriluka et al., CVPR 2014) as others re-packaged it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.data.formats.annotations import (
    Annotations,
    Point,
    entry,
    image_counter,
    image_size_in,
    numbers_in,
    path_in,
    person_of,
    positive,
    read_json,
    read_mat,
)
from pipeline.io.hdf5 import read_h5
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person, Visibility

# Newell et al.'s code moves the centre down and widens the box, so that feet are not cut off.
_CENTER_DOWN = 15
_SCALE_UP = 1.25
# The official toolkit's SC_BIAS: head size is this share of the head box's diagonal.
HEAD_BIAS = 0.6
# Published truth is rounded; an order that differs is off by hundreds of pixels.
_SAME_PLACE_PX = 2.5


def adjusted(center: Point, scale: float) -> tuple[Point, float]:
    """Frame a person as the paper's authors do, in 0-based pixels.

    `center` and `scale` are MPII's own objpos, whose pixels are 1-based, and scale.
    """
    x, y = center
    return (x - 1, y + _CENTER_DOWN * scale - 1), scale * _SCALE_UP


def read_mpii_json(path: Path, head_boxes: Path | None = None) -> Annotations:
    """Read pytorch-pose's mpii_annotations.json: 1-based pixels, centre and scale unadjusted.

    A joint [0, 0, 0] is missing; a last value of 0 beside coordinates means occluded. The file has
    its own split. Head sizes of validation people come from `head_boxes` (see `with_head_sizes`),
    and are None without. Raises ValueError naming file, entry and field.
    """
    people = [_json_person(record, where) for record, where in _records(path)]
    validation = [person for person in people if person.split == "val"]
    if head_boxes is not None:
        validation = with_head_sizes(validation, head_boxes)
    training = [person for person in people if person.split == "train"]
    return Annotations(joint_set=MPII, people=training + validation)


def read_mpii_hrnet(path: Path, head_boxes: Path | None = None) -> Annotations:
    """Read HRNet's annot/{train,valid}.json: 1-based pixels, centre and scale unadjusted.

    The format tells annotated from missing (-1, -1), not occluded from visible: every annotated
    joint is read as visible. It has no person index: people are numbered within their image in the
    file's order. Raises ValueError naming file, entry and field.
    """
    number_in = image_counter()
    people = []
    for record, where in _records(path):
        image = path_in(record, "image", where)
        people.append(_hrnet_person(record, where, image, number_in(image)))
    if head_boxes is not None:
        people = with_head_sizes(people, head_boxes)
    return Annotations(joint_set=MPII, people=people)


def _records(path: Path) -> Iterator[tuple[Any, str]]:
    """Yield each record of a JSON file, and the name by which errors call it."""
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of people, got {type(records).__name__}")
    for number, record in enumerate(records):
        where = f"{path}: entry {number}"
        if not isinstance(record, dict):
            raise ValueError(f"{where} must be an object, got {record!r:.80}")
        yield record, where


def _json_person(record: Any, where: str) -> Person:
    triples = numbers_in(record, "joint_self", (16, 3), where)
    annotated = np.where(triples[:, 2] != 0, Visibility.VISIBLE, Visibility.OCCLUDED)
    center, scale = _frame(record, "objpos", "scale_provided", where)
    return person_of(
        triples[:, :2] - 1,
        np.where(triples.any(axis=1), annotated, Visibility.MISSING),
        image=path_in(record, "img_paths", where),
        person=int(numbers_in(record, "people_index", (), where)) - 1,
        center=center,
        scale=scale,
        image_size=image_size_in(record, ("img_width", "img_height"), where),
        split="val" if numbers_in(record, "isValidation", (), where) else "train",
    )


def _hrnet_person(record: Any, where: str, image: str, index: int) -> Person:
    annotated = numbers_in(record, "joints_vis", (16,), where) != 0
    center, scale = _frame(record, "center", "scale", where)
    return person_of(
        numbers_in(record, "joints", (16, 2), where) - 1,
        np.where(annotated, Visibility.VISIBLE, Visibility.MISSING),
        image=image,
        person=index,
        center=center,
        scale=scale,
    )


def _frame(record: Any, center: str, scale: str, where: str) -> tuple[Point, float]:
    x, y = numbers_in(record, center, (2,), where).tolist()
    return adjusted((x, y), positive(entry(record, scale, where), f"{where}: {scale}"))


@dataclass(frozen=True, kw_only=True)
class MpiiTruth:
    """The published validation truth of MPII, in 1-based pixels of the original images."""

    joints: Float[np.ndarray, "person 16 2"]
    annotated: Bool[np.ndarray, "person 16"]
    head_sizes: Float[np.ndarray, " person"]


def read_mpii_truth(path: Path) -> MpiiTruth:
    """Read detections_our_format.mat. Raises ValueError naming file, field and shape."""
    contents = read_mat(path)
    joints = _array_of_people(contents, "pos_gt_src", (16, 2), path)
    missing = _array_of_people(contents, "jnt_missing", (16,), path)
    boxes = _array_of_people(contents, "headboxes_src", (2, 2), path)
    return MpiiTruth(
        joints=joints.transpose(2, 0, 1),
        annotated=missing.T == 0,
        head_sizes=HEAD_BIAS * np.linalg.norm(boxes[1] - boxes[0], axis=0),
    )


def _array_of_people(
    contents: Mapping[str, Any], name: str, shape: tuple[int, ...], path: Path
) -> np.ndarray:
    """Return a field of the given shape but for a last axis, which is people."""
    value = np.asarray(entry(contents, name, str(path)))
    if value.shape[:-1] != shape:
        expected = ", ".join([*map(str, shape), "N"])
        raise ValueError(f"{path}: {name} has shape {value.shape}, expected ({expected})")
    return value


def with_head_sizes(people: list[Person], path: Path) -> list[Person]:
    """Add head sizes from detections_our_format.mat to validation people in the published order.

    The people may be the first part of the list. Raises ValueError if the file's joints are not
    theirs, which would pair heads with strangers.
    """
    truth = read_mpii_truth(path)
    if len(people) > len(truth.head_sizes):
        raise ValueError(f"{path}: {len(truth.head_sizes)} people, expected at least {len(people)}")
    for number, person in enumerate(people):
        annotated = truth.annotated[number] & (np.array(person.visibility) > 0)
        # The file keeps MATLAB's 1-based pixels.
        apart = np.abs(np.array(person.joints) + 1 - truth.joints[number])[annotated]
        if len(apart) and np.median(apart) > _SAME_PLACE_PX:
            raise ValueError(
                f"{path}: person {number} is not {person.key} of the annotations "
                f"(joints {np.median(apart):.0f} px apart, expected at most {_SAME_PLACE_PX})"
            )
    return [
        replace(person, head_size=float(size))
        for person, size in zip(people, truth.head_sizes, strict=False)
    ]


def read_mpii_predictions(path: Path, people: int) -> Float[np.ndarray, "person 16 2"]:
    """Read `preds` (people, 16, 2) of a .mat or .h5 file. Raises ValueError naming the shape."""
    contents = read_h5(path) if path.suffix in (".h5", ".hdf5") else read_mat(path)
    predictions = np.asarray(entry(contents, "preds", str(path)), np.float64)
    expected = (people, len(MPII.joints), 2)
    if predictions.shape != expected:
        raise ValueError(f"{path}: preds has shape {predictions.shape}, expected {expected}")
    return predictions
