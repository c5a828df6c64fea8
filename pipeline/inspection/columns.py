"""What packed shards say of each person, as columns."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from pipeline.data.people import Split, Visibility
from pipeline.joints import JointSet
from pipeline.shards.sample import Sample


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
