"""Reader of SLEAP's .slp and .pkg.slp files."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.formats.annotations import PREDICTION, Annotations
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.tools.labels import Figure, Labels, annotations_of
from pipeline.data.formats.tools.skeleton import Skeleton
from pipeline.io.hdf5 import Hdf5File, as_text
from pipeline.io.parsing import parse_json
from pipeline.pose.person import Visibility
from pipeline.settings.packing import AnnotationFiles

_USER, _PREDICTED = 0, 1
# Before this format, pixels counted from their corner.
_FROM_CENTRE = 1.1
_SYMMETRY = 2
_FIELDS = {
    "frames": ("frame_id", "video", "frame_idx"),
    "instances": (
        *("instance_id", "instance_type", "frame_id", "skeleton", "from_predicted"),
        *("point_id_start", "point_id_end"),
    ),
    "points": ("x", "y", "visible"),
    "pred_points": ("x", "y", "visible"),
}


def read_sleap(files: AnnotationFiles) -> Annotations:
    """Read labelled instances: joints in the order of their skeleton, from pixels' centres.

    A point that is not visible, or has no coordinates, is missing. Symmetric links are flip pairs.
    Instances that SLEAP predicted are taken if `files.predictions`, unless a person corrected them.
    Frames are the videos', those that a package embeds, or pictures. Raises ValueError naming
    file, dataset, row and value.
    """
    path = files.annotations
    with Hdf5File(path) as file:
        metadata = _json(file, file.attribute("metadata", "json"), "metadata")
        version = _version(file)
        arrays = {name: _records(file, name) for name in _FIELDS}
        videos = _videos(file)
    skeletons = _skeletons(metadata, path)
    points = {_USER: arrays["points"], _PREDICTED: arrays["pred_points"]}
    frames = {
        int(row["frame_id"]): _image(videos, int(row["video"]), int(row["frame_idx"]), path)
        for row in arrays["frames"]
    }
    instances = arrays["instances"]
    corrected = {int(row["from_predicted"]) for row in instances if row["instance_type"] == _USER}
    skipped: Counter[str] = Counter()
    figures = []
    for number, row in enumerate(instances):
        where = f"{path}: instances[{number}]"
        kind = int(row["instance_type"])
        if kind not in points:
            raise ValueError(f"{where}: instance_type must be 0 or 1, got {kind}")
        if kind == _PREDICTED and not files.predictions:
            skipped[PREDICTION] += 1
        elif kind == _PREDICTED and int(row["instance_id"]) in corrected:
            skipped["a prediction that was corrected"] += 1
        else:
            figures.append(_figure(row, points[kind], skeletons, frames, version, where))
    by_name = {skeleton.name: skeleton for skeleton in skeletons}
    if len(by_name) < len(skeletons):
        raise ValueError(f"{path}: skeletons share a name, expected one each")
    labels = Labels(name=path.stem, skeletons=by_name, figures=figures, skipped=skipped)
    return annotations_of(labels, files)


def is_sleap(peek: Peek) -> str:
    """Recognise HDF5 with SLEAP's frames and instances."""
    has_all = {"metadata", "frames", "instances", "points"} <= set(peek.h5)
    return "it is HDF5 with frames, instances and points, as SLEAP's" if has_all else ""


def _json(file: Hdf5File, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, bytes | str):
        raise ValueError(f"{file.path}: {name} has no json, expected SLEAP's")
    content = parse_json(as_text(value), f"{file.path}: {name}")
    if not isinstance(content, dict):
        raise ValueError(f"{file.path}: {name} must be an object, got {content!r:.80}")
    return content


def _version(file: Hdf5File) -> float:
    value = file.attribute("metadata", "format_id")
    try:
        return 1.0 if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{file.path}: format_id must be a number, got {value!r:.80}") from None


def _records(file: Hdf5File, name: str) -> np.ndarray:
    if name == "pred_points" and file.shape(name) is None:
        return np.empty(0, [(field, np.float64) for field in _FIELDS[name]])
    found = file.array(name)
    absent = set(_FIELDS[name]) - set(found.dtype.names or ())
    if absent or found.ndim != 1:
        raise ValueError(
            f"{file.path}: {name} has type {found.dtype}, expected records of "
            f"{', '.join(_FIELDS[name])}"
        )
    if any(found.dtype[field].kind not in "iufb" for field in _FIELDS[name]):
        raise ValueError(f"{file.path}: {name} has type {found.dtype}, expected numbers")
    return found


def _videos(file: Hdf5File) -> dict[int, dict[str, Any]]:
    """Return each video's backend by the number that frames give it."""
    if file.shape("videos_json") is None:
        return {}
    found: dict[int, dict[str, Any]] = {}
    for number, value in enumerate(file.array("videos_json").ravel().tolist()):
        content = _json(file, value, f"videos_json[{number}]")
        backend = content.get("backend", content)
        if not isinstance(backend, dict):
            raise ValueError(f"{file.path}: videos_json[{number}]: backend must be an object")
        group = str(backend.get("dataset") or "").partition("/")[0]
        # Packages leave out videos without labels, and keep the numbers.
        is_embedded = str(backend.get("filename")) == "." and group[5:].isdecimal()
        found[int(group[5:]) if is_embedded else number] = backend
    return found


def _image(videos: dict[int, dict[str, Any]], video: int, frame: int, path: Path) -> str:
    """Name the picture of a frame."""
    if video not in videos:
        raise ValueError(f"{path}: frame {frame} is of video {video}, which is not in videos_json")
    backend = videos[video]
    # Of a sequence of pictures `filename` is the first one's.
    filename = backend.get("filenames") or backend.get("filename")
    if isinstance(filename, list):
        if not 0 <= frame < len(filename):
            raise ValueError(f"{path}: video {video} has {len(filename)} pictures, no {frame}")
        return str(filename[frame])
    if not isinstance(filename, str) or not filename.strip():
        raise ValueError(f"{path}: video {video} has no filename, got {filename!r:.80}")
    if filename == ".":
        group = str(backend.get("dataset") or "").partition("/")[0]
        return f"{path.name}#{group}/{frame}"
    return f"{filename}#{frame}"


def _skeletons(metadata: dict[str, Any], path: Path) -> list[Skeleton]:
    """Read the skeletons, whose nodes and links are jsonpickle's."""
    try:
        names = [
            str(node["name"] if isinstance(node, dict) else node) for node in metadata["nodes"]
        ]
        kinds: list[int] = []
        found = []
        for number, skeleton in enumerate(metadata["skeletons"]):
            order = [int(node["id"]) for node in skeleton["nodes"]]
            limbs: list[tuple[int, int]] = []
            pairs: list[tuple[int, int]] = []
            for link in skeleton.get("links", []):
                ends = order.index(int(link["source"])), order.index(int(link["target"]))
                is_pair = _kind(link.get("type"), kinds) == _SYMMETRY
                (pairs if is_pair else limbs).append(ends)
            name = skeleton.get("graph", {}).get("name") or f"skeleton-{number}"
            found.append(
                Skeleton(
                    name=str(name),
                    joints=tuple(names[node] for node in order),
                    limbs=tuple(limbs),
                    flip_pairs=tuple(pairs) or None,
                )
            )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: metadata: no skeleton of SLEAP's: {error!r:.200}") from error
    return found


def _kind(value: Any, kinds: list[int]) -> int:
    """Read a link's type; jsonpickle writes each once, and its number after."""
    if not isinstance(value, dict):
        return 1
    if "py/reduce" in value:
        kinds.append(int(value["py/reduce"][1]["py/tuple"][0]))
        return kinds[-1]
    number = int(value.get("py/id", 1))
    return kinds[number - 1] if 0 < number <= len(kinds) else number


def _figure(
    row: Any,
    points: np.ndarray,
    skeletons: list[Skeleton],
    frames: dict[int, str],
    version: float,
    where: str,
) -> Figure:
    number, frame = int(row["skeleton"]), int(row["frame_id"])
    start, end = int(row["point_id_start"]), int(row["point_id_end"])
    if not 0 <= number < len(skeletons):
        raise ValueError(f"{where}: skeleton {number} of {len(skeletons)}, expected one there is")
    if frame not in frames:
        raise ValueError(f"{where}: frame_id {frame} is not among the frames")
    skeleton = skeletons[number]
    if not 0 <= start <= end <= len(points) or end - start != len(skeleton.joints):
        raise ValueError(
            f"{where}: points {start} to {end} of {len(points):,}, expected "
            f"{len(skeleton.joints)}, one for each joint"
        )
    own = points[start:end]
    joints = np.stack([own["x"], own["y"]], axis=1).astype(np.float64)
    if version < _FROM_CENTRE:
        joints -= 0.5
    is_there = own["visible"].astype(bool) & ~np.isnan(joints).any(axis=1)
    states = np.where(is_there, Visibility.VISIBLE, Visibility.MISSING).astype(np.int64)
    return Figure(
        image=frames[frame],
        category=skeleton.name,
        joints=np.where(is_there[:, None], joints, 0.0),
        states=states,
    )
