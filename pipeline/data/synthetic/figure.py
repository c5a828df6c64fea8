"""A body as coloured parts in an image: skin, clothes, head and hair.

The projection drops the depth z of the body's points, which only decides the order of drawing.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from pipeline.data.synthetic.body import POINTS, Body, FloatArray
from pipeline.pose.joint_sets import SYNTHETIC

Colour = tuple[int, int, int]
_Limb = tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]

_TURN = np.linspace(0.5 * np.pi, 1.5 * np.pi, 8)
_HALF_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_SKINS = (
    *((250, 217, 190), (236, 188, 150), (224, 172, 125)),
    *((190, 132, 90), (141, 90, 58), (92, 58, 40)),
)
_HAIRS = (
    *((32, 26, 24), (60, 40, 28), (102, 66, 38), (160, 110, 60), (214, 180, 112)),
    *((150, 62, 30), (140, 138, 136)),
)
_EYES = (30, 24, 24)
# Each limb's points, their radii, and those of hand or foot at its two ends, in girths.
_ARM = (("shoulder", "elbow", "wrist", "hand"), (0.026, 0.021, 0.016), (0.017, 0.019))
_LEG = (("hip", "knee", "ankle", "toe"), (0.042, 0.030, 0.020), (0.024, 0.02))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A filled outline, (n, 2) pixels. A solid one hides what lies behind it.

    `edges` are the open lines, (n, 2) pixels each, that are drawn darker.
    """

    outline: FloatArray
    colour: Colour
    solid: bool = True
    edges: tuple[FloatArray, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """Shapes drawn one over another at one depth; the part shows its `joints`."""

    shapes: tuple[Shape, ...]
    joints: tuple[int, ...] = ()
    depth: float = 0.0

    def covers(self, point: FloatArray) -> bool:
        """Whether a solid shape of the part lies over `point`, (x, y) pixels."""
        x, y = float(point[0]), float(point[1])
        return any(
            cv2.pointPolygonTest(shape.outline.astype(np.float32), (x, y), False) >= 0
            for shape in self.shapes
            if shape.solid
        )


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """Colours of a person.

    `sleeve` and `leg` are the reach of the cloth: 1 to elbow or knee, 2 to wrist or ankle.
    """

    skin: Colour
    hair: Colour
    shirt: Colour
    print: Colour
    trousers: Colour
    shoes: Colour
    sleeve: float
    leg: float
    stripes: int
    has_long_hair: bool


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A body in an image: joints (16, 2), parts from back to front, and head size, in pixels."""

    joints: FloatArray
    parts: tuple[Part, ...]
    head_size: float

    @property
    def corners(self) -> tuple[FloatArray, FloatArray]:
        """Upper left and lower right corner of all that is drawn, (x, y) pixels."""
        points = np.concatenate([shape.outline for part in self.parts for shape in part.shapes])
        return points.min(axis=0), points.max(axis=0)


def capsule(
    start: FloatArray, end: FloatArray, start_radius: float, end_radius: float
) -> FloatArray:
    """Return the outline, (16, 2), of a limb between two round ends. All in pixels."""
    east, south = end - start
    length = float(np.hypot(east, south))
    if length == 0:
        east, length = 1.0, 1.0
    arc = _HALF_CIRCLE @ np.array([[east, south], [-south, east]]) / length
    return np.concatenate([start + start_radius * arc, end - end_radius * arc])


def ellipse(center: FloatArray, half_axis: FloatArray, half_width: float) -> FloatArray:
    """Return the outline, (24, 2), of an ellipse by one half axis and the other's length."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    length = max(float(np.hypot(*half_axis)), 1e-6)
    across = np.array([-half_axis[1], half_axis[0]]) * (half_width / length)
    return np.asarray(center + np.cos(turn) * half_axis + np.sin(turn) * across)


def disc(center: FloatArray, radius: float) -> FloatArray:
    """Return the outline, (24, 2), of a circle."""
    return ellipse(center, np.array([radius, 0.0]), radius)


def _flat(outline: FloatArray, colour: Colour) -> Shape:
    """Return a shape that is drawn on another, and hides nothing."""
    return Shape(outline=outline, colour=colour, solid=False)


def outlined(outline: FloatArray, colour: Colour) -> Shape:
    """Return a solid shape with a dark edge all round."""
    return Shape(outline=outline, colour=colour, edges=(np.concatenate([outline, outline[:1]]),))


def shade(colour: Colour, factor: float) -> Colour:
    """Return `colour` made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(int(channel * factor), 255) for channel in colour)
    return red, green, blue


def sample_colour(rng: Generator) -> Colour:
    """Return a random colour, more often muted than vivid."""
    hue, saturation, value = rng.random(3)
    channels = colorsys.hsv_to_rgb(hue, 0.9 * saturation**1.3, 0.22 + 0.73 * value)
    red, green, blue = (int(255 * channel) for channel in channels)
    return red, green, blue


def sample_skin(rng: Generator) -> Colour:
    """Return a random skin colour."""
    return shade(_SKINS[rng.integers(len(_SKINS))], rng.uniform(0.9, 1.05))


def sample_outfit(rng: Generator) -> Outfit:
    """Return random colours and clothes."""
    return Outfit(
        skin=sample_skin(rng),
        hair=shade(_HAIRS[rng.integers(len(_HAIRS))], rng.uniform(0.8, 1.1)),
        shirt=sample_colour(rng),
        print=sample_colour(rng),
        trousers=sample_colour(rng),
        shoes=sample_colour(rng),
        sleeve=float(rng.choice([0.0, 0.5, 0.7, 1.0, 1.5, 1.95])),
        leg=float(rng.choice([0.45, 0.8, 1.5, 1.95, 1.95])),
        stripes=int(rng.choice([0, 0, 0, 3, 5])),
        has_long_hair=bool(rng.random() < 0.4),
    )


def place(body: Body, outfit: Outfit, stature_px: float, pelvis: FloatArray) -> Figure:
    """Return the figure of `body` at a stature and with its pelvis at (x, y), in pixels."""
    points = body.points * stature_px
    points[:, :2] += pelvis
    at = {name: points[index] for name, index in POINTS.items()}
    girth = body.build["girth"] * stature_px
    head_width = 0.39 * body.build["head"] * stature_px
    parts = [*_trunk(at, girth, outfit), *_head(at, girth, head_width, outfit)]
    for side in ("right", "left"):
        arm_colours, leg_colours = (outfit.skin, outfit.shirt), (outfit.skin, outfit.trousers)
        parts += _limb(at, side, girth, _ARM, arm_colours, outfit.sleeve, outfit.skin)
        parts += _limb(at, side, girth, _LEG, leg_colours, outfit.leg, outfit.shoes)
    half_height = np.linalg.norm(at["head_top"][:2] - at["upper_neck"][:2]) / 2
    return Figure(
        joints=points[: len(SYNTHETIC.joints), :2],
        parts=tuple(sorted(parts, key=lambda part: part.depth)),
        # The box of a turned ellipse has the diagonal 2 * hypot(half axes); MPII takes 0.6 of it.
        head_size=float(0.6 * 2 * np.hypot(half_height, head_width)),
    )


def _stripes(corners: FloatArray, count: int, colour: Colour) -> list[Shape]:
    """Return bands across a quadrilateral, (4, 2): one end's two corners, then the other's."""
    # Cloth reaches beyond the joints by about this share of their distance.
    reach = 0.22 * (corners[1] - corners[0])
    corners = corners + reach * np.array([[-1], [1], [-1], [1]])
    start, along = corners[:2], corners[2:] - corners[:2]
    edges = (np.arange(2 * count) + 0.75) / (2 * count + 0.5)
    return [
        _flat(np.concatenate([start + low * along, (start + high * along)[::-1]]), colour)
        for low, high in edges.reshape(-1, 2)
    ]


def _tube(
    start: FloatArray, end: FloatArray, radii: tuple[float, float], colour: Colour
) -> list[Shape]:
    """Return a limb and the light that falls on it from the upper left. Points are (x, y, z)."""
    outline = capsule(start[:2], end[:2], *radii)
    # The sides only: a line round the ends would cut every elbow and knee.
    half = len(outline) // 2
    edges = outline[half - 1 : half + 1], outline[[-1, 0]]
    light = np.array([-0.25, -0.25]) * min(radii)
    glow = capsule(start[:2] + light, end[:2] + light, 0.5 * radii[0], 0.5 * radii[1])
    return [Shape(outline=outline, colour=colour, edges=edges), _flat(glow, shade(colour, 1.13))]


def _tapered(
    at: dict[str, FloatArray],
    ends: tuple[str, str],
    radii: tuple[float, float],
    colours: tuple[Colour, Colour],
    cover: float,
) -> Part:
    """Return the part between two points: skin, and cloth over a share `cover` of its length."""
    start, end = at[ends[0]], at[ends[1]]
    skin, cloth = colours
    shapes = _tube(start, end, radii, skin)
    if cover > 0:
        share = min(cover, 1.0)
        hem = radii[0] + share * (radii[1] - radii[0])
        reach = start + share * (end - start)
        shapes += _tube(start, reach, (1.15 * radii[0], 1.18 * hem), cloth)
    joints = tuple(POINTS[name] for name in ends if name in SYNTHETIC.joints)
    depth = float(start[2] + end[2]) / 2
    return Part(shapes=tuple(shapes), joints=joints, depth=depth)


def _limb(
    at: dict[str, FloatArray],
    side: str,
    girth: float,
    limb: _Limb,
    colours: tuple[Colour, Colour],
    cover: float,
    end_colour: Colour,
) -> list[Part]:
    names, radii, end_radii = limb
    upper, middle, lower, tip = (f"{side}_{name}" for name in names)
    first, second, third, start, end = (girth * radius for radius in (*radii, *end_radii))
    return [
        _tapered(at, (upper, middle), (first, second), colours, cover),
        _tapered(at, (middle, lower), (second, third), colours, cover - 1),
        _tapered(at, (lower, tip), (start, end), (end_colour,) * 2, 0),
    ]


def _trunk(at: dict[str, FloatArray], girth: float, outfit: Outfit) -> list[Part]:
    names = ("right_shoulder", "left_shoulder", "right_hip", "left_hip")
    corners = np.array([at[name] for name in names])
    radii = np.array([0.03, 0.03, 0.042, 0.042]) * girth
    depth = float(corners[:, 2].mean())
    joints = tuple(POINTS[name] for name in names)
    rings = [disc(corner[:2], radius) for corner, radius in zip(corners, radii, strict=True)]
    shirt = cv2.convexHull(np.concatenate(rings).astype(np.float32))[:, 0]
    shapes = [outlined(shirt.astype(np.float64), outfit.shirt)]
    shapes += _stripes(corners[:, :2], outfit.stripes, outfit.print)
    shapes += _neckline(at, outfit.skin)
    shown = (*joints, POINTS["thorax"], POINTS["pelvis"])
    torso = Part(shapes=tuple(shapes), joints=shown, depth=depth)
    seat = (1.08 * radii[2], 1.08 * radii[3])
    hips = Part(
        shapes=tuple(_tube(corners[2], corners[3], seat, outfit.trousers)),
        joints=(*joints[2:], POINTS["pelvis"]),
        # Just behind the shirt that hangs over them.
        depth=depth - 0.01,
    )
    return [torso, hips]


def _neckline(at: dict[str, FloatArray], skin: Colour) -> list[Shape]:
    """Return the bare triangle under the throat, which only a front shows."""
    across = 0.22 * (at["left_shoulder"] - at["right_shoulder"])
    trunk_depth = 0.8 * at["thorax"][2] + 0.2 * at["pelvis"][2]
    if at["chest"][2] <= trunk_depth:
        return []
    corners = at["thorax"] - across, at["thorax"] + across, at["chest"]
    return [_flat(np.array(corners)[:, :2], skin)]


def _head(at: dict[str, FloatArray], girth: float, half_width: float, outfit: Outfit) -> list[Part]:
    neck, top = at["upper_neck"], at["head_top"]
    middle = (neck + top) / 2
    radii, colours = (0.022 * girth,) * 2, (outfit.skin,) * 2
    throat = _tapered(at, ("thorax", "upper_neck"), radii, colours, 0)
    skull = outlined(ellipse(middle[:2], (top - neck)[:2] / 2, half_width), outfit.hair)
    facing = float(at["face"][2] - middle[2]) / (0.43 * half_width)
    shapes = (skull, *_face(at, facing, half_width, outfit.skin))
    joints = POINTS["upper_neck"], POINTS["head_top"]
    parts = [throat, Part(shapes=shapes, joints=joints, depth=float(middle[2]))]
    if outfit.has_long_hair:
        parts.append(_long_hair(at, middle, half_width, outfit.hair))
    return parts


def _face(at: dict[str, FloatArray], facing: float, half_width: float, skin: Colour) -> list[Shape]:
    """Return the face, empty where it is turned away: `facing` is 1 to the viewer, -1 away."""
    if facing < 0.2:
        return []
    half_axis = (at["head_top"] - at["upper_neck"])[:2] * 0.37
    face = ellipse(at["face"][:2], half_axis, 0.88 * half_width * min(facing, 1.0))
    eyes = [disc(at[name][:2], 0.11 * half_width) for name in ("right_eye", "left_eye")]
    thickness = 0.07 * half_width
    lips = capsule(at["right_mouth"][:2], at["left_mouth"][:2], thickness, thickness)
    return [_flat(face, skin), *(_flat(eye, _EYES) for eye in eyes), _flat(lips, shade(skin, 0.6))]


def _long_hair(
    at: dict[str, FloatArray], middle: FloatArray, half_width: float, colour: Colour
) -> Part:
    """Return hair that falls from the back of the head to the shoulders."""
    back = middle + 0.8 * (middle - at["face"])
    tip = back + 0.88 * (at["upper_neck"] - at["head_top"])
    outline = capsule(back[:2], tip[:2], 1.05 * half_width, 0.75 * half_width)
    return Part(
        shapes=(outlined(outline, shade(colour, 0.85)),),
        joints=(POINTS["upper_neck"],),
        depth=float(back[2] + tip[2]) / 2,
    )
