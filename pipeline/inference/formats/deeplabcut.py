"""DeepLabCut: labelled frames of a project, and the analysis of a video, as CSV."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, Written
from pipeline.pose.person import Visibility


def deeplabcut_files(labels: Labels) -> Written:
    """Write labeled-data/FOLDER/CollectedData_AUTHOR.csv, and VIDEODLC_AUTHOR.csv of a video.

    Where a picture has more than one person the header names individuals, as in projects of
    several animals. A missing joint's cells are empty.
    """
    files = {}
    folders = _folders(labels)
    for folder, pictures in folders.items():
        rows = [(_index(folder, picture), picture) for picture in pictures]
        name = f"labeled-data/{folder}/CollectedData_{labels.author}.csv"
        files[f"deeplabcut/{name}"] = _table(labels, rows, ("x", "y"))
    for video, frames in labels.videos.items():
        rows = [(str(picture.frame), picture) for picture in frames]
        name = f"{PurePosixPath(video).with_suffix('')}DLC_{labels.author}.csv"
        files[f"deeplabcut/{name}"] = _table(labels, rows, ("x", "y", "likelihood"))
    note = "deeplabcut: copy the files into the project, then run deeplabcut.convertcsv2h5"
    return Written(files=files, notes=[note] if folders else [])


def _folders(labels: Labels) -> dict[str, list[Picture]]:
    """Group photographs by their folder; folders of one name are called by their paths."""
    parents: dict[PurePosixPath, list[Picture]] = {}
    for picture in labels.photographs:
        parents.setdefault(PurePosixPath(picture.name).parent, []).append(picture)
    names = Counter(parent.name or labels.root.name for parent in parents)
    found: dict[str, list[Picture]] = {}
    for parent, pictures in parents.items():
        name = parent.name or labels.root.name
        if names[name] > 1:
            name = "-".join((labels.root.name, *parent.parts))
        # Another folder may have the name that this one gets.
        while name in found:
            name += "_"
        found[name] = pictures
    return found


def _index(folder: str, picture: Picture) -> str:
    return f"labeled-data/{folder}/{PurePosixPath(picture.name).name}"


def _table(labels: Labels, rows: Sequence[tuple[str, Picture]], coords: Sequence[str]) -> bytes:
    most = max((len(picture.people) for _, picture in rows), default=0)
    joints = labels.joint_set.joints
    columns = [
        (number, joint, coord) for number in range(most) for joint in joints for coord in coords
    ]
    header = [["scorer", *[labels.author] * len(columns)]]
    if most > 1:
        header.append(["individuals", *[f"individual{number + 1}" for number, _, _ in columns]])
    header.append(["bodyparts", *[joint for _, joint, _ in columns]])
    header.append(["coords", *[coord for _, _, coord in columns]])
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows(header)
    for index, picture in rows:
        cells: list[float | str] = []
        for person in picture.people:
            cells += _cells(person, with_likelihood=len(coords) == 3)
        table.writerow([index, *cells, *[""] * (len(columns) - len(cells))])
    return text.getvalue().encode(errors="backslashreplace")


def _cells(person: LabelledPerson, *, with_likelihood: bool) -> list[float | str]:
    cells: list[float | str] = []
    triples = zip(person.joints.tolist(), person.confidence.tolist(), strict=True)
    for ((x, y), likelihood), state in zip(triples, person.states.tolist(), strict=True):
        is_missing = state == Visibility.MISSING
        cells += ["", ""] if is_missing else [x, y]
        if with_likelihood:
            cells.append("" if is_missing else likelihood)
    return cells
