"""Readers of MPII Human Pose (Andriluka et al., CVPR 2014) as others re-packaged it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.data.formats.annotations import (
    Annotations,
    entry,
    numbers,
    positive,
    read_h5,
    read_json,
    read_mat,
)
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person, Visibility

# Newell et al.'s code moves the centre down and widens the box, so that feet are not cut off.
_CENTER_DOWN = 15
_SCALE_UP = 1.25
# The official toolkit's SC_BIAS: head size is this share of the head box's diagonal.
HEAD_BIAS = 0.6
# Published truth is rounded; an order that differs is off by hundreds of pixels.
_SAME_PLACE_PX = 2.5


def adjusted(center: tuple[float, float], scale: float) -> tuple[tuple[float, float], float]:
    """Frame a person as the paper's authors do, from MPII's own objpos and scale."""
    x, y = center
    return (x, y + _CENTER_DOWN * scale), scale * _SCALE_UP


def read_mpii_json(path: Path, head_boxes: Path | None = None) -> Annotations:
    """Read pytorch-pose's mpii_annotations.json: 1-based pixels, centre and scale unadjusted.

    A joint [0, 0, 0] is missing; a last value of 0 beside coordinates means
    occluded. The file has its own split. Head sizes of validation people come
    from `head_boxes` (see `with_head_sizes`), and are None without. Raises
    ValueError naming file, entry and field.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of people, got {type(records).__name__}")
    people = [_json_person(record, f"{path}: entry {n}") for n, record in enumerate(records)]
    validation = [person for person in people if person.split == "val"]
    if head_boxes is not None:
        validation = with_head_sizes(validation, head_boxes)
    training = [person for person in people if person.split == "train"]
    return Annotations(joint_set=MPII, people=training + validation)


def _json_person(record: Any, where: str) -> Person:
    triples = numbers(entry(record, "joint_self", where), (16, 3), f"{where}: joint_self")
    center, scale = adjusted(
        _point(entry(record, "objpos", where), f"{where}: objpos"),
        positive(entry(record, "scale_provided", where), f"{where}: scale_provided"),
    )
    return Person(
        image=str(entry(record, "img_paths", where)),
        person=int(entry(record, "people_index", where)) - 1,
        center=(center[0] - 1, center[1] - 1),
        scale=scale,
        joints=tuple((float(x) - 1, float(y) - 1) for x, y, _ in triples),
        visibility=tuple(
            Visibility.MISSING
            if not triple.any()
            else Visibility.VISIBLE
            if triple[2]
            else Visibility.OCCLUDED
            for triple in triples
        ),
        image_size=(
            int(entry(record, "img_width", where)),
            int(entry(record, "img_height", where)),
        ),
        split="val" if entry(record, "isValidation", where) else "train",
    )


def read_mpii_hrnet(path: Path, head_boxes: Path | None = None) -> Annotations:
    """Read HRNet's annot/{train,valid}.json: 1-based pixels, centre and scale unadjusted.

    The format tells annotated from missing (-1, -1), not occluded from
    visible: every annotated joint is read as visible. It has no person index:
    people are numbered within their image in the file's order. Raises
    ValueError naming file, entry and field.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of people, got {type(records).__name__}")
    in_image: Counter[str] = Counter()
    people = []
    for number, record in enumerate(records):
        person = _hrnet_person(record, f"{path}: entry {number}", in_image)
        in_image[person.image] += 1
        people.append(person)
    if head_boxes is not None:
        people = with_head_sizes(people, head_boxes)
    return Annotations(joint_set=MPII, people=people)


def _hrnet_person(record: Any, where: str, in_image: Counter[str]) -> Person:
    joints = numbers(entry(record, "joints", where), (16, 2), f"{where}: joints")
    annotated = numbers(entry(record, "joints_vis", where), (16,), f"{where}: joints_vis")
    center, scale = adjusted(
        _point(entry(record, "center", where), f"{where}: center"),
        positive(entry(record, "scale", where), f"{where}: scale"),
    )
    image = str(entry(record, "image", where))
    return Person(
        image=image,
        person=in_image[image],
        center=(center[0] - 1, center[1] - 1),
        scale=scale,
        joints=tuple((float(x) - 1, float(y) - 1) for x, y in joints),
        visibility=tuple(Visibility.VISIBLE if flag else Visibility.MISSING for flag in annotated),
    )


def with_head_sizes(people: list[Person], path: Path) -> list[Person]:
    """Add head sizes from detections_our_format.mat to validation people in the published order.

    The people may be the first part of the list. Raises ValueError if the
    file's joints are not theirs, which would pair heads with strangers.
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


class MpiiTruth:
    """The published validation truth of MPII, in original-image pixels (1-based).

    joints (N, 16, 2), annotated (N, 16), head_sizes (N,) in pixels.
    """

    def __init__(
        self,
        joints: Float[np.ndarray, "person 16 2"],
        annotated: np.ndarray,
        head_sizes: Float[np.ndarray, " person"],
    ) -> None:
        self.joints, self.annotated, self.head_sizes = joints, annotated, head_sizes


def read_mpii_truth(path: Path) -> MpiiTruth:
    """Read detections_our_format.mat. Raises ValueError naming file, field and shape."""
    contents = read_mat(path)
    fields = {}
    for name, shape in (
        ("pos_gt_src", (16, 2, None)),
        ("jnt_missing", (16, None)),
        ("headboxes_src", (2, 2, None)),
    ):
        value = np.asarray(entry(contents, name, str(path)))
        if len(value.shape) != len(shape) or any(
            want not in (None, got) for want, got in zip(shape, value.shape, strict=True)
        ):
            expected = str(shape).replace("None", "N")
            raise ValueError(f"{path}: {name} has shape {value.shape}, expected {expected}")
        fields[name] = value
    boxes = fields["headboxes_src"]
    return MpiiTruth(
        joints=fields["pos_gt_src"].transpose(2, 0, 1),
        annotated=fields["jnt_missing"].T == 0,
        head_sizes=HEAD_BIAS * np.linalg.norm(boxes[1] - boxes[0], axis=0),
    )


def _point(value: Any, where: str) -> tuple[float, float]:
    x, y = numbers(value, (2,), where)
    return float(x), float(y)


def read_mpii_predictions(path: Path, people: int) -> Float[np.ndarray, "person 16 2"]:
    """Read `preds` (people, 16, 2) from a .mat or .h5 file. Raises ValueError naming file and shape."""
    contents = read_h5(path) if path.suffix in (".h5", ".hdf5") else read_mat(path)
    predictions = np.asarray(entry(contents, "preds", str(path)), np.float64)
    expected = (people, len(MPII.joints), 2)
    if predictions.shape != expected:
        raise ValueError(f"{path}: preds has shape {predictions.shape}, expected {expected}")
    return predictions
