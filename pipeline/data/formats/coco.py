"""Reader of COCO keypoints (Lin et al., ECCV 2014)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import (
    Annotations,
    entry,
    image_counter,
    person_of,
    read_json,
)
from pipeline.pose.geometry import frame_box
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Person

_NUM_KEYPOINTS = 3 * len(COCO.joints)


def read_coco(path: Path) -> Annotations:
    """Read person_keypoints_*.json, 0-based: 17 x [x, y, v].

    v is 0 for unlabelled, 1 for occluded, 2 for visible. The frame is a square a quarter wider than
    the box's longer side. Crowds and people without a labelled joint are skipped. There is no head
    box. Raises ValueError naming file, annotation and field.
    """
    contents = read_json(path)
    images = {
        entry(image, "id", f"{path}: images[{number}]"): image
        for number, image in enumerate(entry(contents, "images", str(path)))
    }
    people: list[Person] = []
    skipped: Counter[str] = Counter()
    number_in = image_counter()
    for number, record in enumerate(entry(contents, "annotations", str(path))):
        where = f"{path}: annotations[{number}]"
        if record.get("iscrowd"):
            skipped["crowd"] += 1
        elif not any(entry(record, "keypoints", where)[2::3]):
            skipped["no labelled joint"] += 1
        else:
            people.append(_person(record, images, number_in, where))
    return Annotations(joint_set=COCO, people=people, skipped=skipped)


def _person(
    record: dict[str, Any],
    images: dict[Any, dict[str, Any]],
    number_in: Callable[[str], int],
    where: str,
) -> Person:
    keypoints, image_id = record["keypoints"], entry(record, "image_id", where)
    if len(keypoints) != _NUM_KEYPOINTS:
        raise ValueError(
            f"{where}: keypoints has {len(keypoints)} numbers, expected {_NUM_KEYPOINTS}"
        )
    if image_id not in images:
        raise ValueError(f"{where}: image_id {image_id} is not among the images")
    if not set(keypoints[2::3]) <= {0, 1, 2}:
        raise ValueError(f"{where}: visibility must be 0, 1 or 2, got {keypoints[2::3]}")
    box = left, top, width, height = tuple(map(float, entry(record, "bbox", where)))
    if min(width, height) <= 0:
        raise ValueError(f"{where}: bbox must have a positive size, got {record['bbox']}")
    center, scale = frame_box((left, top, width, height))
    image, at_image = images[image_id], f"{where}: image {image_id}"
    name = str(entry(image, "file_name", at_image))
    x_y_state = np.array(keypoints, np.float64).reshape(-1, 3)
    return person_of(
        x_y_state[:, :2],
        x_y_state[:, 2].astype(np.int64),
        image=name,
        person=number_in(name),
        center=center,
        scale=scale,
        box=box,
        image_size=tuple(int(entry(image, side, at_image)) for side in ("width", "height")),
    )
