"""Ultralytics' YOLO-pose: data.yaml, and a text file a picture."""

import json
from pathlib import PurePosixPath

import numpy as np

from pipeline.data.formats.tools.yolo import PREDICTED_BY
from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, Written
from pipeline.pose.person import Visibility
from pipeline.pose.shapes import Bool

# Shares that a joint may lie outside (verify_image_label in ultralytics/data/utils.py).
_BEYOND = 0.01


def yolo_files(labels: Labels) -> Written:
    """Write labels/ in the mirror image of images/, where the pictures are to be put.

    All numbers are shares of the picture. A frame's file is VIDEO_NUMBER.txt. Ultralytics passes
    over pictures with a joint outside, so that such joints are missing, and boxes end at the sides.
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
        # Ultralytics passes over keys that it doesn't know.
        PREDICTED_BY: labels.author,
    }
    files = {"yolo/data.yaml": "".join(f"{key}: {_yaml(value)}\n" for key, value in lines.items())}
    for picture in labels.pictures:
        rows = [_row(person, picture) for person in picture.people]
        files[f"yolo/{_name(picture)}.txt"] = "".join(f"{row}\n" for row in rows)
    notes = []
    if labels.photographs:
        notes.append(f"yolo: copy the pictures in {labels.root} to yolo/images, beside yolo/labels")
    outside = sum(
        int((_is_outside(person, picture) & (person.states != Visibility.MISSING)).sum())
        for picture in labels.pictures
        for person in picture.people
    )
    if outside:
        notes.append(
            f"yolo: {outside:,} joints outside their pictures are left out, since Ultralytics "
            "passes over pictures with one"
        )
    if labels.videos:
        notes.append("yolo: frames of videos are named VIDEO_NUMBER; extract them under that name")
    return Written(files={name: text.encode() for name, text in files.items()}, notes=notes)


def _yaml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _name(picture: Picture) -> str:
    """Return the path of a picture's labels: the last folder `images` above it is `labels`."""
    frame = "" if picture.frame is None else f"_{picture.frame:06d}"
    path = PurePosixPath("images", f"{PurePosixPath(picture.name).with_suffix('')}{frame}")
    folders = list(path.parts[:-1])
    folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return str(PurePosixPath(*folders, path.name))


def _is_outside(person: LabelledPerson, picture: Picture) -> Bool[np.ndarray, " joint"]:
    shares = person.joints / (picture.width, picture.height)
    return np.asarray(((shares < -_BEYOND) | (shares > 1 + _BEYOND)).any(axis=1))


def _row(person: LabelledPerson, picture: Picture) -> str:
    left, top, width, height = person.frame
    sides = (picture.width, picture.height)
    corners = np.clip([(left, top), (left + width, top + height)], 0, sides) / sides
    numbers = [*corners.mean(axis=0).tolist(), *(corners[1] - corners[0]).tolist()]
    outside = _is_outside(person, picture).tolist()
    rows = zip(person.joints.tolist(), person.states.tolist(), outside, strict=True)
    for (x, y), state, is_outside in rows:
        is_there = state != Visibility.MISSING and not is_outside
        numbers += [x / sides[0], y / sides[1], state] if is_there else [0.0, 0.0, 0]
    return " ".join(["0", *(f"{number:.10g}" for number in numbers)])
