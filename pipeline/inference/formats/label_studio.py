"""Label Studio: tasks with predictions, and the labelling configuration that shows them."""

import json
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, Written
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Visibility

_IMAGE, _JOINTS, _BOX = "image", "keypoints", "box"
# Width of a point on the screen, in percent of the picture's.
_POINT = 0.5


def label_studio_files(labels: Labels) -> Written:
    """Write label_studio/tasks.json and config.xml.

    Pictures are served by Label Studio from its local files, below the folder that
    LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT names. It has no keypoints in videos.
    """
    tasks = [_task(picture, labels) for picture in labels.photographs]
    frames = len(labels.pictures) - len(tasks)
    notes = []
    if tasks:
        notes.append(
            "label-studio: serve the pictures with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
            f"and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={labels.root}"
        )
    if frames:
        notes.append(
            f"label-studio: {frames:,} frames of videos are left out, since it labels keypoints "
            "in photographs only"
        )
    files = {
        "label_studio/tasks.json": (json.dumps(tasks, indent=1) + "\n").encode(),
        "label_studio/config.xml": _config(labels.joint_set),
    }
    return Written(files=files if tasks else {}, notes=notes)


def _task(picture: Picture, labels: Labels) -> dict[str, Any]:
    result = [
        item
        for number, person in enumerate(picture.people)
        for item in _items(number, person, picture, labels.joint_set)
    ]
    scores = [person.score for person in picture.people]
    prediction = {
        "model_version": labels.author,
        "score": sum(scores) / max(len(scores), 1),
        "result": result,
    }
    image = f"/data/local-files/?d={quote(picture.name, errors='surrogateescape')}"
    return {"data": {_IMAGE: image}, "predictions": [prediction]}


def _items(
    number: int, person: LabelledPerson, picture: Picture, joint_set: JointSet
) -> list[dict[str, Any]]:
    """Return the box, and the joints that belong to it; in percent of the picture's sides."""
    parent = f"person{number}"
    sides = picture.width, picture.height
    common = {
        "to_name": _IMAGE,
        "image_rotation": 0,
        "original_width": picture.width,
        "original_height": picture.height,
    }
    left, top, width, height = (
        100 * value / sides[place % 2] for place, value in enumerate(person.frame)
    )
    box = {"x": left, "y": top, "width": width, "height": height, "rotation": 0}
    items: list[dict[str, Any]] = [
        {
            "id": parent,
            "type": "rectanglelabels",
            "from_name": _BOX,
            "value": box | {"rectanglelabels": [joint_set.name]},
            "score": person.score,
            **common,
        }
    ]
    rows = zip(joint_set.joints, person.joints.tolist(), person.states.tolist(), strict=True)
    for place, (joint, (x, y), state) in enumerate(rows):
        if state == Visibility.MISSING:
            continue
        point = {"x": 100 * x / sides[0], "y": 100 * y / sides[1], "width": _POINT}
        items.append(
            {
                "id": f"{parent}-{place}",
                "parentID": parent,
                "type": "keypointlabels",
                "from_name": _JOINTS,
                "value": point | {"keypointlabels": [joint]},
                "score": float(person.confidence[place]),
                **common,
            }
        )
    return items


def _config(joint_set: JointSet) -> bytes:
    view = Element("View")
    SubElement(view, "Image", {"name": _IMAGE, "value": f"${_IMAGE}"})
    joints = SubElement(view, "KeyPointLabels", {"name": _JOINTS, "toName": _IMAGE})
    for place, joint in enumerate(joint_set.joints):
        SubElement(joints, "Label", {"value": joint, "model_index": str(place)})
    boxes = SubElement(view, "RectangleLabels", {"name": _BOX, "toName": _IMAGE})
    SubElement(boxes, "Label", {"value": joint_set.name})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="utf-8") + b"\n"
