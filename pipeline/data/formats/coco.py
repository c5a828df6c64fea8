"""Reader of COCO keypoints (Lin et al., ECCV 2014)."""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.data.formats.annotations import Annotations, entry, read_json
from pipeline.pose.geometry import frame_box
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Person, Visibility

_JOINTS = len(COCO.joints)


def read_coco(path: Path) -> Annotations:
    """Read person_keypoints_*.json: 17 x [x, y, v] with v 0 unlabelled, 1 occluded, 2 visible; 0-based pixels.

    The frame is a square a quarter wider than the box's longer side. Crowds
    and people without a labelled joint are skipped. There is no head box.
    Raises ValueError naming file, annotation and field.
    """
    contents = read_json(path)
    images = {
        entry(image, "id", f"{path}: images[{number}]"): image
        for number, image in enumerate(entry(contents, "images", str(path)))
    }
    people: list[Person] = []
    skipped: Counter[str] = Counter()
    in_image: Counter[str] = Counter()
    for number, record in enumerate(entry(contents, "annotations", str(path))):
        where = f"{path}: annotations[{number}]"
        if record.get("iscrowd"):
            skipped["crowd"] += 1
        elif not any(entry(record, "keypoints", where)[2::3]):
            skipped["no labelled joint"] += 1
        else:
            person = _person(record, images, in_image, where)
            in_image[person.image] += 1
            people.append(person)
    return Annotations(joint_set=COCO, people=people, skipped=skipped)


def _person(
    record: dict[str, Any],
    images: dict[Any, dict[str, Any]],
    in_image: Counter[str],
    where: str,
) -> Person:
    numbers = record["keypoints"]
    if len(numbers) != 3 * _JOINTS:
        raise ValueError(f"{where}: keypoints has {len(numbers)} numbers, expected {3 * _JOINTS}")
    image_id = entry(record, "image_id", where)
    if image_id not in images:
        raise ValueError(f"{where}: image_id {image_id} is not among the images")
    if not set(numbers[2::3]) <= {0, 1, 2}:
        raise ValueError(f"{where}: visibility must be 0, 1 or 2, got {numbers[2::3]}")
    left, top, width, height = map(float, entry(record, "bbox", where))
    if min(width, height) <= 0:
        raise ValueError(f"{where}: bbox must have a positive size, got {record['bbox']}")
    center, scale = frame_box((left, top, width, height))
    image = images[image_id]
    name = entry(image, "file_name", f"{where}: image {image_id}")
    return Person(
        image=str(name),
        person=in_image[name],
        center=center,
        scale=scale,
        joints=tuple(
            (float(x), float(y)) for x, y in zip(numbers[0::3], numbers[1::3], strict=True)
        ),
        visibility=tuple(Visibility(state) for state in numbers[2::3]),
        box=(left, top, width, height),
        image_size=(int(image["width"]), int(image["height"])),
    )
