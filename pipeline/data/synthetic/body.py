"""A human body in three dimensions: random proportions, a random pose and a point of view.

Coordinates are (x, y, z): x to the image's right, y down, z towards the viewer. A body that faces
the viewer therefore has its left side at positive x.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.pose.joint_sets import SYNTHETIC

FloatArray = NDArray[np.float64]
Range = tuple[float, float]

# Points beyond the joints: the ends of hands and feet, and those that only a front shows.
_EXTRAS = (
    *("right_hand", "left_hand", "right_toe", "left_toe", "chest"),
    *("face", "right_eye", "left_eye", "right_mouth", "left_mouth"),
)
_SIDES = (("right", -1), ("left", 1))
POINTS = {name: index for index, name in enumerate(SYNTHETIC.joints + _EXTRAS)}


# Proportions of a body by the name of the part, in statures.
Build = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Body:
    """A posed body. `points` are (n, 3) statures from the pelvis, in the order of POINTS."""

    points: FloatArray
    build: Build


@dataclass(frozen=True, kw_only=True)
class _Habit:
    """Ranges in degrees of a limb's swing forward and outward, and its middle joint's bend."""

    weight: float
    forward: Range
    outward: Range
    bend: Range


_ARMS = (
    _Habit(weight=30, forward=(-20, 20), outward=(6, 25), bend=(0, 45)),  # relaxed
    _Habit(weight=15, forward=(-40, 45), outward=(5, 15), bend=(10, 80)),  # swinging
    _Habit(weight=20, forward=(-15, 25), outward=(30, 75), bend=(0, 120)),  # akimbo
    _Habit(weight=10, forward=(-10, 20), outward=(75, 115), bend=(0, 100)),  # spread
    _Habit(weight=17, forward=(-10, 20), outward=(120, 172), bend=(0, 90)),  # raised
    _Habit(weight=8, forward=(40, 100), outward=(8, 40), bend=(0, 70)),  # reaching
)
_LEGS = (
    _Habit(weight=33, forward=(-6, 6), outward=(2, 10), bend=(0, 8)),  # standing
    _Habit(weight=25, forward=(-30, 35), outward=(1, 9), bend=(0, 45)),  # walking
    _Habit(weight=16, forward=(-10, 12), outward=(12, 35), bend=(0, 25)),  # astride
    _Habit(weight=11, forward=(60, 90), outward=(10, 30), bend=(55, 95)),  # sitting
    _Habit(weight=6, forward=(45, 85), outward=(15, 40), bend=(70, 125)),  # crouching
    _Habit(weight=9, forward=(-35, 80), outward=(2, 50), bend=(0, 100)),  # kicking
)


def sample_body(rng: Generator) -> Body:
    """Return a body of random proportions, pose and point of view."""
    build = _sample_build(rng)
    named = _pose_trunk(rng, build) | _pose_legs(rng, build)
    points = np.array([named[name] for name in POINTS])
    # One in ten is seen from behind; none in profile, which would confuse left and right.
    turn = float(np.clip(rng.normal(0, 18), -45, 45)) + 180 * (rng.random() < 0.1)
    roll = rng.uniform(-80, 80) if rng.random() < 0.05 else rng.normal(0, 6)
    view = _rotation(2, roll) @ _rotation(0, rng.uniform(-4, 16)) @ _rotation(1, turn)
    return Body(points=points @ view.T, build=build)


def _sample_build(rng: Generator) -> Build:
    leg, arm = rng.uniform(0.225, 0.25), rng.uniform(0.155, 0.175)
    return {
        "torso": rng.uniform(0.27, 0.31),
        "neck": rng.uniform(0.045, 0.06),
        "head": rng.uniform(0.14, 0.165),
        "shoulder": rng.uniform(0.095, 0.125),
        "hip": rng.uniform(0.052, 0.068),
        "upper_arm": arm,
        "forearm": arm * rng.uniform(0.88, 0.96),
        "thigh": leg,
        "shin": leg * rng.uniform(0.92, 1.0),
        "girth": rng.uniform(0.95, 1.35),
    }


def _rotation(axis: int, angle_deg: float) -> FloatArray:
    """Return a rotation about x (up comes forward), y (forward to the right) or z (clockwise)."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    first, second = ((2, 1), (2, 0), (0, 1))[axis]
    rotation = np.eye(3)
    rotation[[first, second], [first, second]] = cos
    rotation[first, second], rotation[second, first] = -sin, sin
    return rotation


def _direction(forward_deg: float, outward_deg: float, side: int) -> FloatArray:
    """Return a limb's unit vector: down, then two swings; `side` is 1 left, -1 right."""
    forward, outward = np.radians(forward_deg), np.radians(outward_deg)
    down = np.cos(outward)
    return np.array([side * np.sin(outward), down * np.cos(forward), down * np.sin(forward)])


def _pick(rng: Generator, habits: tuple[_Habit, ...]) -> _Habit:
    weights = np.array([habit.weight for habit in habits])
    return habits[rng.choice(len(habits), p=weights / weights.sum())]


def _pose_trunk(rng: Generator, build: Build) -> dict[str, FloatArray]:
    """Return the points above the pelvis, arms included."""
    is_bent = rng.random() < 0.1
    bend = rng.uniform(25, 65) if is_bent else rng.uniform(-8, 14)
    trunk = _rotation(2, rng.normal(0, 7)) @ _rotation(1, rng.normal(0, 8)) @ _rotation(0, bend)
    neck = np.array([0, -build["torso"] - build["neck"], 0.01])
    points = {
        "thorax": np.array([0, -build["torso"], 0]),
        "chest": np.array([0, -0.8 * build["torso"], 0.06 * build["girth"]]),
        "upper_neck": neck,
    }
    points |= _pose_head(rng, build, neck)
    habit = _pick(rng, _ARMS)
    for name, side in _SIDES:
        if rng.random() < 0.35:
            habit = _pick(rng, _ARMS)
        points |= _pose_arm(rng, build, habit, name, side)
    return {name: trunk @ point for name, point in points.items()}


def _pose_head(rng: Generator, build: Build, neck: FloatArray) -> dict[str, FloatArray]:
    tilt, turn, nod = rng.normal(0, 8), rng.normal(0, 15), rng.uniform(-12, 12)
    head = _rotation(2, tilt) @ _rotation(1, turn) @ _rotation(0, nod) * build["head"]
    features = {
        "head_top": (0, -1, 0),
        "face": (0, -0.37, 0.17),
        "right_eye": (-0.16, -0.46, 0.42),
        "left_eye": (0.16, -0.46, 0.42),
        "right_mouth": (-0.1, -0.2, 0.42),
        "left_mouth": (0.1, -0.2, 0.42),
    }
    return {name: neck + head @ np.array(at) for name, at in features.items()}


def _pose_arm(
    rng: Generator, build: Build, habit: _Habit, name: str, side: int
) -> dict[str, FloatArray]:
    shoulder = np.array([side * build["shoulder"], -build["torso"] + 0.012, 0])
    upper = _direction(rng.uniform(*habit.forward), rng.uniform(*habit.outward), side)
    # An elbow closes towards the front, upwards or to the middle, never to the back.
    target = rng.uniform([-1.0, -1.0, 0.1], [0.4, 0.4, 1.0]) * [side, 1, 1]
    across = target - (target @ upper) * upper
    across /= np.linalg.norm(across)
    bend = np.radians(rng.uniform(*habit.bend))
    lower = np.cos(bend) * upper + np.sin(bend) * across
    elbow = shoulder + build["upper_arm"] * upper
    wrist = elbow + build["forearm"] * lower
    joints = {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hand": wrist + 0.045 * lower}
    return {f"{name}_{joint}": point for joint, point in joints.items()}


def _pose_legs(rng: Generator, build: Build) -> dict[str, FloatArray]:
    """Return the points from the pelvis down."""
    habit = _pick(rng, _LEGS)
    points = {"pelvis": np.zeros(3)}
    for name, side in _SIDES:
        forward, bend = rng.uniform(*habit.forward), rng.uniform(*habit.bend)
        outward = rng.uniform(*habit.outward)
        # A knee closes to the back, in the plane in which the thigh swings.
        below = forward - bend
        hip = np.array([side * build["hip"], 0, 0])
        knee = hip + build["thigh"] * _direction(forward, outward, side)
        ankle = knee + build["shin"] * _direction(below, 0.4 * outward, side)
        toe = ankle + 0.075 * _direction(below + 62, 12 + 0.4 * outward, side)
        joints = {"hip": hip, "knee": knee, "ankle": ankle, "toe": toe}
        points |= {f"{name}_{joint}": point for joint, point in joints.items()}
    return points
