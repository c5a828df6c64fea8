"""Overlays of predictions on pictures: skeletons, joints' names and confidences."""

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.photographs.pixels import read_photograph
from pipeline.data.photographs.video import Video
from pipeline.data.shards.crop import CropDecoder, ImageRGBA
from pipeline.inference.batch_predictor import file_name
from pipeline.inference.results import Estimate, FoundPerson
from pipeline.io.atomic import atomic_write
from pipeline.io.inside import read_whole
from pipeline.io.own import create_own
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import UInt8
from pipeline.pose.sides import common_side

Picture = UInt8[np.ndarray, "height width 3"]
Enlarged = UInt8[np.ndarray, "enlarged_height enlarged_width 3"]

# RGB, as in a run's figures: orange left limbs, blue right ones.
_OF_SIDE = {"left": (255, 127, 14), "right": (31, 155, 255), None: (123, 211, 79)}
# Pixels of a person from which names are legible, and of the longest side of a picture.
_PERSON_PX, _MOST_PX = 700, 2000
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV's font scale beside a person of _PERSON_PX.
_LETTERS = 0.38
# Fractional bits of OpenCV's coordinates: an eighth of a pixel.
_SHIFT = 3
_VIDEO_RATE = 25.0


def draw_people(
    image: Picture, people: Sequence[FoundPerson], joint_set: JointSet, factor: float
) -> Enlarged:
    """Draw people on an RGB picture enlarged by `factor`."""
    height, width = image.shape[:2]
    size = round(width * factor), round(height * factor)
    drawn = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    for person in people:
        # Areas of pixels are scaled, not their centres.
        points = (np.array(person.joints)[:, :2] + 0.5) * factor - 0.5
        _draw_person(drawn, points, person, joint_set, 200 * person.scale * factor)
    return drawn


def enlargement(longer_px: int, people: Sequence[FoundPerson]) -> float:
    """Return the factor at which the joints' names fit beside the smallest person."""
    if not people:
        return 1.0
    smallest = min(200 * person.scale for person in people)
    return max(1.0, min(_PERSON_PX / smallest, _MOST_PX / longer_px))


def draw_photographs(
    estimates: Sequence[Estimate], joint_set: JointSet, folder: Path, max_pixels: int
) -> Iterator[None]:
    """Write a missing PNG of each photograph, yielding after each. Raises OSError, ValueError."""
    decoder = CropDecoder(max_pixels)
    for estimate in estimates:
        path = folder / f"{file_name(estimate.file)}.png"
        if not path.exists():
            data = read_whole(Path(estimate.file))
            image = read_photograph(data, decoder, max_pixels).image
            factor = enlargement(max(estimate.width, estimate.height), estimate.people)
            drawn = draw_people(_rgb(image), estimate.people, joint_set, factor)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as aside:
                aside.write_bytes(_png(drawn))
        yield


def draw_videos(estimates: Sequence[Estimate], joint_set: JointSet, folder: Path) -> Iterator[None]:
    """Write a missing MP4 for each video, yielding per frame. Raises OSError or ValueError."""
    for file, group in groupby(estimates, key=lambda estimate: estimate.file):
        frames, path = list(group), folder / f"{file_name(file)}.mp4"
        if path.exists():
            yield from (None for _ in frames)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, as OpenCV chooses the format by it.
        aside = path.with_name(f"part-{path.name}")
        create_own(aside)
        yield from _draw_video(Video(Path(file)), frames, joint_set, aside)
        aside.replace(path)


def _draw_video(
    video: Video, frames: Sequence[Estimate], joint_set: JointSet, path: Path
) -> Iterator[None]:
    width, height = frames[0].width, frames[0].height
    everyone = [person for frame in frames for person in frame.people]
    factor = enlargement(max(width, height), everyone)
    # The codec requires even sides.
    size = round(width * factor) // 2 * 2, round(height * factor) // 2 * 2
    rate = video.frames_per_s() or _VIDEO_RATE
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise OSError(f"{path}: can't be written as MP4")
    people = {frame.frame: frame.people for frame in frames}
    for number, image in video.frames(0, (frames[-1].frame or 0) + 1):
        drawn = draw_people(_rgb(image), people.get(number, []), joint_set, factor)
        writer.write(cv2.cvtColor(cv2.resize(drawn, size), cv2.COLOR_RGB2BGR))
        yield
    writer.release()
    video.close()


def _rgb(image: ImageRGBA) -> Picture:
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)


def _draw_person(
    drawn: Picture, points: np.ndarray, person: FoundPerson, joint_set: JointSet, frame_px: float
) -> None:
    thick = max(1, round(frame_px / 160))
    for start, end in joint_set.limbs:
        color = _side(joint_set.joints[start], joint_set.joints[end])
        ends = _fixed(points[start]), _fixed(points[end])
        cv2.line(drawn, *ends, (0, 0, 0), thick + 2, cv2.LINE_AA, _SHIFT)
        cv2.line(drawn, *ends, color, thick, cv2.LINE_AA, _SHIFT)
    for name, point in zip(joint_set.joints, points, strict=True):
        radius = round((thick + 2) * 2**_SHIFT)
        cv2.circle(drawn, _fixed(point), radius, (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(drawn, _fixed(point), radius * 2 // 3, _side(name), -1, cv2.LINE_AA, _SHIFT)
    taken: list[tuple[int, int]] = []
    for name, point, joint in zip(joint_set.joints, points, person.joints, strict=True):
        _label(drawn, f"{name} {joint[2]:.2f}", point, thick, frame_px, taken)


def _label(
    drawn: Picture,
    text: str,
    point: np.ndarray,
    thick: int,
    frame_px: float,
    taken: list[tuple[int, int]],
) -> None:
    """Write a joint's label, light with a dark outline, below labels at places already `taken`."""
    size = _LETTERS * max(1.0, frame_px / _PERSON_PX)
    (width, height), _ = cv2.getTextSize(text, _FONT, size, 1)
    x, y = round(float(point[0])) + thick + 4, round(float(point[1])) + height // 2
    while any(abs(x - left) < width and abs(y - base) < 1.4 * height for left, base in taken):
        y += 1
    taken.append((x, y))
    weight = max(1, round(size))
    # The outline is the text shifted, as thicker letters would have other places.
    for across, down in product((-weight, 0, weight), repeat=2):
        place = x + across, y + down
        cv2.putText(drawn, text, place, _FONT, size, (0, 0, 0), weight, cv2.LINE_AA)
    cv2.putText(drawn, text, (x, y), _FONT, size, (255, 255, 255), weight, cv2.LINE_AA)


def _side(*names: str) -> tuple[int, int, int]:
    return _OF_SIDE[common_side(names)]


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.round(point * 2**_SHIFT).astype(int).tolist()
    return x, y


def _png(picture: Picture) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return data.tobytes()
