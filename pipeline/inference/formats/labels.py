"""Labelled pictures, from which the files of labelling tools are made."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.data.formats.annotations import AUTHOR
from pipeline.inference.formats.tables import Results
from pipeline.inference.results import Estimate, FoundPerson
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Visibility
from pipeline.pose.shapes import Float, Int64

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class LabelledPerson:
    """One person: joints in 0-based pixels of the upright picture, and their states.

    `confidence` is the joints', `score` the person's. `box` is (left, top, width, height).
    """

    joints: Float[np.ndarray, "joint 2"]
    states: Int64[np.ndarray, " joint"]
    confidence: Float[np.ndarray, " joint"]
    score: float = 1.0
    box: Box | None = None

    @property
    def labelled(self) -> Float[np.ndarray, "joint 2"]:
        """The joints that are not missing."""
        return self.joints[self.states != Visibility.MISSING]

    @property
    def frame(self) -> Box:
        """The box, or that of the joints where there is none."""
        if self.box is not None or not len(self.labelled):
            return self.box or (0.0, 0.0, 0.0, 0.0)
        (left, top), (right, bottom) = self.labelled.min(axis=0), self.labelled.max(axis=0)
        return float(left), float(top), float(right - left), float(bottom - top)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A photograph, or a frame of a video. `name` is the file's path below `Labels.root`."""

    name: str
    width: int
    height: int
    people: Sequence[LabelledPerson]
    frame: int | None = None

    @property
    def place(self) -> str:
        """The name, and for a frame `VIDEO#NUMBER`, as packing names it."""
        return self.name if self.frame is None else f"{self.name}#{self.frame}"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Pictures in the folder `root`, labelled by `author`; `image_ids` are COCO's, by place."""

    joint_set: JointSet
    root: Path
    pictures: Sequence[Picture]
    author: str = AUTHOR
    image_ids: Mapping[str, int] = field(default_factory=dict)

    @property
    def photographs(self) -> list[Picture]:
        """The pictures that are not frames of a video."""
        return [picture for picture in self.pictures if picture.frame is None]

    @property
    def videos(self) -> dict[str, list[Picture]]:
        """The labelled frames of each video."""
        found: dict[str, list[Picture]] = {}
        for picture in self.pictures:
            if picture.frame is not None:
                found.setdefault(picture.name, []).append(picture)
        return found


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of a format by name, and notes on what it does not hold."""

    files: Mapping[str, bytes]
    notes: Sequence[str] = ()


def labels_of(results: Results, image_ids: Mapping[tuple[str, int | None], int]) -> Labels:
    """Return predictions as labels, every joint visible; names are below the common folder."""
    paths = [Path(estimate.file).absolute() for estimate in results.estimates]
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path.cwd()
    pictures = [
        _picture(estimate, path.relative_to(root).as_posix())
        for estimate, path in zip(results.estimates, paths, strict=True)
    ]
    ids = {
        picture.place: image_ids[estimate.file, estimate.frame]
        for picture, estimate in zip(pictures, results.estimates, strict=True)
    }
    return Labels(joint_set=results.joint_set, root=root, pictures=pictures, image_ids=ids)


def _picture(estimate: Estimate, name: str) -> Picture:
    return Picture(
        name=name,
        width=estimate.width,
        height=estimate.height,
        people=[_person(person) for person in estimate.people],
        frame=estimate.frame,
    )


def _person(person: FoundPerson) -> LabelledPerson:
    found = np.array(person.joints, np.float64)
    box: Box | None = None
    if person.box is not None:
        left, top, width, height = person.box
        box = left, top, width, height
    return LabelledPerson(
        joints=found[:, :2],
        states=np.full(len(found), int(Visibility.VISIBLE), np.int64),
        confidence=found[:, 2],
        score=person.confidence * (1.0 if person.score is None else person.score),
        box=box,
    )
