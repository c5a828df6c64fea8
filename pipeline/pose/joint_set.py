"""What a joint set is: plain data that agrees with itself, and travels as JSON."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from pipeline.io.parsing import did_you_mean, fields_of, items_of, number_of, text_of

Normaliser = Literal["head", "segment", "box"]

# Names end up in names of metrics, columns and runs.
_WORD = re.compile(r"[A-Za-z0-9_]+")
_RUN_WORD = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A percentage of correct keypoints: how an error in pixels is normalised.

    `normaliser` says what a distance is divided by: `head` the stored head
    size, `segment` the distance between the two annotated joints `segment`,
    `box` the longer side of the annotated person box. `thresholds` are shares
    of it, hundredths from 0.01 to 0.5; the first is the headline. `auc_limit`,
    another, is the upper end of the area under the curve. Raises ValueError
    naming the field that breaks this.
    """

    key: str
    title: str
    normaliser: Normaliser
    segment: tuple[int, int] = (0, 0)
    thresholds: tuple[float, ...]
    auc_limit: float = 0.5

    def __post_init__(self) -> None:
        _check_word("key", self.key)
        if self.normaliser == "segment":
            _check_pair("segment", self.segment)
        elif self.segment != (0, 0):
            raise ValueError(f"segment is not for the normaliser {self.normaliser}")
        _check_once("thresholds", self.thresholds, "threshold")
        for place, share in (
            *((f"thresholds[{n}]", share) for n, share in enumerate(self.thresholds)),
            ("auc_limit", self.auc_limit),
        ):
            # Counts are kept for each hundredth up to one half (`pipeline.evaluation.metrics`).
            if not (0.01 <= share <= 0.5 and abs(100 * share - round(100 * share)) < 1e-6):
                raise ValueError(f"{place} must be hundredths from 0.01 to 0.5, got {share:g}")

    @property
    def headline(self) -> str:
        """Name of the headline figure, such as `PCKh@0.5`."""
        return f"{self.title}@{self.thresholds[0]:g}"

    @property
    def metric_name(self) -> str:
        """Name of the headline among a run's metrics, such as `pckh_0.5`."""
        return f"{self.key}_{self.thresholds[0]:g}"

    def to_json(self, joints: Sequence[str]) -> dict[str, Any]:
        """Plain data; a segment's joints by name."""
        segment = [joints[joint] for joint in self.segment]
        return {
            "key": self.key,
            "title": self.title,
            "normaliser": self.normaliser,
            **({"segment": segment} if self.normaliser == "segment" else {}),
            "thresholds": list(self.thresholds),
            "auc_limit": self.auc_limit,
        }

    @classmethod
    def from_json(cls, content: Any, joints: Sequence[str], where: str) -> Self:
        """The measure that `to_json` described. Raises ValueError naming the field."""
        given = fields_of(
            content,
            where,
            required=("key", "title", "normaliser", "thresholds", "auc_limit"),
            optional=("segment",),
        )
        normaliser, segment = given["normaliser"], given.get("segment")
        if normaliser not in get_args(Normaliser):
            known = ", ".join(get_args(Normaliser))
            raise ValueError(f"{where}.normaliser must be one of {known}, got {normaliser!r}")
        read: dict[str, Any] = {
            "key": text_of(given["key"], f"{where}.key"),
            "title": text_of(given["title"], f"{where}.title"),
            "normaliser": normaliser,
            "segment": (0, 0) if segment is None else pair_of(segment, joints, f"{where}.segment"),
            "thresholds": numbers_of(given["thresholds"], f"{where}.thresholds"),
            "auc_limit": number_of(given["auc_limit"], f"{where}.auc_limit"),
        }
        try:
            return cls(**read)
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None


@dataclass(frozen=True, kw_only=True)
class JointSet:
    """The joints that a dataset annotates, in its own order.

    `flip_pairs` change places in a mirrored image. `limbs` are drawn, from
    joint to joint. `groups` name the rows of a published table (left and right
    averaged). `in_mean` are the joints that enter a mean. The first of
    `measures` is the joint set's own. Raises ValueError naming the field that
    does not agree with the others.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    in_mean: tuple[int, ...]
    measures: tuple[Measure, ...]

    def __post_init__(self) -> None:
        if not _RUN_WORD.fullmatch(self.name):
            raise ValueError(
                f"name must be made of letters a-z, digits, '_', '.' and '-', got {self.name!r}"
            )
        _check_once("joints", self.joints, "joint")
        for number, name in enumerate(self.joints):
            _check_word(f"joints[{number}]", name)
        for field, pairs in (("flip_pairs", self.flip_pairs), ("limbs", self.limbs)):
            for number, pair in enumerate(pairs):
                self._check_known(f"{field}[{number}]", pair)
                _check_pair(f"{field}[{number}]", pair)
        paired = Counter(joint for pair in self.flip_pairs for joint in pair)
        for joint, count in paired.items():
            if count > 1:
                raise ValueError(f"flip_pairs must hold a joint once, got {self.joints[joint]!r}")
        for name, members in self.groups:
            self._check_known(f"groups.{name}", members)
            _check_once(f"groups.{name}", members, "joint")
        self._check_known("in_mean", self.in_mean)
        _check_once("in_mean", self.in_mean, "joint")
        _check_once("measures", [measure.key for measure in self.measures], "measure")
        for number, measure in enumerate(self.measures):
            self._check_known(f"measures[{number}].segment", measure.segment)

    @property
    def mirror(self) -> tuple[int, ...]:
        """Index of each joint's counterpart in a mirrored image."""
        order = list(range(len(self.joints)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    def measure(self, key: str) -> Measure:
        """Return the measure named `key`; `auto` is the joint set's own. Raises ValueError."""
        if key == "auto":
            return self.measures[0]
        for measure in self.measures:
            if measure.key == key:
                return measure
        known = ", ".join(measure.key for measure in self.measures)
        raise ValueError(f"evaluation.measure: joint set {self.name} has {known}, not {key!r}")

    def difference(self, other: Self) -> str:
        """How another joint set differs, for an error: by name, or of namesakes the fields; empty if equal."""
        if self.name != other.name:
            return f"{self.name} and {other.name}"
        differing = [
            item.name
            for item in fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        ]
        return f"two called {self.name} that differ in {', '.join(differing)}" if differing else ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON; joints are named wherever they are meant."""

        def named(chosen: Iterable[int]) -> list[str]:
            return [self.joints[joint] for joint in chosen]

        return {
            "name": self.name,
            "joints": list(self.joints),
            "flip_pairs": [named(pair) for pair in self.flip_pairs],
            "limbs": [named(limb) for limb in self.limbs],
            "groups": {name: named(members) for name, members in self.groups},
            "in_mean": named(self.in_mean),
            "measures": [measure.to_json(self.joints) for measure in self.measures],
        }

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The joint set that `to_json` described. Raises ValueError naming the field."""
        given = fields_of(content, "joint set", required=[item.name for item in fields(cls)])
        joints = texts_of(given["joints"], "joints")
        return cls(
            name=text_of(given["name"], "name"),
            joints=joints,
            flip_pairs=pairs_of(given["flip_pairs"], joints, "flip_pairs"),
            limbs=pairs_of(given["limbs"], joints, "limbs"),
            groups=groups_of(given["groups"], joints),
            in_mean=indices_of(given["in_mean"], joints, "in_mean"),
            measures=tuple(
                Measure.from_json(measure, joints, f"measures[{number}]")
                for number, measure in enumerate(items_of(given["measures"], "measures"))
            ),
        )

    def _check_known(self, place: str, chosen: Iterable[int]) -> None:
        for joint in chosen:
            if not 0 <= joint < len(self.joints):
                raise ValueError(
                    f"{place} must hold joints from 0 to {len(self.joints) - 1}, got {joint}"
                )


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of texts. Raises ValueError naming place and value."""
    return tuple(text_of(v, f"{where}[{n}]") for n, v in enumerate(items_of(value, where)))


def numbers_of(value: Any, where: str) -> tuple[float, ...]:
    """Return a list of numbers. Raises ValueError naming place and value."""
    return tuple(number_of(v, f"{where}[{n}]") for n, v in enumerate(items_of(value, where)))


def indices_of(value: Any, joints: Sequence[str], where: str) -> tuple[int, ...]:
    """Indices of a list of joints by name. Raises ValueError naming one that is not among `joints`."""
    names = texts_of(value, where)
    for number, name in enumerate(names):
        if name not in joints:
            raise ValueError(
                f"{where}[{number}]: unknown joint {name!r}{did_you_mean(name, joints)}"
            )
    return tuple(joints.index(name) for name in names)


def pair_of(value: Any, joints: Sequence[str], where: str) -> tuple[int, int]:
    """Indices of two joints by name. Raises ValueError naming place and value."""
    if len(items_of(value, where)) != 2:
        raise ValueError(f"{where} must be two joints, got {value!r:.80}")
    first, second = indices_of(value, joints, where)
    return first, second


def pairs_of(value: Any, joints: Sequence[str], where: str) -> tuple[tuple[int, int], ...]:
    """Indices of a list of pairs of joints by name. Raises ValueError naming place and value."""
    pairs = enumerate(items_of(value, where))
    return tuple(pair_of(pair, joints, f"{where}[{number}]") for number, pair in pairs)


def groups_of(value: Any, joints: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Indices of groups of joints by name. Raises ValueError naming place and value."""
    if not isinstance(value, dict):
        raise ValueError(f"groups must be a table of lists of joints, got {value!r:.80}")
    return tuple((name, indices_of(v, joints, f"groups.{name}")) for name, v in value.items())


def _check_word(place: str, value: str) -> None:
    if not _WORD.fullmatch(value):
        raise ValueError(f"{place} must be made of letters a-z, digits and '_', got {value!r}")


def _check_pair(place: str, pair: tuple[int, int]) -> None:
    if pair[0] == pair[1]:
        raise ValueError(f"{place} must be two different joints, got the same twice")


def _check_once(place: str, values: Sequence[Any], what: str) -> None:
    """Raise ValueError unless there is something, and nothing twice."""
    if not values:
        raise ValueError(f"{place} must hold at least one {what}, got none")
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{place} must hold a {what} once, got {value!r} {count} times")
