"""Results of an evaluation per person, in a checkpoint's people.npz: arrays, never pickles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from pipeline.evaluation.metrics import THRESHOLDS, JointCounts, joint_counts
from pipeline.io.inside import read_whole
from pipeline.io.text import briefly
from pipeline.io.unfolding import load_npz
from pipeline.pose.joint_sets import JointSet, Measure

PEOPLE_NAME = "people.npz"
# The array of a measure's errors is named by this and the measure's key.
_ERRORS = "errors."
# The arrays of instances are named by this and their field.
_INSTANCES = "instances."
# A key is the image's name and the person's number in it.
_PERSON = re.compile(r"_\d+$")


def image_of(key: str) -> str:
    """Return the image of a person's key."""
    return _PERSON.sub("", key)


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The rest of what average precision needs, one row per person: truth, and scores.

    In pixels of the original images; `areas` and `boxes` are NaN where they are not known.
    """

    truth: Float32[np.ndarray, "person joint 2"]
    annotated: Bool[np.ndarray, "person joint"]
    boxes: Float32[np.ndarray, "person 4"]
    areas: Float32[np.ndarray, " person"]
    scores: Float32[np.ndarray, " person"]

    @classmethod
    def together(cls, parts: Sequence["Instances"]) -> Self:
        """Concatenate the rows of all."""
        names = [item.name for item in fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    def rows(self, chosen: Int64[np.ndarray, " row"]) -> "Instances":
        """Return the chosen rows, in that order."""
        return Instances(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class PersonResults:
    """Predictions and their errors, one row per person.

    `positions` are those in the evaluated shards, `truths` checksums of the annotations, `joints`
    pixels of the original images. `errors` are normalised, by measure key; NaN where a joint does
    not count, inf where the network failed to place it. `instances` is None for joint sets without
    OKS sigmas.
    """

    keys: tuple[str, ...]
    positions: Int64[np.ndarray, " person"]
    truths: Int64[np.ndarray, " person"]
    joints: Float32[np.ndarray, "person joint 2"]
    errors: dict[str, Float32[np.ndarray, "person joint"]]
    instances: Instances | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(
        cls,
        keys: Sequence[str],
        positions: Int64[np.ndarray, " person"],
        truths: Int64[np.ndarray, " person"],
        joints: Float[np.ndarray, "person joint 2"],
        errors: dict[str, Float[np.ndarray, "person joint"]],
        instances: Instances | None = None,
    ) -> Self:
        """Reduce predictions and errors to single precision; counts stay the same."""
        return cls(
            keys=tuple(keys),
            positions=positions,
            truths=truths,
            joints=joints.astype(np.float32),
            errors={key: narrowed(values) for key, values in errors.items()},
            instances=instances,
        )

    @classmethod
    def nobody(cls, joint_set: JointSet) -> Self:
        nothing, none = np.zeros((0, len(joint_set.joints), 2)), np.zeros(0, np.int64)
        errors = {measure.key: nothing[..., 0] for measure in joint_set.all_measures}
        single = np.zeros(0, np.float32)
        instances = Instances(
            truth=nothing.astype(np.float32),
            annotated=nothing[..., 0].astype(bool),
            boxes=np.zeros((0, 4), np.float32),
            areas=single,
            scores=single,
        )
        return cls.of((), none, none, nothing, errors, instances if joint_set.sigmas else None)

    @classmethod
    def together(cls, parts: Sequence["PersonResults"]) -> Self:
        """Concatenate results, of which there must be at least one."""
        instances = [part.instances for part in parts if part.instances]
        return cls(
            keys=tuple(key for part in parts for key in part.keys),
            positions=np.concatenate([part.positions for part in parts]),
            truths=np.concatenate([part.truths for part in parts]),
            joints=np.concatenate([part.joints for part in parts]),
            errors={
                key: np.concatenate([part.errors[key] for part in parts]) for key in parts[0].errors
            },
            instances=Instances.together(instances) if instances else None,
        )

    def rows(self, chosen: Int64[np.ndarray, " row"]) -> "PersonResults":
        """Return the chosen rows, in that order."""
        return PersonResults(
            keys=tuple(self.keys[row] for row in chosen.tolist()),
            positions=self.positions[chosen],
            truths=self.truths[chosen],
            joints=self.joints[chosen],
            errors={key: values[chosen] for key, values in self.errors.items()},
            instances=self.instances and self.instances.rows(chosen),
        )

    def by_key(self) -> "PersonResults":
        """Return the people in the order of their keys, those of equal keys in shard order."""
        order = sorted(range(len(self)), key=lambda row: (self.keys[row], self.positions[row]))
        return self.rows(np.array(order, np.int64))

    def counts(self, measure: Measure) -> JointCounts:
        """Count joints by a measure, exactly as from errors in full precision."""
        return joint_counts(self.errors[measure.key])

    def mean_errors(self, joint_set: JointSet, measure: Measure) -> Float[np.ndarray, " person"]:
        """Return each person's mean error over the joints of the mean; NaN where none counts."""
        errors = self.errors[measure.key][:, list(joint_set.in_mean)].astype(np.float64)
        counted = ~np.isnan(errors)
        number = counted.sum(axis=1)
        total = np.where(counted, errors, 0).sum(axis=1)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def to_bytes(self) -> bytes:
        """Return the content of people.npz; equal results give equal bytes."""
        arrays: dict[str, Any] = vars(self) | {"keys": np.array(self.keys, str)}
        errors, instances = arrays.pop("errors"), arrays.pop("instances")
        arrays |= {_ERRORS + key: values for key, values in errors.items()}
        if instances:
            arrays |= {_INSTANCES + key: values for key, values in vars(instances).items()}
        file = BytesIO()
        # Keys of people are most of it, and compress well.
        np.savez_compressed(file, **arrays)
        return file.getvalue()


def narrowed(errors: Float[np.ndarray, "person joint"]) -> Float32[np.ndarray, "person joint"]:
    """Round errors to single precision, each on the same side of every threshold as before."""
    found = errors.astype(np.float32)
    before = np.searchsorted(THRESHOLDS, errors)
    after = np.searchsorted(THRESHOLDS, found.astype(np.float64))
    # Rounding crosses a threshold by at most one step.
    found = np.where(after > before, np.nextafter(found, np.float32(-np.inf)), found)
    return np.where(after < before, np.nextafter(found, np.float32(np.inf)), found)


def read_results(path: Path) -> PersonResults:
    """Read a people.npz. Raises ValueError naming the file if it is absent or damaged."""
    try:
        stored = load_npz(read_whole(path))
        names = [name for name in stored if name.startswith(_ERRORS)]
        errors = {name.removeprefix(_ERRORS): stored[name] for name in names}
        keys, joints = stored["keys"], stored["joints"]
        positions, truths = stored["positions"], stored["truths"]
        found = [name for name in stored if name.startswith(_INSTANCES)]
        instances = {name.removeprefix(_INSTANCES): stored[name] for name in found}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # NumPy's and zip's parsers raise errors of any kind
        raise ValueError(f"{path}: not readable as results per person: {briefly(error)}") from error
    shapes = {values.shape for values in errors.values()} | {joints.shape[:2]}
    if len(shapes) > 1 or not keys.shape == positions.shape == truths.shape == joints.shape[:1]:
        raise ValueError(f"{path}: its arrays differ in their numbers of people or joints")
    if joints.ndim != 3 or joints.shape[2] != 2 or keys.dtype.kind != "U":
        raise ValueError(f"{path}: joints must be (person, joint, 2), and keys names")
    kinds = {values.dtype for values in (joints, *errors.values())}
    if kinds != {np.dtype(np.float32)} or {positions.dtype, truths.dtype} != {np.dtype(np.int64)}:
        raise ValueError(f"{path}: its arrays must be float32, positions and truths int64")
    return PersonResults(
        keys=tuple(map(str, keys)),
        positions=positions,
        truths=truths,
        joints=joints,
        errors=errors,
        instances=_instances(path, instances, joints) if instances else None,
    )


def _instances(path: Path, arrays: dict[str, Any], joints: np.ndarray) -> Instances:
    people, number = joints.shape[:2]
    shapes = {
        "truth": (people, number, 2),
        "annotated": (people, number),
        "boxes": (people, 4),
        "areas": (people,),
        "scores": (people,),
    }
    if {name: values.shape for name, values in arrays.items()} != shapes:
        raise ValueError(f"{path}: its arrays {_INSTANCES}* differ in their numbers of people")
    for name, values in arrays.items():
        if values.dtype != (bool if name == "annotated" else np.float32):
            raise ValueError(f"{path}: {_INSTANCES}{name} must not be {values.dtype}")
    return Instances(**arrays)
