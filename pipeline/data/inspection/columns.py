"""The people of packed shards as columns."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from pipeline.data.shards.sample import BadSampleError, Sample, Samples
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Person, Split, Visibility


@dataclass(frozen=True, kw_only=True)
class Columns:
    """People whose records are sound, a row each, in the order of the shards.

    `positions` are those among all samples. `damaged` names each sample that has no row, and its
    fault. Lengths and coordinates are pixels of the original image, `densities` stored pixels per
    original one. NaN stands for values that a source does not state. `unreadable` is the fault of
    the JPEG, empty where there is none.
    """

    positions: Int64[np.ndarray, " person"]
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
    damaged: tuple[str, ...]

    @property
    def annotated(self) -> Bool[np.ndarray, "person joint"]:
        return self.states != Visibility.MISSING

    @property
    def outside(self) -> Bool[np.ndarray, "person joint"]:
        """Annotated joints beyond the image, where its size is known; it begins at -0.5."""
        sizes = self.image_sizes[:, None]
        beyond = (self.joints < -0.5) | (self.joints > sizes - 0.5)
        return self.annotated & (beyond & np.isfinite(sizes)).any(axis=2)

    def names(self, rows: Iterable[int]) -> tuple[str, ...]:
        """Name people as `split/key`, since a key alone may occur in both splits."""
        return tuple(f"{self.splits[row]}/{self.keys[row]}" for row in rows)


def columns_of(samples: Samples, splits: Iterable[Split], joint_set: JointSet) -> Columns:
    """Read every sample once, and try to decode its picture.

    `splits` has the split of each sample. A sample is damaged if its bytes changed after packing,
    its record can't be read, or it has another number of joints.
    """
    rows, damaged = [], []
    for position, split in enumerate(splits):
        try:
            rows.append(_row(samples[position], position, split, joint_set))
        except BadSampleError as error:
            damaged.append(str(error))
    return _columns(rows, damaged, joint_set)


class _Row(NamedTuple):
    position: int
    split: Split
    person: Person
    digest: str
    density: float
    fault: str


def _row(sample: Sample, position: int, split: Split, joint_set: JointSet) -> _Row:
    joints, states = len(sample.person.joints), len(sample.person.visibility)
    wanted = len(joint_set.joints)
    if not joints == states == wanted:
        found = f"{joints} joints" if joints == states else f"{joints} joints, {states} states"
        raise BadSampleError(f"{sample.where}: {found}, expected {wanted}")
    fault = ""
    try:
        sample.picture()
    except BadSampleError as error:
        fault = str(error).removeprefix(f"{sample.where}: ")
    digest = hashlib.sha256(sample.crop.jpeg).hexdigest()
    density = (sample.crop.factor_x * sample.crop.factor_y) ** 0.5
    return _Row(position, split, sample.person, digest, density, fault)


def _columns(rows: Sequence[_Row], damaged: Sequence[str], joint_set: JointSet) -> Columns:
    people = [row.person for row in rows]
    # Where every sample is damaged, arrays would lack their shapes.
    shape, nan = (len(rows), len(joint_set.joints)), float("nan")
    heads = [nan if person.head_size is None else person.head_size for person in people]
    sizes = [person.image_size or (nan, nan) for person in people]
    return Columns(
        positions=np.array([row.position for row in rows], np.int64),
        keys=tuple(person.key for person in people),
        images=tuple(person.image for person in people),
        splits=tuple(row.split for row in rows),
        joints=np.array([person.joints for person in people], np.float64).reshape(*shape, 2),
        states=np.array([person.visibility for person in people], np.int64).reshape(shape),
        centers=np.array([person.center for person in people], np.float64).reshape(-1, 2),
        frames_px=np.array([200 * person.scale for person in people], np.float64),
        head_sizes=np.array(heads, np.float64),
        image_sizes=np.array(sizes, np.float64).reshape(-1, 2),
        densities=np.array([row.density for row in rows], np.float64),
        digests=tuple(row.digest for row in rows),
        unreadable=tuple(row.fault for row in rows),
        damaged=tuple(damaged),
    )
