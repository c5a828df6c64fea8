"""The joint set that a tool's file describes: names, limbs, mirror pairs, and a measure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.pose.joint_file import PCK_SEGMENT, check_sides
from pipeline.pose.joint_set import JointSet, Measure
from pipeline.pose.joint_sets import COCO, PCK_BOX, known_sigmas
from pipeline.pose.person import Person, Visibility
from pipeline.pose.shapes import Bool, Float
from pipeline.pose.sides import plain_name, side_pairs

# As many people tell which joints are annotated together.
_LOOKED_AT = 2000
# A torso, or a pair of joints, is the normaliser if at least this share of the people have it.
_MOST_PEOPLE = 0.5
# Pairs of joints that about as many people have; the longest of them is the normaliser.
_AS_MANY = 0.98
_MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """Joints as a file names them, with limbs by their numbers.

    `flip_pairs` are None where the file doesn't state them; `sigmas` are empty then. `is_named` is
    false where the file has no names. Raises ValueError for a name that is empty or there twice,
    and for a number that is no joint's.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] | None = None
    sigmas: tuple[float, ...] = ()
    is_named: bool = True

    def __post_init__(self) -> None:
        for joint, count in Counter(self.joints).items():
            if count > 1 or not joint.strip():
                raise ValueError(
                    f"skeleton {self.name!r} names the joint {joint!r} {count} times, expected "
                    "names that differ and are not empty"
                )
        for what, pairs in (("limb", self.limbs), ("flip pair", self.flip_pairs or ())):
            for pair in pairs:
                if not all(0 <= joint < len(self.joints) for joint in pair):
                    raise ValueError(
                        f"skeleton {self.name!r} has a {what} of the joints {pair}, expected "
                        f"numbers from 0 to {len(self.joints) - 1}"
                    )


def joint_set_of(
    skeleton: Skeleton, people: Sequence[Person], has_box: Sequence[bool]
) -> tuple[JointSet, list[str]]:
    """Make the joint set of a skeleton, and lines that describe it.

    `has_box` tells which people have a box in the file.

    COCO's 17 joints, in their order and any spelling, are the known set. Mirror pairs that the file
    doesn't state are those of names that differ in left and right alone. The normaliser is the
    torso, else the longest pair of joints, else the box, the first that most of the people have.
    Raises ValueError if pairs contradict the names.
    """
    if list(map(plain_name, skeleton.joints)) == list(map(plain_name, COCO.joints)):
        measure = COCO.measures[0]
        share = sum(map(measure.is_defined_for, people)) / max(len(people), 1)
        return COCO, ["joint set coco: COCO's 17 joints in their order", _divided(COCO, share)]
    names = joint_names(skeleton.joints)
    stated = skeleton.flip_pairs is not None
    pairs = skeleton.flip_pairs if skeleton.flip_pairs is not None else side_pairs(skeleton.joints)
    measure, share = _measure(names, people, has_box)
    # Written to a tool's file and read again, the name stays.
    word = (_word(skeleton.name) or "joints").removesuffix(f"-{len(names)}")
    joint_set = JointSet(
        name=f"{word}-{len(names)}",
        joints=names,
        flip_pairs=tuple(_once(pairs)),
        limbs=tuple(_once(skeleton.limbs)),
        groups=(),
        in_mean=tuple(range(len(names))),
        measures=(measure,),
        sigmas=skeleton.sigmas or known_sigmas(skeleton.joints),
    )
    check_sides(joint_set, skeleton.joints)
    return joint_set, _lines(joint_set, skeleton, share, stated)


def joint_names(names: Sequence[str]) -> tuple[str, ...]:
    """Write names with letters a-z, digits and '_', as metrics need them, each once."""
    found: list[str] = []
    for number, name in enumerate(names):
        word = _word(name).replace(".", "_").replace("-", "_").strip("_") or f"joint_{number}"
        other = 2
        while word in found:
            word, other = f"{word.rstrip('0123456789').rstrip('_')}_{other}", other + 1
        found.append(word)
    return tuple(found)


def some(names: Sequence[str]) -> str:
    """List a few names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _word(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", letters).strip("_")


def _once(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return pairs without those that are there again, in either order, or of one joint."""
    ordered = {tuple(sorted(pair)): pair for pair in reversed(pairs) if pair[0] != pair[1]}
    return list(ordered.values())[::-1]


def _measure(
    names: Sequence[str], people: Sequence[Person], has_box: Sequence[bool]
) -> tuple[Measure, float]:
    """Choose what errors are divided by; return it with the share of people who have it."""
    step = -(-len(people) // _LOOKED_AT) or 1
    seen = people[::step]
    annotated = np.array([person.visibility for person in seen]) != Visibility.MISSING
    joints = np.array([person.joints for person in seen], np.float64)
    boxes = float(np.mean(has_box)) if has_box else 0.0
    plain = list(map(plain_name, names))
    if {"leftshoulder", "righthip"} <= set(plain):
        torso = plain.index("leftshoulder"), plain.index("righthip")
        share = float(annotated[:, torso].all(axis=1).mean()) if seen else 0.0
        if share >= _MOST_PEOPLE:
            return _segment(torso), share
    pair, share = _longest_pair(joints, annotated) if len(names) > 1 and seen else ((0, 1), 0.0)
    # Few people may have any two joints, where each shows another part.
    if share >= _MOST_PEOPLE or share > boxes:
        return _segment(pair), share
    return PCK_BOX, boxes


def _segment(pair: tuple[int, int]) -> Measure:
    return replace(PCK_SEGMENT, segment=pair)


def _longest_pair(
    joints: Float[np.ndarray, "person joint 2"], annotated: Bool[np.ndarray, "person joint"]
) -> tuple[tuple[int, int], float]:
    """Return the pair of joints that lie farthest apart, of those that most people have."""
    together = annotated.T.astype(np.float64) @ annotated
    first, second = np.triu_indices(len(together), 1)
    counts = together[first, second]
    kept = np.flatnonzero(counts >= max(_AS_MANY * counts.max(), 1))
    lengths = []
    for place in kept.tolist():
        both = annotated[:, first[place]] & annotated[:, second[place]]
        apart = joints[both, first[place]] - joints[both, second[place]]
        lengths.append(float(np.median(np.linalg.norm(apart, axis=1))))
    best = kept[int(np.argmax(lengths))] if len(kept) else 0
    return (int(first[best]), int(second[best])), float(counts[best] / len(annotated))


def _lines(joint_set: JointSet, skeleton: Skeleton, share: float, stated: bool) -> list[str]:
    names = joint_set.joints

    def pairs(chosen: Sequence[tuple[int, int]]) -> str:
        return ", ".join(f"{names[first]}-{names[second]}" for first, second in chosen) or "none"

    respelled = [
        f"{name!r} as {word}"
        for name, word in zip(skeleton.joints, names, strict=True)
        if name != word
    ]
    by = "of the file" if stated else "by their names"
    return [
        f"joint set {joint_set.name}: {', '.join(names)}",
        *([f"joint names are written {some(respelled)}"] if respelled else []),
        f"flip pairs {by}: {pairs(joint_set.flip_pairs)}",
        f"limbs: {pairs(joint_set.limbs)}",
        f"OKS sigmas: {', '.join(f'{sigma:g}' for sigma in joint_set.sigmas) or 'none'}",
        _divided(joint_set, share),
    ]


def _divided(joint_set: JointSet, share: float) -> str:
    """Describe the normaliser, and how many people have it."""
    names, measure = joint_set.joints, joint_set.measures[0]
    divided = "the longer side of the box"
    if measure.normaliser == "segment":
        divided = f"the distance from {names[measure.segment[0]]} to {names[measure.segment[1]]}"
    return (
        f"errors are divided by {divided}, which {share:.0%} of the people have "
        f"({measure.headline})"
    )
