"""Ultralytics' YOLO-pose: data.yaml, and a text file a picture."""

import json
from pathlib import PurePosixPath

from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, Written
from pipeline.pose.person import Visibility


def yolo_files(labels: Labels) -> Written:
    """Write labels/ in the mirror image of images/, where the pictures are to be put.

    All numbers are shares of the picture. A frame's file is VIDEO_NUMBER.txt.
    """
    joint_set = labels.joint_set
    names = {0: joint_set.name}
    # JSON is YAML, with quotes where a name needs them.
    lines = {
        "path": ".",
        "train": "images",
        "val": "images",
        "kpt_shape": [len(joint_set.joints), 3],
        "flip_idx": list(joint_set.mirror),
        "names": names,
        "kpt_names": {0: list(joint_set.joints)},
    }
    files = {"yolo/data.yaml": "".join(f"{key}: {_yaml(value)}\n" for key, value in lines.items())}
    for picture in labels.pictures:
        rows = [_row(person, picture) for person in picture.people]
        files[f"yolo/labels/{_name(picture)}.txt"] = "".join(f"{row}\n" for row in rows)
    note = f"yolo: link or copy {labels.root} to yolo/images, beside yolo/labels"
    notes = [note] if labels.photographs else []
    if labels.videos:
        notes.append("yolo: frames of videos are named VIDEO_NUMBER; extract them under that name")
    return Written(files={name: text.encode() for name, text in files.items()}, notes=notes)


def _yaml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _name(picture: Picture) -> str:
    path = PurePosixPath(picture.name)
    frame = "" if picture.frame is None else f"_{picture.frame:06d}"
    return f"{path.with_suffix('')}{frame}"


def _row(person: LabelledPerson, picture: Picture) -> str:
    left, top, width, height = person.frame
    box = (left + width / 2, top + height / 2, width, height)
    sides = (picture.width, picture.height)
    numbers = [value / sides[place % 2] for place, value in enumerate(box)]
    for (x, y), state in zip(person.joints.tolist(), person.states.tolist(), strict=True):
        place = (0.0, 0.0) if state == Visibility.MISSING else (x / sides[0], y / sides[1])
        numbers += [*place, state]
    return " ".join(["0", *(f"{number:.10g}" for number in numbers)])
