"""What packed shards hold: counts and spreads, duplicates, and people whose records look wrong."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike

from pipeline.data.people import Split, Visibility
from pipeline.joints import JointSet
from pipeline.shards.sample import Sample

PERCENTILES = (1, 5, 50, 95, 99)
# An upright person fills about four fifths of MPII's frame and is some eight heads tall, which
# makes a head a tenth of the frame; close-ups and people bent double stay within these shares.
_HEAD_SHARES = (0.02, 0.5)
_FEWEST_JOINTS = 3
_TINY_FRAME_PX = 32
_COINCIDING_SHARE = 0.05
# Joints that one reason names.
_LISTED = 3

# Rows that a check flags, with what is wrong of each.
Flags = dict[int, str]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Inspected people, a row each, in the order of the shards, without their pictures.

    Lengths and coordinates are pixels of the original image, `densities` stored
    pixels for one of those. NaN stands for what a source does not state.
    `unreadable` says what is wrong with the JPEG, empty where it is fine.
    """

    keys: tuple[str, ...]
    images: tuple[str, ...]
    splits: tuple[Split, ...]
    joints: Float[np.ndarray, "person joint 2"]
    states: Int64[np.ndarray, "person joint"]
    centers: Float[np.ndarray, "person 2"]
    frames_px: Float[np.ndarray, " person"]
    head_sizes: Float[np.ndarray, " person"]
    image_sizes: Float[np.ndarray, "person 2"]
    densities: Float[np.ndarray, " person"]
    digests: tuple[str, ...]
    unreadable: tuple[str, ...]

    @property
    def annotated(self) -> Bool[np.ndarray, "person joint"]:
        """Joints that are not missing."""
        return self.states != Visibility.MISSING

    @property
    def outside(self) -> Bool[np.ndarray, "person joint"]:
        """Annotated joints beyond the image as far as its size is known; it begins at -0.5."""
        sizes = self.image_sizes[:, None]
        beyond = (self.joints < -0.5) | (self.joints > sizes - 0.5)
        return self.annotated & (beyond & np.isfinite(sizes)).any(axis=2)

    def names(self, rows: Iterable[int]) -> tuple[str, ...]:
        """People as `split/key`: a key alone may occur in both splits."""
        return tuple(f"{self.splits[row]}/{self.keys[row]}" for row in rows)


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """What one split holds."""

    people: int
    images: int


@dataclass(frozen=True, kw_only=True)
class JointStates:
    """People by the state of one joint. `outside` counts those annotated beyond the image."""

    missing: int
    occluded: int
    visible: int
    outside: int


@dataclass(frozen=True, kw_only=True)
class Coinciding:
    """Two people of one image whose joints are `distance_share` frame sides apart in the mean."""

    first: str
    second: str
    distance_share: float


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """A person whose record looks wrong, and why."""

    key: str
    split: Split
    reason: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A dataset's card. `spreads` holds percentiles, none where nobody has the value.

    `leaks` names images that are in both splits.
    """

    source: str
    joint_set: str
    shards: int
    people: int
    images: int
    head_sizes: int
    splits: dict[str, SplitCounts]
    joints: dict[str, JointStates]
    spreads: dict[str, dict[str, float]]
    leaks: tuple[str, ...]
    identical_crops: tuple[tuple[str, ...], ...]
    coinciding_people: tuple[Coinciding, ...]
    anomalies: dict[str, tuple[Anomaly, ...]]

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON holds it."""
        return asdict(self)


def columns_of(samples: Iterable[Sample], splits: Iterable[Split], joint_set: JointSet) -> Columns:
    """Read every sample once, decoding its picture to see whether that can be done.

    Raises ValueError naming a sample with another number of joints.
    """
    people, digests, unreadable, densities = [], [], [], []
    for sample in samples:
        person, wanted = sample.person, len(joint_set.joints)
        if not len(person.joints) == len(person.visibility) == wanted:
            raise ValueError(f"{sample.key} has {len(person.joints)} joints, expected {wanted}")
        people.append(person)
        digests.append(hashlib.sha256(sample.crop.jpeg).hexdigest())
        unreadable.append(_fault(sample))
        densities.append((sample.crop.factor_x * sample.crop.factor_y) ** 0.5)
    nan = float("nan")
    return Columns(
        keys=tuple(person.key for person in people),
        images=tuple(person.image for person in people),
        splits=tuple(splits),
        joints=np.array([person.joints for person in people], np.float64),
        states=np.array([person.visibility for person in people], np.int64),
        centers=np.array([person.center for person in people], np.float64),
        frames_px=np.array([200 * person.scale for person in people], np.float64),
        head_sizes=np.array(
            [nan if person.head_size is None else person.head_size for person in people], np.float64
        ),
        image_sizes=np.array([person.image_size or (nan, nan) for person in people], np.float64),
        densities=np.array(densities, np.float64),
        digests=tuple(digests),
        unreadable=tuple(unreadable),
    )


def _fault(sample: Sample) -> str:
    try:
        sample.picture()
    except ValueError as error:
        return str(error).removeprefix(f"{sample.place or sample.key}: ")
    return ""


def card_of(
    columns: Columns, found: dict[str, Flags], *, joint_set: JointSet, source: str, shards: int
) -> Card:
    """Put the card together; `found` is `anomalies(columns, joint_set)`."""
    return Card(
        source=source,
        joint_set=joint_set.name,
        shards=shards,
        people=len(columns.keys),
        images=len(set(columns.images)),
        head_sizes=int(np.isfinite(columns.head_sizes).sum()),
        splits=_split_counts(columns),
        joints=_joint_states(columns, joint_set),
        spreads=_spreads(columns),
        leaks=leaked_images(columns),
        identical_crops=identical_crops(columns),
        coinciding_people=coinciding_people(columns),
        anomalies={
            kind: tuple(
                Anomaly(key=columns.keys[row], split=columns.splits[row], reason=reason)
                for row, reason in flags.items()
            )
            for kind, flags in found.items()
        },
    )


def _split_counts(columns: Columns) -> dict[str, SplitCounts]:
    images = defaultdict(list)
    for split, image in zip(columns.splits, columns.images, strict=True):
        images[split].append(image)
    return {
        split: SplitCounts(people=len(of_split), images=len(set(of_split)))
        for split, of_split in sorted(images.items())
    }


def _joint_states(columns: Columns, joint_set: JointSet) -> dict[str, JointStates]:
    counts = {state: (columns.states == state).sum(axis=0) for state in Visibility}
    outside = columns.outside.sum(axis=0)
    return {
        name: JointStates(
            missing=int(counts[Visibility.MISSING][joint]),
            occluded=int(counts[Visibility.OCCLUDED][joint]),
            visible=int(counts[Visibility.VISIBLE][joint]),
            outside=int(outside[joint]),
        )
        for joint, name in enumerate(joint_set.joints)
    }


def _spreads(columns: Columns) -> dict[str, dict[str, float]]:
    return {
        "stored pixels per original pixel": _percentiles(columns.densities),
        "frame side, original pixels": _percentiles(columns.frames_px),
        "person height / frame side": _percentiles(_height_shares(columns)),
        "head size / frame side": _percentiles(_shares(columns.head_sizes, columns)),
    }


def _percentiles(values: Float[np.ndarray, " person"]) -> dict[str, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    found = np.percentile(known, PERCENTILES).tolist()
    return {str(share): value for share, value in zip(PERCENTILES, found, strict=True)}


def _shares(
    lengths: Float[np.ndarray, " person"], columns: Columns
) -> Float[np.ndarray, " person"]:
    """Lengths in frame sides; NaN where the frame has none."""
    frames = columns.frames_px
    return lengths / np.where(frames > 0, frames, np.nan)


def _height_shares(columns: Columns) -> Float[np.ndarray, " person"]:
    """From the highest annotated joint to the lowest, in frame sides."""
    y, annotated = columns.joints[:, :, 1], columns.annotated
    top = np.where(annotated, y, np.inf).min(axis=1)
    bottom = np.where(annotated, y, -np.inf).max(axis=1)
    has_two = annotated.sum(axis=1) >= 2
    heights = np.full(len(y), np.nan)
    heights[has_two] = bottom[has_two] - top[has_two]
    return _shares(heights, columns)


# Duplicates


def leaked_images(columns: Columns) -> tuple[str, ...]:
    """Images, by name, that have people in more than one split."""
    splits = defaultdict(set)
    for split, image in zip(columns.splits, columns.images, strict=True):
        splits[image].add(split)
    return tuple(sorted(image for image, found in splits.items() if len(found) > 1))


def identical_crops(columns: Columns) -> tuple[tuple[str, ...], ...]:
    """Groups of people whose stored JPEG is the same to the byte."""
    return tuple(columns.names(rows) for rows in _groups(columns.digests))


def coinciding_people(columns: Columns) -> tuple[Coinciding, ...]:
    """Pairs of one image whose shared joints lie within 5 % of the smaller frame in the mean.

    Pairs that share fewer than three annotated joints are not compared.
    """
    pairs = [pair for rows in _groups(columns.images) for pair in itertools.combinations(rows, 2)]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    shared = columns.annotated[first] & columns.annotated[second]
    apart = np.linalg.norm(columns.joints[first] - columns.joints[second], axis=2)
    mean_px = np.where(shared, apart, 0).sum(axis=1) / np.maximum(shared.sum(axis=1), 1)
    frame = np.minimum(columns.frames_px[first], columns.frames_px[second])
    is_close = (shared.sum(axis=1) >= _FEWEST_JOINTS) & (mean_px < _COINCIDING_SHARE * frame)
    return tuple(
        Coinciding(
            first=columns.names([pairs[row][0]])[0],
            second=columns.names([pairs[row][1]])[0],
            distance_share=float(mean_px[row] / frame[row]),
        )
        for row in np.flatnonzero(is_close).tolist()
    )


def _groups(values: Iterable[str]) -> list[list[int]]:
    """Rows of each value that occurs more than once."""
    rows = defaultdict(list)
    for row, value in enumerate(values):
        rows[value].append(row)
    return [found for found in rows.values() if len(found) > 1]


# Anomalies


def anomalies(columns: Columns, joint_set: JointSet) -> dict[str, Flags]:
    """Every check by name, with the rows that it flags and why."""
    return {name: check(columns, joint_set) for name, check in _CHECKS.items()}


def _far_joints(columns: Columns, joint_set: JointSet) -> Flags:
    reach = np.linalg.norm(columns.joints - columns.centers[:, None], axis=2)
    # Turned round, so that a coordinate that is no number counts as far.
    far = columns.annotated & ~(reach <= columns.frames_px[:, None])
    longest = np.where(far, reach, 0).max(axis=1, initial=0)
    return {
        row: f"{_listed(far[row], joint_set)}: up to {longest[row]:.0f} px from the centre, "
        f"frame side {columns.frames_px[row]:.0f} px"
        for row in _rows(far.any(axis=1))
    }


def _joints_outside(columns: Columns, joint_set: JointSet) -> Flags:
    outside, sizes = columns.outside, columns.image_sizes
    beyond = np.maximum(-0.5 - columns.joints, columns.joints - sizes[:, None] + 0.5).max(axis=2)
    longest = np.where(outside, beyond, 0).max(axis=1, initial=0)
    return {
        row: f"{_listed(outside[row], joint_set)} outside {sizes[row, 0]:.0f}x{sizes[row, 1]:.0f} "
        f"by up to {longest[row]:.1f} px"
        for row in _rows(outside.any(axis=1))
    }


def _head_sizes(columns: Columns, _: JointSet) -> Flags:
    sizes, (low, high) = columns.head_sizes, _HEAD_SHARES
    frames = columns.frames_px
    strange = (sizes <= 0) | (sizes < low * frames) | (sizes > high * frames)
    return {
        row: f"head size {sizes[row]:.4g} px, frame side {frames[row]:.0f} px"
        for row in _rows(strange)
    }


def _few_joints(columns: Columns, joint_set: JointSet) -> Flags:
    counts = columns.annotated.sum(axis=1)
    fewest = min(_FEWEST_JOINTS, len(joint_set.joints))
    return {row: f"{counts[row]} annotated joints" for row in _rows(counts < fewest)}


def _frames_outside(columns: Columns, _: JointSet) -> Flags:
    half = columns.frames_px[:, None] / 2
    low = np.maximum(columns.centers - half, -0.5)
    high = np.minimum(columns.centers + half, columns.image_sizes - 0.5)
    inside = np.prod(np.maximum(high - low, 0), axis=1)
    areas = columns.frames_px**2
    return {
        row: f"{100 * (1 - inside[row] / areas[row]):.0f} % of the frame outside the image"
        for row in _rows(inside < areas / 2)
    }


def _unreadable(columns: Columns, _: JointSet) -> Flags:
    return {row: fault for row, fault in enumerate(columns.unreadable) if fault}


def _tiny_people(columns: Columns, _: JointSet) -> Flags:
    sides = columns.frames_px
    return {row: f"frame side {sides[row]:.1f} px" for row in _rows(sides < _TINY_FRAME_PX)}


def _rows(is_flagged: ArrayLike) -> list[int]:
    return np.flatnonzero(is_flagged).tolist()


def _listed(chosen: Bool[np.ndarray, " joint"], joint_set: JointSet) -> str:
    names = [joint_set.joints[joint] for joint in np.flatnonzero(chosen).tolist()]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


_CHECKS: dict[str, Callable[[Columns, JointSet], Flags]] = {
    "joints farther than one frame side from the centre": _far_joints,
    "annotated joints outside the image": _joints_outside,
    "head size not within 2-50 % of the frame side": _head_sizes,
    "fewer than 3 annotated joints": _few_joints,
    "more than half of the frame outside the image": _frames_outside,
    "picture not decodable": _unreadable,
    "frame side under 32 pixels": _tiny_people,
}
