"""Labels that are written for each tool, and packed again from its file."""

import os
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from factories import BIRD
from PIL import Image
from PIL.ExifTags import Base

from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.registry import read_annotations, recognise
from pipeline.data.packing_plan import plan_packing
from pipeline.data.photographs.files import find_photographs
from pipeline.data.photographs.header import read_header
from pipeline.inference.formats.coco import coco_files
from pipeline.inference.formats.cvat import cvat_files
from pipeline.inference.formats.deeplabcut import deeplabcut_files
from pipeline.inference.formats.label_studio import label_studio_files
from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture
from pipeline.inference.formats.registry import FORMATS
from pipeline.inference.formats.sleap import sleap_files
from pipeline.inference.formats.tables import Results
from pipeline.inference.formats.yolo import yolo_files
from pipeline.inference.results import Estimate, FoundPerson
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Person, frame_of
from pipeline.settings.packing import AnnotationFiles, PackSettings


@dataclass(frozen=True)
class Tool:
    """A writer, the file to pack again, and what the format holds (docs/data.md has the table)."""

    write: object
    file: str
    occluded: bool = False
    box: bool = False
    limbs: bool = False
    frames: bool = True
    outside: bool = True

    def states(self, person: LabelledPerson, picture: Picture) -> np.ndarray:
        """Return the states of a person's joints that the format holds."""
        states = person.states if self.occluded else np.minimum(2 * person.states, 2)
        sides = np.array((picture.width, picture.height))
        is_outside = ((person.joints < -0.01 * sides) | (person.joints > 1.01 * sides)).any(axis=1)
        return np.where(is_outside & (not self.outside), 0, states)

    def is_held(self, states: np.ndarray) -> bool:
        """Whether a person with joints of these states is read again: one gives no frame."""
        return np.count_nonzero(states) > (0 if self.box else 1)


TOOLS = {
    "coco": Tool(coco_files, "coco_annotations.json", occluded=True, box=True, limbs=True),
    "yolo-pose": Tool(yolo_files, "yolo/data.yaml", occluded=True, box=True, outside=False),
    "deeplabcut": Tool(deeplabcut_files, "deeplabcut"),
    "sleap": Tool(sleap_files, "sleap/predictions.slp", limbs=True),
    "cvat": Tool(cvat_files, "cvat/annotations.xml", occluded=True, limbs=True),
    "label-studio": Tool(label_studio_files, "label_studio/tasks.json", box=True, frames=False),
}
ORIENTATION = Base.Orientation
# Of many people some.
MOST = 30


def written(tool: Tool, labels: Labels, out: Path) -> list[Path]:
    """Write a tool's files, put the pictures where it needs them, and return those to pack."""
    files = tool.write(labels).files
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    if tool.write is yolo_files:
        for picture in labels.pictures:
            _put_picture(picture, labels.root, out / "yolo/images")
    videos = [out / name for name in files if name.endswith(("DLC_hourglass.csv", ".xml"))]
    if tool.write in (deeplabcut_files, cvat_files) and labels.videos:
        return videos
    return [out / tool.file] if files else []


def _put_picture(picture: Picture, root: Path, folder: Path) -> None:
    name = picture.name
    if picture.frame is not None:
        name = f"{name.rpartition('.')[0]}_{picture.frame:06d}.png"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.frame is None and (root / picture.name).exists():
        shutil.copyfile(root / picture.name, path)
    else:
        cv2.imwrite(str(path), np.zeros((picture.height, picture.width, 3), np.uint8))


def read_again(
    tool: Tool, labels: Labels, out: Path
) -> tuple[JointSet, dict[str, list[Person]], dict[str, int]]:
    """Return joint set, people by their pictures' places in `labels`, and what was passed over."""
    found, skipped = defaultdict(list), defaultdict(int)
    joint_set = None
    for path in written(tool, labels, out):
        name, path, _ = recognise(path)
        assert TOOLS[name] is tool
        files = AnnotationFiles(annotations=path, predictions=True, images=labels.root)
        if tool.write is yolo_files:
            files = AnnotationFiles(annotations=path, predictions=True)
        again = read_annotations(name, files)
        joint_set = again.joint_set
        for reason, count in again.skipped.items():
            skipped[reason] += count
        places = places_of(tool, labels, again)
        for person in again.people:
            found[places[person.image]].append(person)
    assert joint_set is not None
    return joint_set, found, {reason: count for reason, count in skipped.items() if count}


def places_of(tool: Tool, labels: Labels, again: Annotations) -> dict[str, str]:
    """Find the pictures that a file names, as packing does."""
    names = dict.fromkeys(person.image for person in again.people)
    if tool.write is yolo_files:
        ends = {f"images/{picture_file(picture)}": picture.place for picture in labels.pictures}
        return {name: ends[name.rpartition(".")[0]] for name in names}
    there = [picture for picture in labels.pictures if (labels.root / picture.name).exists()]
    if not there:
        # Pictures and videos that are not beside the file keep their names.
        return {
            name: next(p.place for p in labels.pictures if name.endswith(p.place)) for name in names
        }
    return find_photographs(labels.root, names).paths


def picture_file(picture: Picture) -> str:
    frame = "" if picture.frame is None else f"_{picture.frame:06d}"
    return f"{picture.name.rpartition('.')[0]}{frame}"


def labels_of(annotations: Annotations, images: Path) -> Labels:
    """Return annotations as labels of the pictures below their common folder."""
    by_image: dict[str, list[Person]] = defaultdict(list)
    for person in annotations.people:
        by_image[person.image].append(person)
    chosen = [image for image in by_image if (images / image).exists()] or list(by_image)
    chosen = chosen[:: max(1, len(chosen) // MOST)]
    files = find_photographs(images, chosen).paths
    # Where no picture is there, as beside some files, names are enough.
    files = files or {image: image for image in chosen}
    above = os.path.commonpath([Path(file).parent for file in files.values()])
    pictures = [
        _picture(Path(file).relative_to(above).as_posix(), by_image[image], images / above)
        for image, file in files.items()
    ]
    ids = {picture.place: number for number, picture in enumerate(pictures, start=1)}
    return Labels(
        joint_set=annotations.joint_set, root=images / above, pictures=pictures, image_ids=ids
    )


def _picture(image: str, people: list[Person], root: Path) -> Picture:
    width, height = people[0].image_size or (640, 480)
    name, place = frame_of(image)
    if (root / name).is_file() and not place:
        with (root / name).open("rb") as file:
            width, height = read_header(file, 10**9).upright_size
    return Picture(
        name=name,
        width=width,
        height=height,
        frame=int(place) if place else None,
        people=[
            LabelledPerson(
                joints=np.array(person.joints),
                states=np.array(person.visibility, np.int64),
                confidence=np.ones(len(person.joints)),
                box=person.box,
            )
            for person in people
        ],
    )


def check_round_trip(tool: Tool, labels: Labels, out: Path) -> None:
    held = {
        picture.place: [
            (person, states)
            for person in picture.people
            for states in [tool.states(person, picture)]
            if tool.is_held(states)
        ]
        for picture in labels.pictures
    }
    if not any(held.values()):
        with pytest.raises(ValueError, match="no people"):
            read_again(tool, labels, out)
        return
    joint_set, found, skipped = read_again(tool, labels, out)
    before = labels.joint_set
    assert joint_set.joints == before.joints
    assert set(joint_set.flip_pairs) == set(before.flip_pairs)
    if tool.limbs:
        assert set(joint_set.limbs) == set(before.limbs)
    passed_over = sum(len(picture.people) for picture in labels.pictures)
    for place, people in held.items():
        assert len(found[place]) == len(people), place
        passed_over -= len(people)
        for (person, states), again in zip(people, found[place], strict=True):
            assert list(again.visibility) == states.tolist()
            moved = np.abs(np.array(again.joints) - person.joints)[states > 0]
            assert moved.max() < 0.01
            if tool.box and tool.outside and person.box is not None:
                np.testing.assert_allclose(again.box, person.box, atol=0.01)
    reason = "no labelled joint" if tool.box else "one labelled joint and no box"
    assert skipped == ({reason: passed_over} if passed_over else {})


def test_the_documents_say_what_each_tool_keeps():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    table = page.partition("### What each tool keeps")[2].partition("\n##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    said = {name.lower().replace(" ", "-"): cells for name, *cells in rows[2:]}
    assert said.keys() == TOOLS.keys()
    for name, tool in TOOLS.items():
        occluded, box, outside, limbs, _, frames = said[name]
        assert (occluded == "yes", box != "no") == (tool.occluded, tool.box)
        assert (outside == "yes", limbs == "yes") == (tool.outside, tool.limbs)
        assert (frames != "no") == tool.frames


# The right wing is missing, the left one occluded.
BIRDS = [
    LabelledPerson(
        joints=np.array([[20.25, 10.5], [60.125, 50.0], [0.0, 0.0]]) + 7 * number,
        states=np.array([2, 1, 0]),
        confidence=np.array([0.9, 0.5, 0.1]),
        score=0.5,
        box=(10.5, 5.25, 80.0, 60.0),
    )
    for number in range(2)
]


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("pictures", ["photographs", "video"])
def test_what_is_written_for_a_tool_is_read_again(tmp_path, name, pictures):
    tool, root = TOOLS[name], tmp_path / "birds"
    files = ["a.jpg", "spring/b.jpg", "images/c.jpg"]
    shape = {"width": 200, "height": 100}
    if pictures == "photographs":
        found = [Picture(name=file, people=BIRDS, **shape) for file in files]
        for picture in found:
            _put_picture(picture, root, root)
    else:
        found = [Picture(name="b.avi", frame=n, people=BIRDS, **shape) for n in (0, 12)]
        root.mkdir()
        (root / "b.avi").touch()
    ids = {picture.place: number for number, picture in enumerate(found, start=7)}
    labels = Labels(joint_set=BIRD, root=root, pictures=found, image_ids=ids)
    if pictures == "video" and not tool.frames:
        assert not tool.write(labels).files
        return
    check_round_trip(tool, labels, tmp_path / "out")


# What stands in a tool's file of predictions once a person has corrected it, and before.
CORRECTED = {
    "yolo-pose": ('predicted_by: "hourglass"\n', ""),
    "deeplabcut": (",hourglass", ",Jane"),
    "cvat": ('source="auto"', 'source="semi-auto"'),
}


@pytest.mark.parametrize("name", TOOLS)
def test_predictions_for_a_tool_are_no_labels_until_a_person_has_corrected_them(tmp_path, name):
    tool = TOOLS[name]
    picture = Picture(name="a.jpg", people=BIRDS, width=200, height=100)
    _put_picture(picture, tmp_path / "birds", tmp_path / "birds")
    labels = Labels(
        joint_set=BIRD, root=tmp_path / "birds", pictures=[picture], image_ids={"a.jpg": 7}
    )
    [path] = written(tool, labels, tmp_path / "out")
    images = None if name == "yolo-pose" else labels.root
    files = AnnotationFiles(annotations=path, images=images)
    reason = "passed over were a tool's prediction, no label (--predictions): "
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_annotations(name, files)
    if name not in CORRECTED:
        return
    [file] = [path] if path.is_file() else path.rglob("*.csv")
    before, after = CORRECTED[name]
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    people = len(read_annotations(name, files).people)
    assert people == len(read_annotations(name, replace(files, predictions=True)).people) > 0


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("name", TOOLS)
def test_predictions_on_a_turned_photograph_are_packed_where_they_were_found(
    tmp_path, name, orientation
):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (tmp_path / "birds").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "birds/a.jpg", exif=exif)
    width, height = (200, 100) if orientation == 3 else (100, 200)
    found = FoundPerson(
        joints=[[20.25, 90.5, 0.9], [60.125, 50.0, 0.5], [90.0, 12.5, 0.1]],
        center=[50.0, 50.0],
        scale=0.5,
    )
    results = Results(
        joint_set=BIRD,
        model={},
        estimates=[
            Estimate(
                file=str(tmp_path / "birds/a.jpg"),
                size=1,
                modified_ns=1,
                width=width,
                height=height,
                people=[found],
            )
        ],
        failures=[],
        boxes=None,
        notes={},
    )
    out = tmp_path / "out"
    for file, content in FORMATS[name](results).files.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_bytes(content)
    images = tmp_path / "birds"
    if name == "yolo-pose":
        shutil.copytree(images, out / "yolo/images")
        images = out / "yolo"
    settings = {"source": str(out / TOOLS[name].file), "images": images, "predictions": True}
    plan = plan_packing(PackSettings(**settings, out=tmp_path / "packed", split="train"))
    [person] = [person for job in plan.jobs for person in job.people]
    np.testing.assert_allclose(person.joints, np.array(found.joints)[:, :2], atol=0.01)


GENUINE = {
    "tools/coco_mini/person_keypoints_train2017.json": "tools/coco_mini/train2017",
    "tools/coco_mini/person_keypoints_val2017.json": "tools/coco_mini/val2017",
    "coco/person_keypoints.json": "coco/images",
    **{
        f"tools/coco_other_joints/{name}/test_{name}.json": f"tools/coco_other_joints/{name}"
        for name in ("crowdpose", "aic", "ap10k", "horse10", "macaque")
    },
    "tools/dlc_openfield": "tools/dlc_openfield",
    "tools/dlc_openfield/labeled-data/m4s1/CollectedData_Pranav.h5": "tools/dlc_openfield",
    **{
        f"tools/dlc_variants/labeled-data/video/{name}.csv": "tools/dlc_variants"
        for name in (
            "CollectedData_LM",
            *(f"{kind}dlc_testdata{end}" for kind in ("", "ma", "mau") for end in ("", "_v2")),
        )
    },
    "tools/lightning_pose_mouse": "tools/lightning_pose_mouse",
    "tools/sleap/dance.mp4.labels.slp": "tools/sleap",
    "tools/sleap/minimal_instance.slp": "tools/sleap",
    "tools/sleap/small_robot_minimal.slp": "tools/sleap",
    "tools/cvat/for_images/train.xml": "tools/cvat/for_images/images",
    # Pictures of a few pixels stand for those of these two files.
    "tools/cvat/for_video/annotations.xml": "lsp",
    "tools/yolo_pose": "tools/yolo_pose",
    "tools/yolo_pose_xy": "tools/yolo_pose_xy",
    "tools/label_studio/data_keypoints.json": "tools/label_studio",
    "tools/mpii_mat_tiny/mpii_human_pose_v1_u12_1.mat": "lsp",
    "mpii/hrnet_style.json": "mpii/images",
    "mpii/valid.h5": "mpii/images",
    "lsp/joints.mat": "lsp",
    "lspet/joints.mat": "lspet/images",
}


@pytest.mark.parametrize("file", GENUINE)
def test_genuine_labels_are_the_same_after_a_round_trip_through_each_tool(
    tmp_path, tools_dir, file
):
    data = tools_dir.parent
    name, path, _ = recognise(data / file)
    annotations = read_annotations(name, AnnotationFiles(annotations=path))
    labels = labels_of(annotations, data / GENUINE[file])
    for tool in TOOLS.values():
        if tool.frames or not labels.videos:
            check_round_trip(tool, labels, tmp_path / tool.file)
