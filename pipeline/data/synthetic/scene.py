"""The dataset `synthetic`: rendered photographs of articulated people, exactly annotated.

Every scene is a pure function of a seed and its index, so the dataset needs no files. A joint is
OCCLUDED if anything drawn later covers it: an occluder, another person, or a part of the same body.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.data.formats.annotations import frame_joints, person_of
from pipeline.data.synthetic.body import FloatArray, sample_body
from pipeline.data.synthetic.figure import (
    Figure,
    Part,
    capsule,
    ellipse,
    outlined,
    place,
    sample_colour,
    sample_outfit,
    sample_skin,
    shade,
)
from pipeline.pose.person import Person, Visibility

Image = NDArray[np.uint8]
Size = tuple[int, int]

_MAX_JOINTS_BEHIND_OCCLUDER = 3
# Pixels that a figure keeps from the edges of the image.
_BORDER_PX = 10.0
# Polygons are drawn in sixteenths of a pixel.
_SUBPIXEL_BITS = 4


def render_scene(seed: int, index: int) -> tuple[Image, list[Person]]:
    """Return one photograph, RGB (height, width, 3), and the people in it."""
    rng = np.random.default_rng([seed, index])
    size, parts, people = _sample_scene(rng, index)
    image = _background(rng, size)
    for part in parts:
        _draw(image, part)
    return _develop(rng, image), people


def scene_people(seed: int, scenes: int) -> list[Person]:
    """Return the people that `render_scene` gives for scenes 0 to `scenes` - 1, without drawing."""
    drawn = (_sample_scene(np.random.default_rng([seed, index]), index) for index in range(scenes))
    return [person for _, _, people in drawn for person in people]


def visibility(figure: Figure, in_front: Sequence[Part], size: Size) -> tuple[Visibility, ...]:
    """Return the states of a figure's joints behind the parts `in_front`; `size` is the image's."""
    states = []
    for joint, point in enumerate(figure.joints):
        shown_by = [order for order, part in enumerate(figure.parts) if joint in part.joints]
        later = (*figure.parts[max(shown_by) + 1 :], *in_front)
        if np.any(point < 0) or np.any(point > np.array(size) - 1):
            states.append(Visibility.MISSING)
        elif any(part.covers(point) for part in later):
            states.append(Visibility.OCCLUDED)
        else:
            states.append(Visibility.VISIBLE)
    return tuple(states)


def _sample_scene(rng: Generator, index: int) -> tuple[Size, list[Part], list[Person]]:
    """Return the size of a scene's image, its parts from back to front, and its people."""
    count = 2 if rng.random() < 0.15 else 1
    width = int(rng.integers(288, 321) if count == 2 else rng.integers(224, 321))
    size = width, int(rng.integers(224, 321))
    figures = [_sample_figure(rng, size, slot, count) for slot in range(count)]
    occluders = _sample_occluders(rng, figures, size) if rng.random() < 0.25 else []
    parts, people = occluders, dict[int, Person]()
    # From front to back, so that `parts` always holds what lies in front of the next figure.
    for slot in rng.permutation(count).tolist():
        figure = figures[slot]
        states = np.array(visibility(figure, parts, size))
        center, scale = frame_joints(figure.joints, states)
        low, high = (np.clip(corner, 0, np.array(size) - 1) for corner in figure.corners)
        people[slot] = person_of(
            figure.joints,
            states,
            image=f"synthetic-{index:06d}.jpg",
            person=slot,
            center=center,
            scale=scale,
            head_size=figure.head_size,
            box=(*low.tolist(), *(high - low).tolist()),
            image_size=size,
        )
        parts = [*figure.parts, *parts]
    return size, parts, [people[slot] for slot in range(count)]


def _sample_figure(rng: Generator, size: Size, slot: int, count: int) -> Figure:
    """Return a figure that fits its share of the image, but sometimes leans out of it."""
    body, outfit = sample_body(rng), sample_outfit(rng)
    room = np.array([size[0] / count, size[1]])
    low, high = body.points[:, :2].min(axis=0), body.points[:, :2].max(axis=0)
    inside = room - 2 * _BORDER_PX
    stature = min(rng.uniform(150, 235), float(np.min(inside / (high - low))))
    spare = np.maximum(inside - stature * (high - low), 0)
    leaning = 0.1 if rng.random() < 0.1 else 0.0
    shift = rng.uniform(-1, 1, 2) * (spare / 2 + leaning * room)
    middle = np.array([(slot + 0.5) * room[0], room[1] / 2]) + shift
    return place(body, outfit, stature, middle - stature * (low + high) / 2)


def _sample_occluders(rng: Generator, figures: Sequence[Figure], size: Size) -> list[Part]:
    """Return up to two shapes in front of the figures that hide only a few joints of each."""
    occluders: list[Part] = []
    for _ in range(rng.integers(1, 3)):
        figure = figures[int(rng.integers(len(figures)))]
        target = figure.joints[rng.integers(len(figure.joints))] + rng.normal(0, 12, 2)
        candidate = [*occluders, _sample_occluder(rng, target, size)]
        hidden = [
            sum(any(part.covers(point) for part in candidate) for point in other.joints)
            for other in figures
        ]
        if max(hidden) <= _MAX_JOINTS_BEHIND_OCCLUDER:
            occluders = candidate
    return occluders


def _sample_occluder(rng: Generator, center: FloatArray, size: Size) -> Part:
    colour = sample_colour(rng)
    kind = rng.integers(3)
    if kind == 0:
        outline = _box(center, rng.uniform(8, 28, 2), rng.normal(0, 15))
    elif kind == 1:
        axis = _turned(np.array([rng.uniform(10, 28), 0.0]), rng.uniform(0, 180))
        outline = ellipse(center, axis, rng.uniform(8, 22))
    else:
        half = np.array([rng.uniform(3, 7), float(max(size))])
        outline = _box(center, half, 90 * rng.integers(2) + rng.normal(0, 12))
    return Part(shapes=(outlined(outline, colour),))


def _turned(vectors: FloatArray, angle_deg: float) -> FloatArray:
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.asarray(vectors @ np.array([[cos, sin], [-sin, cos]]))


def _box(center: FloatArray, half: FloatArray, angle_deg: float) -> FloatArray:
    """Return the corners, (4, 2), of a turned rectangle with the half sides `half`."""
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return center + _turned(signs * half, angle_deg)


def _draw(image: Image, part: Part) -> None:
    for shape in part.shapes:
        outline = [_fixed_point(shape.outline)]
        cv2.fillPoly(image, outline, shape.colour, cv2.LINE_AA, _SUBPIXEL_BITS)
        if shape.edges:
            lines = [_fixed_point(edge) for edge in shape.edges]
            colour = shade(shape.colour, 0.6)
            cv2.polylines(image, lines, False, colour, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed_point(points: FloatArray) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * 2**_SUBPIXEL_BITS), np.int32)


def _background(rng: Generator, size: Size) -> Image:
    """Return a wall or a sky, often with a floor, with things in it that are not people."""
    image = _gradient(rng, size)
    if rng.random() < 0.5:
        horizon = int(rng.uniform(0.45, 0.85) * size[1])
        image[horizon:] = _gradient(rng, (size[0], size[1] - horizon))
    for _ in range(rng.integers(3, 11)):
        _draw(image, _sample_clutter(rng, size))
    return _texture(rng, image)


def _gradient(rng: Generator, size: Size) -> Image:
    base = np.array(sample_colour(rng))
    # Light varies more than hue does.
    coarse = base + rng.normal(0, 22, (3, 3, 1)) + rng.normal(0, 8, (3, 3, 3))
    small = np.clip(coarse, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _sample_clutter(rng: Generator, size: Size) -> Part:
    """Return a background object: a polygon, an ellipse, a line, a box, or the like of a limb."""
    center = rng.uniform(0, 1, 2) * size
    reach = _turned(np.array([rng.uniform(10, 60), 0.0]), rng.uniform(0, 360))
    colour = sample_colour(rng)
    kind = rng.integers(5)
    if kind == 0:
        outline = center + rng.uniform(-60, 60, (int(rng.integers(3, 6)), 2))
    elif kind == 1:
        outline = ellipse(center, reach, rng.uniform(5, 50))
    elif kind == 2:
        outline = _box(center, np.array([rng.uniform(0.5, 3), 400.0]), rng.uniform(0, 180))
    elif kind == 3:
        outline = _box(center, rng.uniform(10, 60, 2), rng.normal(0, 5))
    else:
        colour = sample_skin(rng) if rng.random() < 0.4 else colour
        outline = capsule(center, center + reach, *rng.uniform(3, 9, 2))
    return Part(shapes=(outlined(outline, colour),))


def _texture(rng: Generator, image: Image) -> Image:
    """Return `image` under a blotchy pattern of random grain, and softer than the people."""
    height, width = image.shape[:2]
    grain = int(rng.integers(3, 24))
    small = rng.integers(0, 256, (height // grain + 2, width // grain + 2), np.uint8)
    blotches = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    blotches = cv2.cvtColor(blotches, cv2.COLOR_GRAY2RGB)
    strength = rng.uniform(0, 0.25)
    mixed = cv2.addWeighted(image, 1.0, blotches, strength, -127 * strength)
    return np.asarray(cv2.blur(mixed, (3, 3)), np.uint8)


def _develop(rng: Generator, image: Image) -> Image:
    """Return `image` as a camera would: contrast, brightness, a slight blur and noise."""
    if rng.random() < 0.4:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 1.0)), np.uint8)
    noise = rng.integers(0, 256, image.shape, np.uint8)
    contrast, amount = rng.uniform(0.75, 1.15), rng.uniform(0.02, 0.12)
    brightness = rng.uniform(-20, 20) + 127 * (1 - contrast) - 127 * amount
    return np.asarray(cv2.addWeighted(image, contrast, noise, amount, brightness), np.uint8)
