"""COCO: keypoint results for evaluation, and annotations that labelling tools import."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.data.formats.coco_truth import AREA_OF_BOX
from pipeline.inference.boxes.matching import MatchedBoxes, image_number
from pipeline.inference.formats.labels import LabelledPerson, Labels, Written
from pipeline.inference.results import Estimate
from pipeline.pose.joint_set import JointSet

_CATEGORY = 1


def coco_files(labels: Labels) -> Written:
    """Write results and annotations; a score is the box's times the joints' mean confidence."""
    people = [(picture, person) for picture in labels.pictures for person in picture.people]
    results = [
        {
            "image_id": labels.image_ids[picture.place],
            "category_id": _CATEGORY,
            "keypoints": _triples(person, person.confidence.tolist()),
            "score": person.score,
        }
        for picture, person in people
    ]
    annotations = [
        {"id": number, "image_id": labels.image_ids[picture.place], **_annotation(person)}
        for number, (picture, person) in enumerate(people, start=1)
    ]
    images = [
        {
            "id": labels.image_ids[picture.place],
            "file_name": picture.place,
            "width": picture.width,
            "height": picture.height,
        }
        for picture in labels.pictures
    ]
    content = {
        "info": {"description": f"Predictions by {labels.author}"},
        "images": images,
        "annotations": annotations,
        "categories": [category(labels.joint_set)],
    }
    return Written(
        files={
            "coco_results.json": (json.dumps(results) + "\n").encode(),
            "coco_annotations.json": (json.dumps(content) + "\n").encode(),
        }
    )


def category(joint_set: JointSet) -> dict[str, Any]:
    """Return the joint set as a category, with the skeleton counted from 1."""
    return {
        "id": _CATEGORY,
        "name": joint_set.name,
        "keypoints": list(joint_set.joints),
        "skeleton": [[start + 1, end + 1] for start, end in joint_set.limbs],
    }


def image_ids(
    estimates: Sequence[Estimate], boxes: MatchedBoxes | None
) -> dict[tuple[str, int | None], int]:
    """Return a number per picture: the boxes' or the one in its name, if unique; else its place."""
    keys = [(estimate.file, estimate.frame) for estimate in estimates]
    for number_of in (boxes.image_id if boxes else lambda _: None, image_number):
        numbers = [number_of(Path(file)) for file, _ in keys]
        if None not in numbers and len(set(numbers)) == len(keys):
            return {key: int(number or 0) for key, number in zip(keys, numbers, strict=True)}
    return {key: place for place, key in enumerate(keys, start=1)}


def _annotation(person: LabelledPerson) -> dict[str, Any]:
    box = person.frame
    return {
        "category_id": _CATEGORY,
        "keypoints": _triples(person, person.states.tolist()),
        "num_keypoints": len(person.labelled),
        "bbox": list(box),
        "area": AREA_OF_BOX * box[2] * box[3],
        "iscrowd": 0,
        "score": person.score,
    }


def _triples(person: LabelledPerson, third: Sequence[float]) -> list[float]:
    """Return x, y and a third value of each joint; COCO writes 0, 0, 0 for a missing one."""
    rows = zip(person.joints.tolist(), person.states.tolist(), third, strict=True)
    return [
        value for (x, y), state, more in rows for value in ((x, y, more) if state else (0, 0, 0))
    ]
