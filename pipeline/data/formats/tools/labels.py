"""Figures that a tool's file labels, and the people that packing makes of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.data.formats.annotations import (
    Annotations,
    because,
    box_of_joints,
    frame_joints,
    image_counter,
    person_of,
)
from pipeline.data.formats.tools.skeleton import Skeleton, joint_set_of, some
from pipeline.io.parsing import did_you_mean
from pipeline.pose.geometry import frame_box
from pipeline.pose.joint_file import PARTS, JointFile, read_joint_file
from pipeline.pose.person import Person, Split, Visibility
from pipeline.pose.shapes import Float, Int64
from pipeline.pose.sides import plain_name
from pipeline.settings.packing import AnnotationFiles

_MOST_NAMED = 4
# No picture has as many pixels along a side.
_FARTHEST = 1e7


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One labelled figure: joints in 0-based pixels and their states, in its category's order.

    `image` is the path of a picture, or VIDEO#NUMBER for a frame.
    """

    image: str
    category: str
    joints: Float[np.ndarray, "joint 2"]
    states: Int64[np.ndarray, " joint"]
    box: tuple[float, float, float, float] | None = None
    image_size: tuple[int, int] | None = None
    split: Split | None = None
    area: float | None = None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Figures of a file, and the skeleton of each category by its name.

    `is_joined` says that categories without a choice make one joint set of all their joints.
    `files` are those that were read beside the one that is named. `skipped`, `states_unit` and
    `notes` are as in Annotations.
    """

    name: str
    skeletons: Mapping[str, Skeleton]
    figures: Sequence[Figure]
    skipped: Mapping[str, int] = field(default_factory=dict)
    is_joined: bool = False
    files: tuple[Path, ...] = ()
    states_unit: bool = False
    notes: tuple[str, ...] = ()


def annotations_of(labels: Labels, files: AnnotationFiles) -> Annotations:
    """Make people of figures, with the joint set of their category or of `files.joint_set`.

    The frame is a square a quarter wider than the box's longer side; where there is no box, that of
    the labelled joints stands in. Figures of another category than `files.category`, without a
    labelled joint, with one and no box, or that are there again, are skipped. Raises ValueError
    where categories differ in their joints and none is chosen, and naming a joint that is unknown.
    """
    skipped = Counter(labels.skipped)
    figures, skeleton = _chosen(labels, files, skipped)
    joint_file = read_joint_file(files.joint_set) if files.joint_set else None
    names, notes = list(skeleton.joints), list(labels.notes)
    if joint_file is not None:
        names = _in_file(joint_file, skeleton, files)
        left = [name for name in skeleton.joints if name not in names]
        if left:
            notes.append(f"joints that {files.joint_set} lacks are left out: {some(left)}")
    people, has_box = _people(figures, labels, names, joint_file, skipped, files.annotations)
    without_box = has_box.count(False)
    if without_box:
        notes.append(
            f"{without_box:,} people have no box of a size: that of their joints stands in"
        )
    if joint_file is None:
        try:
            joint_set, about = joint_set_of(skeleton, people, has_box)
        except ValueError as error:
            raise ValueError(
                f"{files.annotations}: {error}; --joint-set FILE states other joints"
            ) from None
    else:
        joint_set, about = joint_file.joint_set, [f"joint set of {files.joint_set}"]
    return Annotations(
        joint_set=joint_set,
        people=people,
        skipped=skipped,
        states_unit=labels.states_unit or (joint_file is not None and joint_file.unit is not None),
        files=labels.files,
        notes=(*notes, *about),
    )


def _chosen(
    labels: Labels, files: AnnotationFiles, skipped: Counter[str]
) -> tuple[list[Figure], Skeleton]:
    """Return the figures to pack and their skeleton; count the others."""
    if files.category is None:
        return list(labels.figures), _common_skeleton(labels, files)
    if files.category not in labels.skeletons:
        known = ", ".join(labels.skeletons)
        raise ValueError(
            f"--category {files.category}: {files.annotations} has {known}"
            f"{did_you_mean(files.category, labels.skeletons)}"
        )
    figures = [figure for figure in labels.figures if figure.category == files.category]
    if len(figures) < len(labels.figures):
        skipped["other category"] += len(labels.figures) - len(figures)
    return figures, labels.skeletons[files.category]


def _common_skeleton(labels: Labels, files: AnnotationFiles) -> Skeleton:
    """Return the skeleton of all figures. Raises ValueError where their joints differ."""
    counts = Counter(figure.category for figure in labels.figures)
    used = [labels.skeletons[category] for category in labels.skeletons if counts[category]]
    if not used:
        raise ValueError(f"{files.annotations}: no people{because(labels.skipped)}")
    if labels.is_joined:
        return _joined(labels.name, list(labels.skeletons.values()))
    if any(other.joints != used[0].joints for other in used):
        found = ", ".join(
            f"{category} ({len(labels.skeletons[category].joints)} joints, {count:,} figures)"
            for category, count in counts.most_common(_MOST_NAMED)
        )
        raise ValueError(
            f"{files.annotations}: categories differ in their joints: {found}; choose one by "
            "--category NAME"
        )
    return used[0] if len(used) == 1 else replace(used[0], name=labels.name)


def _joined(name: str, skeletons: Sequence[Skeleton]) -> Skeleton:
    """Make one skeleton of several whose joints have other names."""
    if len(skeletons) == 1:
        return skeletons[0]
    joints = tuple(dict.fromkeys(name for skeleton in skeletons for name in skeleton.joints))
    limbs = {
        (joints.index(skeleton.joints[start]), joints.index(skeleton.joints[end]))
        for skeleton in skeletons
        for start, end in skeleton.limbs
    }
    return Skeleton(name=name, joints=joints, limbs=tuple(sorted(limbs)))


def _in_file(joint_file: JointFile, skeleton: Skeleton, files: AnnotationFiles) -> list[str]:
    """Return the joints of a joint-set file as the annotations spell them."""
    where = f"--joint-set {files.joint_set}"
    if joint_file.index_base or joint_file.unit in PARTS:
        raise ValueError(
            f"{where}: index_base must be 0 and unit 'pixels', if given, for {files.annotations}, "
            "whose format states how it counts"
        )
    if not skeleton.is_named:
        names = joint_file.joint_set.joints
        if len(names) != len(skeleton.joints):
            raise ValueError(
                f"{where} has {len(names)} joints, expected {len(skeleton.joints)}: "
                f"{files.annotations} names none, so that their order counts"
            )
        return list(skeleton.joints)
    spelled = {plain_name(name): name for name in skeleton.joints}
    for name in joint_file.joint_set.joints:
        if plain_name(name) not in spelled:
            raise ValueError(
                f"{where}: {files.annotations} has no joint {name!r}"
                f"{did_you_mean(name, skeleton.joints) or f'; it has {some(skeleton.joints)}'}"
            )
    return [spelled[plain_name(name)] for name in joint_file.joint_set.joints]


def _people(
    figures: Sequence[Figure],
    labels: Labels,
    names: Sequence[str],
    joint_file: JointFile | None,
    skipped: Counter[str],
    where: Path,
) -> tuple[list[Person], list[bool]]:
    """Make a person of each figure that can be framed, its joints in the order of `names`.

    Return also whether each has a box of its own.
    """
    people, has_box, number_in = [], [], image_counter()
    places = {
        category: _places(skeleton.joints, names) for category, skeleton in labels.skeletons.items()
    }
    missing = joint_file.missing if joint_file else None
    known: set[tuple[object, ...]] = set()
    for figure in figures:
        _check_pixels(figure, labels.skeletons[figure.category], where)
        joints, states = _ordered(figure, places[figure.category])
        if missing is not None:
            states[(joints == missing).all(axis=1)] = Visibility.MISSING
        labelled = np.count_nonzero(states)
        if not labelled or (labelled < 2 and figure.box is None):
            # A frame around one joint has no size.
            skipped["one labelled joint and no box" if labelled else "no labelled joint"] += 1
            continue
        # As in joined exports, whose paths may be written otherwise.
        image = PurePosixPath(figure.image.replace("\\", "/")).as_posix()
        if (this := (image, joints.tobytes(), states.tobytes(), figure.box)) in known:
            skipped["the same annotation again"] += 1
            continue
        known.add(this)
        center, scale = (
            frame_box(figure.box) if figure.box is not None else frame_joints(joints, states)
        )
        has_box.append(figure.box is not None)
        people.append(
            person_of(
                joints,
                states,
                image=figure.image,
                person=number_in(figure.image),
                center=center,
                scale=scale,
                box=figure.box or box_of_joints(joints, states),
                image_size=figure.image_size,
                split=figure.split,
                area=figure.area,
            )
        )
    return people, has_box


def _check_pixels(figure: Figure, skeleton: Skeleton, where: Path) -> None:
    """Raise ValueError if a labelled joint or the box is nowhere near any picture."""
    for joint in np.flatnonzero(figure.states).tolist():
        x, y = figure.joints[joint].tolist()
        if not max(abs(x), abs(y)) < _FARTHEST:
            raise ValueError(
                f"{where}: {figure.image}: {skeleton.joints[joint]} is labelled at ({x:g}, {y:g}), "
                "expected pixels"
            )
    if figure.box is not None and not max(map(abs, figure.box)) < _FARTHEST:
        raise ValueError(f"{where}: {figure.image} has the box {figure.box}, expected pixels")


def _places(joints: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the place of each of `names` among joints, -1 where it is not among them."""
    return [joints.index(name) if name in joints else -1 for name in names]


def _ordered(
    figure: Figure, places: Sequence[int]
) -> tuple[Float[np.ndarray, "joint 2"], Int64[np.ndarray, " joint"]]:
    # The last row stands for joints that the figure's category lacks.
    joints = np.vstack([figure.joints, np.zeros((1, 2))])[places]
    states = np.append(figure.states, Visibility.MISSING)[places]
    return np.where(states[:, None] == Visibility.MISSING, 0.0, joints), states
