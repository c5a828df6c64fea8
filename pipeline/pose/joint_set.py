"""The definition of a joint set: consistent plain data, stored as JSON."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from pipeline.io.parsing import did_you_mean, fields_of, items_of, number_of, text_of
from pipeline.pose.person import Person, Visibility

Normaliser = Literal["head", "segment", "box", "oks"]

# Names become parts of the names of metrics, columns and runs.
_WORD = re.compile(r"[A-Za-z0-9_]+")
_RUN_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# It labels axes, where matplotlib takes what is between $ for a formula.
_TITLE = re.compile(r"[\w .,:@%()/+-]{1,80}")
_GROUP_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]*")


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The thresholds of a normaliser, from `low` to `high`, and the measure's primary metric.

    `is_similarity`: a joint is correct if its similarity is at least the threshold, else if its
    error is at most that. `primary` has title and name of the primary metric, empty where it is the
    percentage at the first threshold; `others` are metrics shown beside it.
    """

    low: float = 0.01
    high: float = 0.5
    is_similarity: bool = False
    primary: tuple[str, str] = ("", "")
    others: tuple[str, ...] = ()


_PCK = _Scale()
_SCALES: Mapping[Normaliser, _Scale] = {
    "head": _PCK,
    "segment": _PCK,
    "box": _PCK,
    "oks": _Scale(
        low=0.5,
        high=0.99,
        is_similarity=True,
        primary=("OKS AP", "coco_ap"),
        others=("coco_ap_50", "coco_ap_75"),
    ),
}


def _has_area(person: Person) -> bool:
    _, _, width, height = person.box or (0, 0, 0, 0)
    return (person.area or width * height) > 0


# A person's parts that a normaliser needs; all that is not here is a distance between joints.
_NEEDED: Mapping[Normaliser, Callable[[Person], bool]] = {
    "head": lambda person: bool(person.head_size),
    "box": lambda person: max((person.box or (0, 0, 0, 0))[2:]) > 0,
    "oks": _has_area,
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure of accuracy: a percentage of correct keypoints (PCK), or of similar ones (OKS).

    Distances are divided by the `normaliser`. `head`: the stored head size. `segment`: the distance
    between the two annotated joints `segment`. `box`: the longer side of the annotated person box.
    `thresholds` are shares of the normaliser, hundredths from 0.01 to 0.5; the first is that of the
    primary metric. `auc_limit`, another share, is the upper end of the area under the curve.

    `oks`: twice the joint's sigma times the root of the person's area. Thresholds are similarities
    of a joint (object keypoint similarity), hundredths from 0.5 to 0.99, the area under the curve
    is that from 1 down to `auc_limit`, and the primary metric is COCO's average precision of whole
    people. Raises ValueError that names the wrong field.
    """

    key: str
    title: str
    normaliser: Normaliser
    segment: tuple[int, int] = (0, 0)
    thresholds: tuple[float, ...]
    auc_limit: float = 0.5

    def __post_init__(self) -> None:
        _check_word("key", self.key)
        if not _TITLE.fullmatch(self.title):
            raise ValueError(
                "title must be made of at most 80 letters, digits, spaces and any of .,:@%()/+-, "
                f"got {self.title!r:.100}"
            )
        if self.normaliser == "segment":
            _check_pair("segment", self.segment)
        elif self.segment != (0, 0):
            raise ValueError(f"segment is not for the normaliser {self.normaliser}")
        _check_once("thresholds", self.thresholds, "threshold")
        for place, share in (
            *((f"thresholds[{n}]", share) for n, share in enumerate(self.thresholds)),
            ("auc_limit", self.auc_limit),
        ):
            # `pipeline.evaluation.metrics` counts at each hundredth up to one half.
            low, high = self._scale.low, self._scale.high
            if not (low <= share <= high and abs(100 * share - round(100 * share)) < 1e-6):
                raise ValueError(
                    f"{place} must be hundredths from {low:g} to {high:g}, got {share:g}"
                )

    @property
    def _scale(self) -> _Scale:
        return _SCALES[self.normaliser]

    @property
    def is_similarity(self) -> bool:
        """Whether thresholds are similarities, of which a joint must have at least as much."""
        return self._scale.is_similarity

    @property
    def is_of_joints(self) -> bool:
        """Whether the primary metric is the percentage of joints at the first threshold."""
        return not self._scale.primary[0]

    @property
    def headline(self) -> str:
        """Name of the primary metric for people, such as `PCKh@0.5`."""
        return self._scale.primary[0] or self.title_at(self.thresholds[0])

    @property
    def metric_name(self) -> str:
        """Name of the primary metric in MLflow, such as `pckh_0.5`."""
        return self._scale.primary[1] or self.metric_at(self.thresholds[0])

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics in MLflow by which runs are compared, the primary one first."""
        at_thresholds = [] if self._scale.others else map(self.metric_at, self.thresholds[1:])
        return [self.metric_name, *self._scale.others, *at_thresholds]

    def title_at(self, threshold: float) -> str:
        """Name the percentage of joints at a threshold for people."""
        return f"{self.title}@{threshold:g}"

    def metric_at(self, threshold: float) -> str:
        """Name the percentage of joints at a threshold in MLflow."""
        return f"{self.key}_{threshold:g}"

    @property
    def area_title(self) -> str:
        """Name of the area under the curve for people."""
        return f"AUC {self.auc_limit:g}-1" if self.is_similarity else f"AUC 0-{self.auc_limit:g}"

    def is_defined_for(self, person: Person) -> bool:
        """Whether a person has the size that errors are divided by."""
        if self.normaliser in _NEEDED:
            return _NEEDED[self.normaliser](person)
        start, end = self.segment
        has_both = all(person.visibility[joint] != Visibility.MISSING for joint in (start, end))
        return has_both and person.joints[start] != person.joints[end]

    def to_json(self, joints: Sequence[str]) -> dict[str, Any]:
        """Return plain data, with a segment's joints by name."""
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
        """Read the data of `to_json`. Raises ValueError that names the field."""
        required = ("key", "title", "normaliser", "thresholds", "auc_limit")
        given = fields_of(content, where, required=required, optional=("segment",))
        normaliser, segment = given["normaliser"], given.get("segment")
        known = get_args(Normaliser)
        if normaliser not in known:
            expected = ", ".join(known)
            raise ValueError(f"{where}.normaliser must be one of {expected}, got {normaliser!r}")
        try:
            return cls(
                key=text_of(given["key"], "key"),
                title=text_of(given["title"], "title"),
                normaliser=normaliser,
                segment=(0, 0) if segment is None else JointNames(joints).pair(segment, "segment"),
                thresholds=items_of(given["thresholds"], "thresholds", number_of),
                auc_limit=number_of(given["auc_limit"], "auc_limit"),
            )
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None


@dataclass(frozen=True, kw_only=True)
class JointSet:
    """Joints that a dataset annotates, in its order, and what to do with them.

    `flip_pairs` change places in a mirrored image. `limbs` are drawn from joint to joint. `groups`
    are the rows of a published table (left and right averaged). `in_mean` are the joints that enter
    a mean. The first of `measures` is the default one. `sigmas` are each joint's annotation error
    as a share of the person's size (the square root of the area), for object keypoint similarity
    (OKS); empty where they are not known. With them accuracy is measured by OKS too. Raises
    ValueError that names a field which contradicts the others.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    # Groups and sigmas decide nothing about training: sets with and without them are the same.
    groups: tuple[tuple[str, tuple[int, ...]], ...] = field(compare=False)
    in_mean: tuple[int, ...]
    measures: tuple[Measure, ...]
    sigmas: tuple[float, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not _RUN_WORD.fullmatch(self.name):
            raise ValueError(
                "name must be made of letters a-z, digits, '_', '.' and '-', and begin with none "
                f"of the last two, got {self.name!r}"
            )
        _check_once("joints", self.joints, "joint")
        for number, name in enumerate(self.joints):
            _check_word(f"joints[{number}]", name)
        for place, pairs in (("flip_pairs", self.flip_pairs), ("limbs", self.limbs)):
            for number, pair in enumerate(pairs):
                self._check_known(f"{place}[{number}]", pair)
                _check_pair(f"{place}[{number}]", pair)
        paired = Counter(joint for pair in self.flip_pairs for joint in pair)
        for joint, count in paired.items():
            if count > 1:
                raise ValueError(f"flip_pairs must hold a joint once, got {self.joints[joint]!r}")
        for name, members in self.groups:
            if not _GROUP_WORD.fullmatch(name):
                raise ValueError(
                    "groups must have names of letters a-z, digits, '_', '-' and spaces, got "
                    f"{name!r}"
                )
            self._check_known(f"groups.{name}", members)
            _check_once(f"groups.{name}", members, "joint")
        self._check_known("in_mean", self.in_mean)
        _check_once("in_mean", self.in_mean, "joint")
        _check_once("measures", [measure.key for measure in self.measures], "measure")
        for number, measure in enumerate(self.measures):
            self._check_known(f"measures[{number}].segment", measure.segment)
        if self.sigmas and len(self.sigmas) != len(self.joints):
            raise ValueError(
                f"sigmas must hold one number a joint, {len(self.joints)}, got {len(self.sigmas)}"
            )
        if not self.sigmas and any(measure.normaliser == "oks" for measure in self.measures):
            raise ValueError("sigmas must hold one number a joint for the normaliser oks, got none")
        for number, sigma in enumerate(self.sigmas):
            if not 0 < sigma < 1:
                raise ValueError(f"sigmas[{number}] must lie between 0 and 1, got {sigma:g}")

    @property
    def mirror(self) -> tuple[int, ...]:
        """Index of each joint's counterpart in a mirrored image."""
        order = list(range(len(self.joints)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def all_measures(self) -> tuple[Measure, ...]:
        """The measures, and OKS where the sigmas are known."""
        is_stated = any(measure.key == OKS.key for measure in self.measures)
        return (*self.measures, OKS) if self.sigmas and not is_stated else self.measures

    def measure(self, key: str) -> Measure:
        """Return the measure named `key`; `auto` is the first one. Raises ValueError."""
        if key == "auto":
            return self.measures[0]
        for measure in self.all_measures:
            if measure.key == key:
                return measure
        known = ", ".join(measure.key for measure in self.all_measures)
        way = (
            "; it needs the joints' sigmas: pack with --joint-set FILE (docs/custom-joints.md)"
            if key == OKS.key
            else ""
        )
        raise ValueError(f"evaluation.measure: joint set {self.name} has {known}, not {key!r}{way}")

    def difference(self, other: Self) -> str:
        """Return both names, or the fields that differ, for an error message; empty if equal."""
        if self.name != other.name:
            return f"{self.name} and {other.name}"
        differing = [
            item.name
            for item in fields(self)
            if item.compare and getattr(self, item.name) != getattr(other, item.name)
        ]
        return f"two called {self.name} that differ in {', '.join(differing)}" if differing else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, with joints by name."""

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
            **({"sigmas": list(self.sigmas)} if self.sigmas else {}),
        }

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read the data of `to_json`. Raises ValueError that names the field."""
        required = [item.name for item in fields(cls) if item.name != "sigmas"]
        given = fields_of(content, "joint set", required=required, optional=("sigmas",))
        read = read_fields(given)

        def measure(value: Any, where: str) -> Measure:
            return Measure.from_json(value, read["joints"], where)

        return cls(**read, measures=items_of(given["measures"], "measures", measure))

    def _check_known(self, place: str, chosen: Iterable[int]) -> None:
        for joint in chosen:
            if not 0 <= joint < len(self.joints):
                raise ValueError(
                    f"{place} must hold joints from 0 to {len(self.joints) - 1}, got {joint}"
                )


class JointNames:
    """Reader of joints by name, which returns their indices. Its errors name place and value."""

    def __init__(self, joints: Sequence[str]) -> None:
        self._joints = joints

    def joint(self, value: Any, where: str) -> int:
        """Read one joint."""
        name = text_of(value, where)
        if name not in self._joints:
            raise ValueError(f"{where}: unknown joint {name!r}{did_you_mean(name, self._joints)}")
        return self._joints.index(name)

    def joints(self, value: Any, where: str) -> tuple[int, ...]:
        """Read a list of joints."""
        return items_of(value, where, self.joint)

    def pair(self, value: Any, where: str) -> tuple[int, int]:
        """Read a list of two joints."""
        found = self.joints(value, where)
        if len(found) != 2:
            raise ValueError(f"{where} must be two joints, got {value!r:.80}")
        return found[0], found[1]

    def pairs(self, value: Any, where: str) -> tuple[tuple[int, int], ...]:
        """Read a list of pairs."""
        return items_of(value, where, self.pair)

    def groups(self, value: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Read a table of lists of joints."""
        if not isinstance(value, dict):
            raise ValueError(f"groups must be a table of lists of joints, got {value!r:.80}")
        return tuple((name, self.joints(v, f"groups.{name}")) for name, v in value.items())


def read_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a joint set, except its measures, from JSON or TOML."""
    joints = items_of(given["joints"], "joints", text_of)
    names = JointNames(joints)
    return {
        "name": text_of(given["name"], "name"),
        "joints": joints,
        "flip_pairs": names.pairs(given["flip_pairs"], "flip_pairs"),
        "limbs": names.pairs(given["limbs"], "limbs"),
        "groups": names.groups(given["groups"]),
        "in_mean": names.joints(given["in_mean"], "in_mean"),
        "sigmas": items_of(given.get("sigmas", []), "sigmas", number_of),
    }


def _check_word(place: str, value: str) -> None:
    if not _WORD.fullmatch(value):
        raise ValueError(f"{place} must be made of letters a-z, digits and '_', got {value!r}")


def _check_pair(place: str, pair: tuple[int, int]) -> None:
    if pair[0] == pair[1]:
        raise ValueError(f"{place} must be two different joints, got the same twice")


def _check_once(place: str, values: Sequence[Any], what: str) -> None:
    """Raise ValueError if there are no values, or duplicates."""
    if not values:
        raise ValueError(f"{place} must hold at least one {what}, got none")
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{place} must hold a {what} once, got {value!r} {count} times")


# Lin et al., ECCV 2014. A joint's similarity is exp(-e^2 / 2) of its normalised error e.
OKS = Measure(key="oks", title="OKS", normaliser="oks", thresholds=(0.5, 0.75), auc_limit=0.5)
