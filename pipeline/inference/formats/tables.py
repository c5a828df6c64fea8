"""A prediction as JSON, CSV, and MPII structures for MATLAB."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.inference.boxes.matching import MatchedBoxes
from pipeline.inference.pyfunc import BOX, columns_of
from pipeline.inference.results import Estimate, Failure, FoundPerson, people_of
from pipeline.io.text import csv_cell, visible
from pipeline.pose.joint_sets import JointSet


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results of the model that `model` describes; `notes` explain how to read them."""

    joint_set: JointSet
    model: Mapping[str, Any]
    estimates: Sequence[Estimate]
    failures: Sequence[Failure]
    boxes: MatchedBoxes | None
    notes: Mapping[str, str]


def json_bytes(results: Results) -> bytes:
    """Write all results; joints by name, each (x, y, confidence)."""
    pictures = []
    for estimate in results.estimates:
        people = []
        for person in estimate.people:
            joints = dict(zip(results.joint_set.joints, person.joints, strict=True))
            given = {key: value for key, value in asdict(person).items() if value is not None}
            given.pop("joints")
            people.append(given | {"confidence": person.confidence, "joints": joints})
        frame = {
            name: value
            for name in ("frame", "time_s", "frames_per_s")
            if (value := getattr(estimate, name)) is not None
        }
        size = {"width": estimate.width, "height": estimate.height}
        pictures.append({"file": estimate.file, **frame, **size, "people": people})
    content = {
        "model": results.model,
        "notes": results.notes,
        "joint_set": results.joint_set.to_json(),
        "images": pictures,
        "failures": [asdict(failure) for failure in results.failures],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def csv_bytes(results: Results) -> bytes:
    """Write a row per person."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(
        [
            "file",
            "frame",
            "time_s",
            "person",
            *BOX,
            "score",
            "confidence",
            *columns_of(results.joint_set),
        ]
    )
    for estimate in results.estimates:
        for number, person in enumerate(estimate.people, start=1):
            box: Sequence[float | None] = person.box or [None] * len(BOX)
            joints = [value for joint in person.joints for value in joint]
            place = [csv_cell(estimate.file), estimate.frame, estimate.time_s]
            table.writerow([*place, number, *box, person.score, person.confidence, *joints])
    return text.getvalue().encode()


def mat_bytes(results: Results) -> bytes:
    """Write `preds` (person, joint, 2) and `annolist` as in MPII's release; pixels count from 1."""
    import scipy.io

    joints = results.joint_set.joints
    preds = [[joint[:2] for joint in person.joints] for _, person in people_of(results.estimates)]
    annolist = [
        {
            # MATLAB has no text that is no Unicode.
            "image": {"name": visible(estimate.file)},
            "frame": np.nan if estimate.frame is None else estimate.frame,
            "annorect": _structs([_annorect(person) for person in estimate.people]),
        }
        for estimate in results.estimates
    ]
    content = {
        "preds": np.array(preds, np.float64).reshape(-1, len(joints), 2) + 1,
        "annolist": _structs(annolist),
        "joint_names": np.array(joints, dtype=object),
    }
    data = io.BytesIO()
    scipy.io.savemat(data, content)
    return data.getvalue()


def _annorect(person: FoundPerson) -> dict[str, Any]:
    points = [
        {**_xy(joint), "id": number, "score": joint[2]}
        for number, joint in enumerate(person.joints)
    ]
    return {
        "scale": person.scale,
        "objpos": _xy(person.center),
        "score": np.nan if person.score is None else person.score,
        "annopoints": {"point": _structs(points)},
    }


def _xy(point: Sequence[float]) -> dict[str, float]:
    return {"x": point[0] + 1, "y": point[1] + 1}


def _structs(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return rows as MATLAB's array of structs with equal fields."""
    if not rows:
        return np.empty((0, 0))
    array = np.empty(len(rows), dtype=[(name, object) for name in rows[0]])
    for number, row in enumerate(rows):
        array[number] = tuple(row.values())
    return array
