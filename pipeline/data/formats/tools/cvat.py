"""Reader of CVAT's XML 1.1, for images and for video: skeletons, with interpolation."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.data.formats.annotations import PREDICTION, Annotations, reading
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.tools.labels import Figure, Labels, annotations_of
from pipeline.data.formats.tools.skeleton import Skeleton
from pipeline.data.photographs.video import SUFFIXES as VIDEOS
from pipeline.io.parsing import parse_xml
from pipeline.pose.person import Visibility
from pipeline.settings.packing import AnnotationFiles

Element = ElementTree.Element
# Frames that tracks may fill between keyframes.
_MOST_FRAMES = 2_000_000
_EDGE = re.compile(r"<line\b[^>]*>")
_NODE = re.compile(r"<circle\b[^>]*>")
# The name that CVAT gives a video's frame in its format for images.
_FRAME = re.compile(r"frame_(\d{6,12})", re.ASCII)


def read_cvat(files: AnnotationFiles) -> Annotations:
    """Read annotations.xml: skeletons of images, and of tracks in the frames of a video.

    A joint with outside="1" is missing, with occluded="1" occluded. Between two keyframes of a
    track joints are interpolated, as CVAT shows them, and after the last one they stay. Frames are
    the video's, or pictures frame_000012.*. Shapes whose source is "auto" were predicted, and no
    person has changed them since: they are taken if `files.predictions`. Other shapes are counted.
    Raises ValueError naming file, image or track, label and value.
    """
    path = files.annotations
    root = _parsed(path)
    skeletons = _skeletons(root, path)
    skipped: Counter[str] = Counter()
    figures: list[Figure] = []
    tasks = {task.findtext("id"): task for task in root.iterfind("meta/project/tasks/task")}
    names = _names(root, path, tasks)
    for image, name in names.items():
        figures += _of_image(image, name, skeletons, skipped, files)
    notes = []
    tracks = [
        track
        for track in root.findall("track")
        if track.find("skeleton") is not None and _is_taken(track, files, skipped)
    ]
    skipped.update(
        f"a track of {_kind(track)}, no skeleton"
        for track in root.findall("track")
        if track.find("skeleton") is None
    )
    if tracks:
        frames_of: dict[str | None, _Frames] = {}
        keyframes = 0
        for track in tracks:
            only = next(iter(tasks)) if len(tasks) == 1 else None
            task_id = track.get("task_id", only) if tasks else None
            if task_id not in frames_of:
                frames_of[task_id] = _frames_of(task_id, tasks, root, path)
            found = list(_of_track(track, frames_of[task_id], skeletons, path))
            keyframes += sum(shape.get("keyframe") != "0" for shape in track.findall("skeleton"))
            figures += found
            if len(figures) > _MOST_FRAMES:
                raise ValueError(f"{path}: tracks of over {_MOST_FRAMES:,} frames")
        notes.append(
            f"{len(figures):,} figures of {len(tracks):,} tracks, with {keyframes:,} keyframes; "
            "the others are interpolated"
        )
    labels = Labels(
        name=root.findtext("meta/task/name") or path.stem,
        skeletons=skeletons,
        figures=figures,
        skipped=+skipped,
        notes=tuple(notes),
    )
    return annotations_of(labels, files)


def is_cvat(peek: Peek) -> str:
    """Recognise XML whose outermost element is `annotations`."""
    is_xml = peek.start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
    is_one = is_xml and re.search(rb"<annotations\b", peek.start) is not None
    return "it is XML of annotations, as CVAT's" if is_one else ""


def _parsed(path: Path) -> Element:
    with reading(path, "XML", OSError):
        data = path.read_bytes()
    root = parse_xml(data, str(path))
    if root.tag != "annotations":
        raise ValueError(f"{path}: the outermost element is {root.tag!r:.80}, expected annotations")
    return root


def _skeletons(root: Element, path: Path) -> dict[str, Skeleton]:
    """Return the skeletons that the labels describe, or else those of the shapes."""
    labels = [label for label in root.iter("label") if label.findtext("name")]
    parts: dict[str, list[str]] = {}
    for label in labels:
        if parent := label.findtext("parent"):
            parts.setdefault(parent, []).append(label.findtext("name") or "")
    drawings = {label.findtext("name"): label.findtext("svg") or "" for label in labels}
    for shape in (*root.iter("skeleton"), *root.iter("track")):
        name = shape.get("label", "")
        names = [
            part.get("label", "") for part in (*shape.findall("points"), *shape.findall("track"))
        ]
        is_skeleton = shape.tag == "skeleton" or shape.find("skeleton") is not None
        if is_skeleton and name not in parts and names:
            parts[name] = list(dict.fromkeys(names))
    if not parts:
        raise ValueError(
            f"{path}: no skeletons, expected labels of type skeleton with the joints as sub-labels"
        )
    try:
        return {
            name: Skeleton(
                name=name, joints=tuple(joints), limbs=_edges(drawings.get(name, ""), joints)
            )
            for name, joints in parts.items()
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _edges(drawing: str, joints: list[str]) -> tuple[tuple[int, int], ...]:
    """Read the edges of a label's drawing, whose nodes name the joints."""
    names = {}
    for node in _NODE.findall(drawing):
        number, name = _value(node, "data-node-id"), _value(node, "data-label-name")
        names[number] = name
    limbs = []
    for edge in _EDGE.findall(drawing):
        ends = [names.get(_value(edge, f"data-node-{end}"), "") for end in ("from", "to")]
        if all(end in joints for end in ends):
            limbs.append((joints.index(ends[0]), joints.index(ends[1])))
    return tuple(limbs)


def _value(tag: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', tag)
    return found[1] if found else ""


def _is_taken(shape: Element, files: AnnotationFiles, skipped: Counter[str]) -> bool:
    """Whether a skeleton or track is to be read; count it if it is a prediction that is not."""
    # CVAT writes "semi-auto" once a person has moved any of the points (computeNewSource in
    # cvat-core), and gives the points the source of their skeleton.
    sources = {part.get("source", "") for part in (shape, *shape.iter("points"))} - {""}
    is_predicted = sources == {"auto"}
    if is_predicted and not files.predictions:
        skipped[PREDICTION] += 1
        return False
    return True


def _names(root: Element, path: Path, tasks: Mapping[str | None, Element]) -> dict[Element, str]:
    """Return the name of each image's picture, or of a video's frame.

    Of a project's subsets two may have pictures of one name, in folders SUBSET of the export.
    """
    whole = root.findtext("meta/task/source") or root.findtext("meta/source") or ""
    subsets: dict[str, set[str]] = {}
    for image in root.iter("image"):
        subsets.setdefault(image.get("name", ""), set()).add(image.get("subset", ""))
    found = {}
    for image in root.iter("image"):
        name, subset = image.get("name", ""), image.get("subset", "")
        if not name.strip():
            raise ValueError(f"{path}: image {image.get('id')} has no name, expected its path")
        task = tasks.get(image.get("task_id"))
        video = whole
        if task is not None:
            # Videos alone have it.
            video = _video_of(task) if task.find("original_size") is not None else ""
        if video and (frame := _FRAME.fullmatch(name)):
            name = f"{video}#{int(frame[1])}"
        elif subset and len(subsets[name]) > 1:
            name = f"{subset}/{name}"
        found[image] = name
    return found


def _of_image(
    image: Element,
    name: str,
    skeletons: Mapping[str, Skeleton],
    skipped: Counter[str],
    files: AnnotationFiles,
) -> Iterator[Figure]:
    where = f"{files.annotations}: image {name}"
    sides = [image.get(side) for side in ("width", "height")]
    size = None
    if all(sides):
        width, height = (_whole(side, where, "width or height") for side in sides)
        size = (width, height) if width > 0 and height > 0 else None
    for shape in image:
        if shape.tag != "skeleton":
            skipped[f"{shape.tag}, no skeleton"] += shape.tag != "tag"
            continue
        if not _is_taken(shape, files, skipped):
            continue
        skeleton = _skeleton_of(shape, skeletons, where)
        joints, states = _blank(skeleton)
        for part in shape.findall("points"):
            place = _place(part, skeleton, where)
            if states[place] != Visibility.MISSING:
                raise ValueError(f"{where}: {part.get('label')} is there twice, expected once")
            joints[place], states[place] = _point(part, f"{where}: {part.get('label')}")
        yield Figure(
            image=name, category=skeleton.name, joints=joints, states=states, image_size=size
        )


def _frames_of(
    task_id: str | None, tasks: Mapping[str | None, Element], root: Element, path: Path
) -> "_Frames":
    """Return the frames of the file's task or job, or of one of a project's tasks."""
    if not tasks:
        parts = (root.find(part) for part in ("meta/task", "meta/job", "meta"))
        task = next((part for part in parts if part is not None), None)
        return _Frames(task, root.findtext("meta/source"), f"{path.stem}.mp4", path)
    if task_id not in tasks:
        known = ", ".join(map(str, tasks))
        raise ValueError(f"{path}: a track has task_id {task_id!r:.80}, expected one of {known}")
    return _Frames(tasks[task_id], None, _video_of(tasks[task_id]), path)


def _video_of(task: Element) -> str:
    """Return the name of the video of a project's task, which may be named after it."""
    name = task.findtext("name") or f"task-{task.findtext('id')}"
    return task.findtext("source") or (name if name.lower().endswith(VIDEOS) else f"{name}.mp4")


class _Frames:
    """The frames of a video's task, and the names of their pictures.

    `source` is the video's name, else the task has it, or `name` stands in.
    """

    def __init__(self, task: Element | None, source: str | None, name: str, path: Path) -> None:
        found = {
            field: task.findtext(field) if task is not None else None
            for field in ("start_frame", "stop_frame", "frame_filter", "size", "source")
        }
        self.source = source or found["source"] or name
        step = re.search(r"step=(\d+)", found["frame_filter"] or "")
        where = f"{path}: meta"
        self.step = max(1, int(step[1])) if step else 1
        self.start = _whole(found["start_frame"] or "0", where, "start_frame")
        stop, size = found["stop_frame"], found["size"]
        self.stop: int | None = None
        if stop:
            self.stop = _whole(stop, where, "stop_frame")
        elif size:
            self.stop = self.start + self.step * (_whole(size, where, "size") - 1)
        width, height = (
            task.findtext(f"original_size/{side}") if task is not None else None
            for side in ("width", "height")
        )
        self.size: tuple[int, int] | None = None
        if width and height:
            self.size = _whole(width, where, "width"), _whole(height, where, "height")

    def name(self, frame: int) -> str:
        """Return the name of a frame's picture."""
        return f"{self.source}#{frame}"

    def between(self, first: int, last: int) -> range:
        """Return the task's frames from one to another, both included."""
        stop = last if self.stop is None else min(last, self.stop)
        begin = first + (self.start - first) % self.step
        found = range(begin, stop + 1, self.step)
        if len(found) > _MOST_FRAMES:
            raise ValueError(f"a track of {len(found):,} frames, expected {_MOST_FRAMES:,} at most")
        return found


def _of_track(
    track: Element, frames: _Frames, skeletons: Mapping[str, Skeleton], path: Path
) -> Iterator[Figure]:
    where = f"{path}: track {track.get('id')}"
    skeleton = _skeleton_of(track, skeletons, where)
    whole = _keyframes(track.findall("skeleton"), where, has_point=False)
    parts: dict[int, _Keyframes] = {}
    for part in track.findall("track"):
        place = _place(part, skeleton, where)
        if place in parts:
            raise ValueError(f"{where}: {part.get('label')} is there twice, expected once")
        parts[place] = _keyframes(
            part.findall("points"), f"{where}: {part.get('label')}", has_point=True
        )
    numbers = sorted({number for keys in (whole, *parts.values()) for number in keys})
    last = numbers[-1] if frames.stop is None else max(numbers[-1], frames.stop)
    try:
        span = frames.between(numbers[0], last)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    # Frames that the file has, whatever the task's step.
    for frame in sorted({*span, *(number for number in numbers if number <= last)}):
        state = _at(whole, frame)
        if state is None or state[1] == Visibility.MISSING:
            continue
        joints, states = _blank(skeleton)
        for place, keys in parts.items():
            if found := _at(keys, frame):
                joints[place], states[place] = found
        if states.any():
            yield Figure(
                image=frames.name(frame),
                category=skeleton.name,
                joints=joints,
                states=states,
                image_size=frames.size,
            )


_Keyframes = dict[int, tuple[tuple[float, float], int]]


def _keyframes(shapes: list[Element], where: str, *, has_point: bool) -> _Keyframes:
    found: _Keyframes = {}
    for shape in shapes:
        frame = _whole(shape.get("frame"), where, "frame")
        if frame in found:
            raise ValueError(f"{where}: frame {frame} is there twice, expected once")
        if has_point:
            found[frame] = _point(shape, f"{where}: frame {frame}", is_kept=True)
        else:
            is_outside = shape.get("outside") == "1"
            found[frame] = (0.0, 0.0), Visibility.MISSING if is_outside else Visibility.VISIBLE
    return dict(sorted(found.items()))


def _at(keys: _Keyframes, frame: int) -> tuple[tuple[float, float], int] | None:
    """Return point and state in a frame: between two keyframes the first one's state."""
    numbers = list(keys)
    after = bisect_right(numbers, frame)
    if not after:
        return None
    (x, y), state = keys[numbers[after - 1]]
    if after < len(numbers):
        first, second = numbers[after - 1], numbers[after]
        (other_x, other_y), _ = keys[second]
        share = (frame - first) / (second - first)
        x, y = x + share * (other_x - x), y + share * (other_y - y)
    return (x, y), state


def _skeleton_of(shape: Element, skeletons: Mapping[str, Skeleton], where: str) -> Skeleton:
    label = shape.get("label", "")
    if label not in skeletons:
        raise ValueError(
            f"{where}: label {label!r:.80} is no skeleton, expected one of {', '.join(skeletons)}"
        )
    return skeletons[label]


def _place(part: Element, skeleton: Skeleton, where: str) -> int:
    label = part.get("label", "")
    if label not in skeleton.joints:
        raise ValueError(
            f"{where}: {label!r:.80} is no joint of {skeleton.name}, expected one of "
            f"{', '.join(skeleton.joints)}"
        )
    return skeleton.joints.index(label)


def _blank(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    count = len(skeleton.joints)
    return np.zeros((count, 2)), np.full(count, int(Visibility.MISSING), np.int64)


def _point(part: Element, where: str, is_kept: bool = False) -> tuple[tuple[float, float], int]:
    """Read a joint's point and state. A joint outside has a point where `is_kept`."""
    flags = {name: part.get(name, "0") for name in ("outside", "occluded")}
    for name, flag in flags.items():
        if flag not in ("0", "1"):
            raise ValueError(f"{where}: {name} must be 0 or 1, got {flag!r:.80}")
    is_outside = flags["outside"] == "1"
    if is_outside and not is_kept:
        return (0.0, 0.0), Visibility.MISSING
    try:
        x, y = map(float, part.get("points", "").split(","))
    except ValueError:
        x = y = np.nan
    if not np.isfinite((x, y)).all():
        raise ValueError(f"{where}: points must be x,y, got {part.get('points')!r:.80}")
    if is_outside:
        return (x, y), Visibility.MISSING
    return (x, y), Visibility.OCCLUDED if flags["occluded"] == "1" else Visibility.VISIBLE


def _whole(value: Any, where: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,9}", str(value or ""), re.ASCII):
        raise ValueError(f"{where}: {name} must be a whole number, got {value!r:.80}")
    return int(value)


def _kind(track: Element) -> str:
    return track[0].tag if len(track) else "nothing"
