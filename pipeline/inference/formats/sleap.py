"""SLEAP: predicted instances in a .slp file (HDF5), which it opens for correction."""

import io
import json
from typing import Any

import numpy as np

from pipeline.inference.formats.labels import Labels, Picture, Written
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Visibility

_FORMAT = 1.2
_BODY, _SYMMETRY, _PREDICTED = 1, 2, 1
_FRAMES = [
    ("frame_id", "<u8"),
    ("video", "<u4"),
    ("frame_idx", "<u8"),
    ("instance_id_start", "<u8"),
    ("instance_id_end", "<u8"),
]
_INSTANCES = [
    ("instance_id", "<i8"),
    ("instance_type", "u1"),
    ("frame_id", "<u8"),
    ("skeleton", "<u4"),
    ("track", "<i4"),
    ("from_predicted", "<i8"),
    ("score", "<f4"),
    ("point_id_start", "<u8"),
    ("point_id_end", "<u8"),
    ("tracking_score", "<f4"),
]
_POINTS = [("x", "<f8"), ("y", "<f8"), ("visible", "?"), ("complete", "?")]


def sleap_files(labels: Labels) -> Written:
    """Write sleap/predictions.slp, which names the videos, and all photographs as one of them."""
    import h5py

    videos = _videos(labels)
    frames, instances, points = _rows(labels, [name for name, _ in videos])
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        metadata = file.create_group("metadata")
        metadata.attrs["format_id"] = _FORMAT
        metadata.attrs["json"] = np.bytes_(json.dumps(_metadata(labels.joint_set)))
        texts = [json.dumps({"filename": b["filename"], "backend": b}).encode() for _, b in videos]
        file["videos_json"] = np.array(texts, "S") if texts else np.zeros(0)
        file["tracks_json"] = file["suggestions_json"] = np.zeros(0)
        file["frames"] = np.array(frames, _FRAMES)
        file["instances"] = np.array(instances, _INSTANCES)
        file["points"] = np.zeros(0, _POINTS)
        file["pred_points"] = np.array(points, [*_POINTS, ("score", "<f8")])
    return Written(files={"sleap/predictions.slp": data.getvalue()})


def _videos(labels: Labels) -> list[tuple[str, dict[str, Any]]]:
    """Return each video's name and SLEAP's description; all photographs are the one called ""."""
    found: list[tuple[str, dict[str, Any]]] = []
    photographs = labels.photographs
    if photographs:
        names = [str(labels.root / picture.name) for picture in photographs]
        height, width = photographs[0].height, photographs[0].width
        sides = {"height_": height, "width_": width, "channels_": 3, "grayscale": False}
        shape = [len(names), height, width, 3]
        several = {"type": "ImageVideo", "filename": names[0], "filenames": names, "shape": shape}
        found.append(("", several | sides))
    for name in labels.videos:
        backend = {"type": "MediaVideo", "filename": str(labels.root / name), "grayscale": False}
        found.append((name, backend))
    return found


def _rows(labels: Labels, videos: list[str]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return rows of the tables of frames, instances and points."""
    frames: list[Any] = []
    instances: list[Any] = []
    points: list[Any] = []
    place = {picture.name: number for number, picture in enumerate(labels.photographs)}
    for picture in labels.pictures:
        number, first = len(frames), len(instances)
        for person in picture.people:
            start = len(points)
            rows = zip(person.joints, person.states, person.confidence, strict=True)
            for (x, y), state, confidence in rows:
                is_missing = state == Visibility.MISSING
                where = (np.nan, np.nan) if is_missing else (x, y)
                points.append((*where, not is_missing, False, confidence))
            ends = (start, len(points))
            row = (len(instances), _PREDICTED, number, 0, -1, -1, person.score, *ends, 0.0)
            instances.append(row)
        video, index = _index(picture, place)
        frames.append((number, videos.index(video), index, first, len(instances)))
    return frames, instances, points


def _index(picture: Picture, place: dict[str, int]) -> tuple[str, int]:
    return ("", place[picture.name]) if picture.frame is None else (picture.name, picture.frame)


def _metadata(joint_set: JointSet) -> dict[str, Any]:
    links = [
        {
            "edge_insert_idx": number,
            "key": 0,
            "source": start,
            "target": end,
            "type": {"py/reduce": [{"py/type": "sleap.skeleton.EdgeType"}, {"py/tuple": [kind]}]},
        }
        for number, (start, end, kind) in enumerate(
            [
                *((start, end, _BODY) for start, end in joint_set.limbs),
                *((left, right, _SYMMETRY) for left, right in joint_set.flip_pairs),
            ]
        )
    ]
    skeleton = {
        "directed": True,
        "graph": {"name": joint_set.name, "num_edges_inserted": len(links)},
        "links": links,
        "multigraph": True,
        "nodes": [{"id": number} for number in range(len(joint_set.joints))],
    }
    return {
        "version": "2.0.0",
        "skeletons": [skeleton],
        "nodes": [{"name": name, "weight": 1.0} for name in joint_set.joints],
        "videos": [],
        "tracks": [],
        "suggestions": [],
        "negative_anchors": {},
        "provenance": {},
    }
