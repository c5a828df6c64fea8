"""Files that labelling tools wrote, and public datasets of other joints, as they are packed."""

import json
import pickle
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import cv2
import h5py
import numpy as np
import pytest
from tool_files import (
    FILES,
    JOINTS,
    MICE,
    coco,
    deeplabcut,
    deeplabcut_h5,
    label_studio,
    pictures,
    sleap,
    video,
    yolo_pose,
)

from jobs.pack import pack_here
from pipeline.data.formats.recognition import Peek
from pipeline.data.formats.registry import read_annotations
from pipeline.data.formats.tools.label_studio import is_label_studio
from pipeline.data.packing_plan import plan_packing
from pipeline.data.shards.reader import ShardReader
from pipeline.pose.joint_file import read_joint_file
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Visibility
from pipeline.settings.packing import AnnotationFiles, PackSettings

MISSING, OCCLUDED, VISIBLE = Visibility


def plan_of(annotations: Path, out: Path, source: str = "coco", **options: object):
    """Plan the pack of a file whose pictures lie beside it, all of it for training."""
    defaults = {"images": annotations.parent, "split": "train", "max_left_out": 0.0}
    settings = {"source": source, "annotations": annotations, "out": out} | defaults | options
    return plan_packing(PackSettings(**settings))


def people_of(plan):
    people = [person for job in plan.jobs for person in job.people]
    return sorted(people, key=lambda person: person.key)


@pytest.mark.parametrize(
    ("name", "people", "joints", "flip_pairs", "measure", "skipped"),
    [
        ("crowdpose", 4, 14, 6, "segment", {"no labelled joint": 1}),
        ("aic", 9, 14, 6, "segment", {}),
        ("ap10k", 2, 17, 7, "segment", {}),
        ("horse10", 3, 22, 0, "segment", {}),
        ("macaque", 2, 17, 8, "segment", {}),
    ],
)
def test_public_datasets_of_other_joints_are_packed(
    tmp_path, tools_dir, name, people, joints, flip_pairs, measure, skipped
):
    file = tools_dir / "coco_other_joints" / name / f"test_{name}.json"
    plan = plan_of(file, tmp_path)
    joint_set = plan.joint_set
    assert len(people_of(plan)) == people
    assert (len(joint_set.joints), len(joint_set.flip_pairs)) == (joints, flip_pairs)
    assert joint_set.measures[0].normaliser == measure
    assert (plan.skipped, plan.left_out) == (skipped, {})


def test_a_person_of_ai_challenger_is_where_the_file_has_him(tmp_path, tools_dir):
    plan = plan_of(tools_dir / "coco_other_joints/aic/test_aic.json", tmp_path)
    person = people_of(plan)[0]
    joints = dict(zip(plan.joint_set.joints, person.joints, strict=True))
    states = dict(zip(plan.joint_set.joints, person.visibility, strict=True))
    assert person.image == "054d9ce9201beffc76e5ff2169d2af2f027002ca.jpg"
    assert (joints["Right_Shoulder"], joints["Neck"]) == ((313, 201), (372, 170))
    assert (states["Right_Elbow"], states["Right_Knee"]) == (OCCLUDED, MISSING)
    assert plan.joint_set.sigmas[-1] == 0.01236173
    assert person.box == (279, 55, 213, 544)


def test_a_category_of_ap_10k_is_packed_alone(tmp_path, tools_dir):
    file = tools_dir / "coco_other_joints/ap10k/test_ap10k.json"
    plan = plan_of(file, tmp_path, category="antelope")
    assert [person.image for person in people_of(plan)] == ["000000000004.jpg"]
    assert plan.skipped == {"other category": 1}
    assert plan.joint_set.name == "antelope-17"


@pytest.mark.parametrize(("part", "people"), [("train2017", 86), ("val2017", 68)])
def test_coco_itself_is_packed_as_coco(tmp_path, tools_dir, part, people):
    folder = tools_dir / "coco_mini"
    plan = plan_of(folder / f"person_keypoints_{part}.json", tmp_path, images=folder / part)
    assert (len(people_of(plan)), plan.joint_set) == (people, COCO)


def found_in(path: Path, out: Path, **options: object):
    """Plan the pack of a file or folder whose format nothing names."""
    defaults = {"split": "train", "max_left_out": 0.0}
    return plan_packing(PackSettings(source=str(path), out=out, **defaults | options))


@pytest.mark.parametrize(
    ("name", "source", "flip_pairs", "limbs", "occluded"),
    [
        ("coco", "coco", ((1, 2),), ((0, 1), (0, 2)), ()),
        ("yolo-pose", "yolo-pose", ((1, 2),), (), ()),
        ("deeplabcut", "deeplabcut", ((1, 2),), ((0, 3),), ()),
        ("deeplabcut-h5", "deeplabcut", ((1, 2),), (), ()),
        ("cvat", "cvat", ((1, 2),), ((0, 3),), (1,)),
        ("label-studio", "label-studio", ((1, 2),), (), ()),
        ("sleap", "sleap", ((1, 2),), ((0, 3),), ()),
        ("sleap-package", "sleap", ((1, 2),), ((0, 3),), ()),
    ],
)
def test_each_tools_file_is_recognised_and_gives_the_same_mice(
    tmp_path, name, source, flip_pairs, limbs, occluded
):
    path = FILES[name](tmp_path / "in")
    plan = found_in(path, tmp_path / "out")
    assert plan.notes[0].startswith(f"{path} is read as {source}: ")
    assert (plan.joint_set.joints, plan.joint_set.limbs) == (JOINTS, limbs)
    assert plan.joint_set.flip_pairs == flip_pairs
    people = people_of(plan)
    assert len(people) == 2
    for person, mouse in zip(people, MICE, strict=True):
        for joint, (point, state) in enumerate(zip(person.joints, person.visibility, strict=True)):
            expected = mouse[joint]
            if expected is None:
                assert state == MISSING
            else:
                assert point == pytest.approx(expected, abs=1e-5)
                assert state == (OCCLUDED if joint in occluded else VISIBLE)


def test_frames_of_a_video_are_the_right_ones(tmp_path):
    path = sleap(tmp_path / "in")
    pack_here(PackSettings(source=str(path), out=tmp_path / "out", split="train"))
    samples = {s.key: s for s in ShardReader([str(tmp_path / "out/train-000000.tar")])}
    # Frame n has the grey 20 + 30 n.
    greys = {key: sample.picture().mean() for key, sample in samples.items()}
    assert greys == {
        "mice-000001_00": pytest.approx(50, abs=8),
        "mice-000004_00": pytest.approx(140, abs=8),
    }


@pytest.mark.parametrize(("order", "red", "blue"), [("RGB", 200, 40), ("BGR", 40, 200)])
def test_pictures_in_a_package_have_their_colours(tmp_path, order, red, blue):
    path = sleap(tmp_path / "in", is_package=True)
    with h5py.File(path, "a") as file:
        file["video0/video"].attrs["channel_order"] = order
    pack_here(PackSettings(source=str(path), out=tmp_path / "out", split="train"))
    last = list(ShardReader([str(tmp_path / "out/train-000000.tar")]))[-1]
    means = last.picture().reshape(-1, 3).mean(axis=0)
    assert means == pytest.approx([red, 0, blue], abs=6)


def test_joints_between_keyframes_of_cvat_are_interpolated(tmp_path):
    people = people_of(found_in(FILES["cvat-video"](tmp_path / "in"), tmp_path / "out"))
    assert [person.image for person in people] == [f"mice.mp4#{n}" for n in range(5)]
    # A quarter of the way from (40.25, 30.5) to (100, 80).
    assert people[1].joints[0] == (55.1875, 42.875)
    # The tail leaves the picture in frame 2, the mouse in frame 5.
    assert [person.visibility[3] for person in people] == [VISIBLE, VISIBLE, *[MISSING] * 3]


@pytest.mark.parametrize("part", ["task", "job"])
def test_frames_of_a_track_of_cvat_are_those_of_its_task(tmp_path, part):
    path = FILES["cvat-video"](tmp_path / "in")
    # The last keyframe shows the mouse until frame 4, the last of steps of two.
    text = re.sub('<skeleton frame="[45]".*?</skeleton>', "", path.read_text())
    text = re.sub('<points frame="4".*?</points>', "", text)
    text = text.replace("<start_frame>0", "<frame_filter>step=2</frame_filter><start_frame>0")
    path.write_text(re.sub(r"(</?)task>", rf"\1{part}>", text))
    people = people_of(found_in(path, tmp_path / "out"))
    assert [person.image for person in people] == [f"mice.mp4#{n}" for n in (0, 2, 4)]


def test_videos_of_a_project_of_cvat_stay_apart(tmp_path):
    path = FILES["cvat-video"](tmp_path / "in")
    (tmp_path / "in/mice.mp4").rename(tmp_path / "in/first.mp4")
    video(tmp_path / "in/second.mp4")
    meta, task, rest = re.split("(<task>.*</task>)", path.read_text())
    labels = re.search("<labels>.*</labels>", task)[0]
    tasks = "".join(
        task.replace(labels, "").replace("<task>", f"<task><id>{number}</id><name>{name}</name>")
        for number, name in ((7, "first.mp4"), (8, "second"))
    )
    track = re.search('<track id="0" label="mouse">.*</track>', rest)[0]
    tracks = "".join(track.replace("<track ", f'<track task_id="{n}" ', 1) for n in (7, 8))
    text = f"{meta}<project>{labels}<tasks>{tasks}</tasks></project></meta>{tracks}</annotations>"
    path.write_text(text)
    people = people_of(found_in(path, tmp_path / "out"))
    expected = [f"{name}.mp4#{frame}" for name in ("first", "second") for frame in range(5)]
    assert [person.image for person in people] == expected
    points = re.findall('(label="[^"]*")>(<points frame="0".*?</points>)', track)
    skeleton = "".join(point.replace("<points", f"<points {label}") for label, point in points)
    images = "".join(
        f'<image id="{n}" name="frame_000002" task_id="{n}"><skeleton label="mouse">{skeleton}'
        "</skeleton></image>"
        for n in (7, 8)
    )
    path.write_text(text.replace(tracks, images))
    people = people_of(found_in(path, tmp_path / "out"))
    assert [person.image for person in people] == ["first.mp4#2", "second.mp4#2"]
    path.write_text(text.replace('task_id="8"', 'task_id="9"'))
    with pytest.raises(ValueError, match="a track has task_id '9', expected one of 7, 8"):
        found_in(path, tmp_path / "out")


def test_frames_of_a_video_in_cvats_format_for_images_are_the_videos(tmp_path):
    path = FILES["cvat"](tmp_path / "in")
    text = path.read_text().replace("<name>mice</name>", "<source>mice.mp4</source>")
    path.write_text(text.replace('"a.png"', '"frame_000001"').replace('"b.png"', '"frame_000004"'))
    sleap(tmp_path / "in")
    people = people_of(found_in(path, tmp_path / "out"))
    assert [person.image for person in people] == ["mice.mp4#1", "mice.mp4#4"]


@pytest.mark.parametrize("index", ["0,1", "1,4"])
def test_deeplabcuts_analysis_of_a_video_is_packed_where_that_is_asked(tmp_path, index):
    sleap(tmp_path / "in/videos")
    path = tmp_path / "in/videos/miceDLC_resnet50_mouseAug20shuffle1_30000.csv"
    rows = [
        "scorer" + ",DLC_resnet50" * 12,
        "bodyparts," + ",".join(f"{name},{name},{name}" for name in JOINTS),
        "coords" + ",x,y,likelihood" * 4,
        *(f"{number}" + ",40.5,30.25,0.9" * 4 for number in index.split(",")),
    ]
    path.write_text("\n".join(rows))
    with pytest.raises(ValueError, match="passed over were a tool's prediction, no label"):
        found_in(path, tmp_path / "out")
    people = people_of(found_in(path, tmp_path / "out", predictions=True))
    assert [person.image for person in people] == [f"mice.mp4#{n}" for n in index.split(",")]
    other = people_of(found_in(path, tmp_path / "out", predictions=True, images=tmp_path / "in"))
    assert other[0].image == f"videos/mice.mp4#{index[0]}"


def test_of_a_video_that_is_not_there_the_nearest_one_is_offered(tmp_path):
    path = sleap(tmp_path / "in")
    (tmp_path / "in/mice.mp4").rename(tmp_path / "in/Mice.MP4")
    with pytest.raises(ValueError, match=r"such as .*mice\.mp4#1; did you mean Mice\.MP4\?"):
        found_in(path, tmp_path / "out")


def test_frames_that_a_tool_extracted_stand_in_for_their_video(tmp_path):
    path = sleap(tmp_path / "in")
    (tmp_path / "in/mice.mp4").unlink()
    pictures(tmp_path / "in/images", ("frame_000001.png", "frame_000004.png"))
    people = people_of(found_in(path, tmp_path / "out"))
    assert [person.image for person in people] == [
        "images/frame_000001.png",
        "images/frame_000004.png",
    ]


def test_predictions_are_labels_only_where_that_is_asked(tmp_path):
    path = sleap(tmp_path / "in")
    assert found_in(path, tmp_path / "out").skipped == {
        "a tool's prediction, no label (--predictions)": 1
    }
    people = people_of(found_in(path, tmp_path / "out", predictions=True))
    assert [person.image for person in people] == [f"mice.mp4#{n}" for n in (1, 2, 4)]


@pytest.mark.parametrize("name", ["cvat", "cvat-video"])
def test_automatic_annotations_of_cvat_are_labels_once_a_person_has_changed_them(tmp_path, name):
    path = FILES[name](tmp_path / "in")
    root = ElementTree.parse(path).getroot()
    for shape in (*root.iter("skeleton"), *root.iter("track"), *root.iter("points")):
        shape.set("source", "auto")
    path.write_bytes(ElementTree.tostring(root))
    with pytest.raises(ValueError, match=r"passed over were a tool's prediction, no label"):
        found_in(path, tmp_path / "out")
    count = len(people_of(found_in(path, tmp_path / "out", predictions=True)))
    # A person has moved a joint of the first: CVAT marks the whole figure.
    first = next(root.iter("skeleton" if name == "cvat" else "track"))
    first.set("source", "semi-auto")
    path.write_bytes(ElementTree.tostring(root))
    found = found_in(path, tmp_path / "out")
    assert len(people_of(found)) == (1 if name == "cvat" else count)
    assert sum(found.skipped.values()) == (1 if name == "cvat" else 0)


def test_pictures_of_one_name_in_two_subsets_of_cvat_stay_apart(tmp_path):
    path = FILES["cvat"](tmp_path / "in")
    for subset in ("Train", "Validation"):
        pictures(path.parent / "images" / subset, ("a.png",))
    text = path.read_text().replace('name="a.png"', 'name="a.png" subset="Train"')
    path.write_text(text.replace('name="b.png"', 'name="a.png" subset="Validation"'))
    people = people_of(found_in(path, tmp_path / "out"))
    assert [person.image for person in people] == ["Train/a.png", "Validation/a.png"]


@pytest.mark.parametrize("kind", ["JSON-MIN", "CSV", "TSV"])
def test_an_export_of_label_studio_without_figures_names_the_export_that_has_them(tmp_path, kind):
    point = {"x": 10, "y": 20, "keypointlabels": ["beak"], "original_width": 160}
    row = {"image": "/data/upload/1/a.png", "id": 1, "kp": [point], "annotator": 1}
    row |= {"annotation_id": 3, "created_at": "2026-01-01"}
    path = tmp_path / "in/project-1.json"
    path.parent.mkdir()
    path.write_text(json.dumps([row]))
    if kind != "JSON-MIN":
        path, sign = tmp_path / "in/project-1.csv", "," if kind == "CSV" else "\t"
        path.write_text(sign.join(row) + "\n" + sign.join(map(repr, row.values())) + "\n")
    with pytest.raises(ValueError, match=f"is Label Studio's {kind} export, .* export the project"):
        found_in(path, tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        '[{"id":1,"meta":{"annotation_id":3,"annotator":1},"data":{"image":"a.png"}}]',
        '{"annotation_id":3,"annotator":1}',
        "image,last_annotation_id,annotators,nose_x,nose_y\n",
    ],
)
def test_words_of_label_studio_make_no_export_of_another_file(tmp_path, text):
    path = tmp_path / "minified"
    path.write_text(text)
    assert is_label_studio(Peek(path)) == ""


def test_labels_of_label_studio_may_be_items_of_their_own(tmp_path):
    path = FILES["label-studio"](tmp_path / "in")
    expected = people_of(found_in(path, tmp_path / "out"))
    tasks = json.loads(path.read_text())
    for task in tasks:
        result = task["annotations"][0]["result"]
        for item in list(result):
            kind = item["type"]
            names = item["value"].pop(kind)
            item["type"] = kind.removesuffix("labels")
            result.append(item | {"type": "labels", "value": item["value"] | {"labels": names}})
        # The configuration decides which of the data is the picture.
        task["data"] = {"caption": "a mouse", "photo": task["data"]["image"]}
    path.write_text(json.dumps(tasks))
    found = found_in(path, tmp_path / "out")
    assert people_of(found) == expected
    assert found.skipped == {}


def test_drafts_of_label_studio_are_counted_and_passed_over(tmp_path):
    path = FILES["label-studio"](tmp_path / "in")
    tasks = json.loads(path.read_text())
    tasks[0]["drafts"] = [{"result": tasks[0]["annotations"][0]["result"]}]
    tasks[0]["annotations"][0]["was_cancelled"] = True
    path.write_text(json.dumps(tasks))
    assert found_in(path, tmp_path / "out").skipped == {
        "cancelled annotation": 1,
        "a draft that was not submitted": 1,
    }


def test_an_export_of_roboflow_is_packed_with_its_splits(tmp_path):
    content = json.loads(coco(tmp_path / "made").read_text())
    # Roboflow counts from 0, and names the project as a category of its own.
    content["categories"].insert(0, {"id": 0, "name": "mice", "supercategory": "none"})
    for split in ("train", "valid", "test"):
        pictures(tmp_path / "in" / split)
        (tmp_path / "in" / split / "_annotations.coco.json").write_text(json.dumps(content))
    found = plan_packing(PackSettings(source=str(tmp_path / "in"), out=tmp_path / "out"))
    splits = [(person.image, person.split) for person in people_of(found)]
    assert splits == [
        *(("train/a.png", "train"), ("train/b.png", "train")),
        *(("valid/a.png", "val"), ("valid/b.png", "val")),
    ]
    assert found.skipped == {"of the split test": 2}
    # With one split the whole export is read as that file, and any split can be chosen.
    for split in ("valid", "test"):
        (tmp_path / "in" / split / "_annotations.coco.json").unlink()
    assert len(people_of(found_in(tmp_path / "in", tmp_path / "out"))) == 2


def test_an_export_of_roboflow_whose_splits_differ_in_their_joints_is_refused(tmp_path):
    content = json.loads(coco(tmp_path / "made").read_text())
    for split in ("train", "valid"):
        pictures(tmp_path / "in" / split)
        (tmp_path / "in" / split / "_annotations.coco.json").write_text(json.dumps(content))
        content["categories"][0]["keypoints"][0] = "nose"
    with pytest.raises(ValueError, match=r"valid/_annotations.coco.json: mouse has other keypoint"):
        found_in(tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"made has no _annotations.coco.json in train, valid, tes"
    ):
        plan_of(tmp_path / "made", tmp_path / "out")


def test_pictures_in_a_folder_of_images_for_a_subset_are_found(tmp_path):
    path = coco(tmp_path / "in/annotations")
    pictures(tmp_path / "in/images/default")
    for name in ("a.png", "b.png"):
        (path.parent / name).unlink()
    found = found_in(path, tmp_path / "out")
    assert found.settings.images == tmp_path / "in/images/default"


def test_pixels_of_old_sleap_files_count_from_their_corner(tmp_path):
    path = sleap(tmp_path / "in", version=1.0)
    assert people_of(found_in(path, tmp_path / "out"))[0].joints[0] == (39.75, 30.0)


def test_a_joint_set_file_chooses_joints_and_their_order(tmp_path):
    path = deeplabcut(tmp_path / "in")
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "own"\njoints = ["tail", "snout"]\nnormaliser = ["tail", "snout"]\nindex_base = 0\n'
    )
    plan = found_in(path, tmp_path / "out", joint_set=own)
    assert plan.joint_set.joints == ("tail", "snout")
    # The second mouse has but one of the two joints, and no box.
    [person] = people_of(plan)
    assert person.joints == ((90.0, 33.0), (40.25, 30.5))
    assert plan.skipped == {"one labelled joint and no box": 1}
    assert f"joints that {own} lacks are left out: leftear, rightear" in plan.notes
    own.write_text(own.read_text().replace("tail", "tails"))
    message = f"--joint-set {own}: {path} has no joint 'tails'; did you mean 'tail'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        found_in(path, tmp_path / "out", joint_set=own)


def test_unnamed_joints_of_yolo_take_the_names_of_a_joint_set_file(tmp_path):
    path = yolo_pose(tmp_path / "in")
    content = path.read_text()
    path.write_text(content[: content.index("kpt_names")])
    own = tmp_path / "own.toml"
    own.write_text(
        f'name = "own"\njoints = {list(JOINTS)}\nnormaliser = "box"\nindex_base = 0\n'
        'flip_pairs = [["leftear", "rightear"]]\n'
    )
    assert found_in(path, tmp_path / "out").joint_set.joints[0] == "joint_1"
    plan = found_in(path, tmp_path / "out", joint_set=own)
    assert plan.joint_set.joints == JOINTS
    assert people_of(plan)[0].joints[0] == pytest.approx((40.25, 30.5), abs=1e-5)


def test_yolos_joints_without_visibility_are_missing_below_0_or_at_0(tmp_path):
    path = yolo_pose(tmp_path / "in")
    path.write_text(path.read_text().replace("[4, 3]", "[4, 2]"))
    for name in "ab":
        text = tmp_path / f"in/labels/train/{name}.txt"
        text.write_text("0 0.375 0.5 0.5 0.75 0.25 0 -1 -1 0 0 0.5 0.5\n")
    person = people_of(found_in(path, tmp_path / "out"))[0]
    assert person.visibility == (VISIBLE, MISSING, MISSING, VISIBLE)
    assert person.joints[0] == (40.0, 0.0)


def test_keypoints_of_label_studio_on_a_turned_picture_are_turned_back(tmp_path):
    path = label_studio(tmp_path / "in")
    tasks = json.loads(path.read_text())
    # Turned clockwise by 90 degrees, what was at x of 40 and y of 30 pixels of 160 x 120 lies at
    # 90 pixels of 120, and 40 of 160.
    tasks = tasks[:1]
    for item in tasks[0]["annotations"][0]["result"]:
        item["image_rotation"] = 90
        item["value"] |= {"x": 75.0, "y": 25.0}
    path.write_text(json.dumps(tasks))
    person = people_of(found_in(path, tmp_path / "out"))[0]
    assert person.joints[0] == (40.0, 30.0)


@pytest.mark.parametrize(
    ("make", "old", "new", "message"),
    [
        (coco, '"bbox"', '"score": 0.5, "bbox"', "no people; passed over were a tool's prediction"),
        (
            coco,
            '"bbox"',
            '"iscrowd": "0", "bbox"',
            "annotations[0]: iscrowd must be 0 or 1, got '0'",
        ),
        (coco, "30.5, 2", "30.5, true", "annotations[0]: visibility must be 0, 1 or 2, got True"),
        (coco, "30.5, 2", "30.5, null", "annotations[0]: visibility must be 0, 1 or 2, got None"),
        (coco, "40.25", "true", "keypoints of snout, which is labelled: expected numbers of shape"),
        (coco, "0, 0, 0", "-1, -1, 2", "1 of 8 joints that are not missing lie at (-1, -1)"),
        (deeplabcut, "90.0,,", "90.0,-1,-1", "1 of 8 joints that are not missing lie at (-1, -1)"),
        (yolo_pose, "0: mouse", "x: mouse", "names must list the classes by their numbers"),
        (yolo_pose, "0: mouse", "1: mouse", "line 1: class must be 1, got 0"),
        (yolo_pose, "  0: [snout", "  x: [snout", "kpt_names must list the names of joints by"),
        (yolo_pose, "  0: [snout", "  1: [snout", "line 1: the class mouse is not in kpt_names"),
        (yolo_pose, "kpt_shape: [4, 3]", "kpt_shape: 4", "kpt_shape must be [joints, 2 or 3]"),
        (yolo_pose, "flip_idx: [0, 2, 1, 3]", "flip_idx: [0, 2, 3, 1]", "flip_idx must have each"),
        (yolo_pose, "images/train", "images/there", "there is no such folder or list in"),
        (yolo_pose, "images/train", 300 * "x" + "/a", "there is no such folder or list in"),
        (deeplabcut, "40.25", "4O.25", "line 4: expected a number, or nothing, got '4O.25'"),
        (deeplabcut, "40.25", "", "line 4: snout has x nan and y 30.5, expected two numbers"),
        (deeplabcut, "bodyparts", "parts", "the first rows are scorer, parts, coords"),
        (deeplabcut, "rightear", "leftear", "leftear has the column x 2 times, expected once"),
        (FILES["cvat"], 'label="tail"', 'label="tall"', "'tall' is no joint of mouse"),
        (FILES["cvat"], "40.25,30.5", "40.25", "snout: points must be x,y, got '40.25'"),
        (FILES["cvat"], "<annotations>", "<!DOCTYPE a><annotations>", "expected no DOCTYPE"),
        (FILES["cvat-video"], 'frame="4"', 'frame="x"', "frame must be a whole number, got 'x'"),
        (label_studio, '["snout"]', '["snout", "tail"]', "keypointlabels must be one name"),
        (label_studio, '"original_width": 160', '"original_width": 0', "original_width and"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(tmp_path, make, old, new, message):
    path = make(tmp_path / "in")
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        found_in(path, tmp_path / "out")
    assert str(path.parent) in str(error.value)


@pytest.mark.parametrize("name", ["coco", "yolo-pose", "cvat"])
def test_a_figure_that_is_there_again_is_counted_once(tmp_path, name):
    path = FILES[name](tmp_path / "in")
    if name == "coco":
        # Of two exports that were numbered anew and joined.
        content = json.loads(path.read_text())
        content["images"].append(content["images"][0] | {"id": 8, "file_name": "./a.png"})
        content["annotations"].append(content["annotations"][0] | {"id": 9, "image_id": 8})
        path.write_text(json.dumps(content))
    elif name == "cvat":
        path.write_text(re.sub("(<skeleton.*?</skeleton>)", r"\1\1", path.read_text(), count=1))
    else:
        text = path.parent / "labels/train/a.txt"
        text.write_text(text.read_text() + text.read_text().replace(" ", "  "))
    found = found_in(path, tmp_path / "out")
    assert (len(people_of(found)), found.skipped) == (2, {"the same annotation again": 1})


def test_labels_of_yolo_without_a_picture_are_missed_with_the_nearest_one(tmp_path):
    path = yolo_pose(tmp_path / "in")
    labels = path.parent / "labels/train"
    (labels / "classes.txt").write_text("mouse\n")
    (labels / "a.txt").rename(labels / "A.txt")
    with pytest.raises(
        ValueError, match=r"missing image: 1 .*images/train/A\.png: no such image; di"
    ):
        found_in(path, tmp_path / "out")
    (labels / "A.txt").rename(labels / unicodedata.normalize("NFD", "ä.txt"))
    (path.parent / "images/train/a.png").rename(path.parent / "images/train/ä.png")
    (labels / "b.txt").write_text("")
    found = found_in(path, tmp_path / "out")
    assert [person.image for person in people_of(found)] == ["images/train/ä.png"]
    assert found.skipped == {"image without a label": 1}


def test_labels_of_yolo_whose_folder_of_pictures_is_gone_are_missed(tmp_path):
    path = yolo_pose(tmp_path / "in")
    path.write_text(path.read_text().replace("images/train", "images"))
    (path.parent / "labels/train/day").mkdir()
    (path.parent / "labels/train/a.txt").rename(path.parent / "labels/train/day/c.txt")
    with pytest.raises(
        ValueError, match=r"1 of 2 people .* missing image: 1 \(images-train-day-c_00"
    ):
        found_in(path, tmp_path / "out")


@pytest.mark.parametrize("inner", ["images", "images/images", ".", "labels"])
def test_labels_of_yolo_below_a_folder_named_as_the_split_belong_to_its_pictures(tmp_path, inner):
    path = yolo_pose(tmp_path / "in")
    folder = path.parent
    path.write_text(path.read_text().replace("images/train", "train"))
    (folder / "labels/train").rename(folder / "texts")
    (folder / "images/train").rename(folder / "pictures")
    beside = {"images": "labels", "images/images": "images/labels"}.get(inner, inner)
    for name, suffix, place in (("pictures", "png", inner), ("texts", "txt", beside)):
        (folder / "train" / place).mkdir(parents=True, exist_ok=True)
        for file in (folder / name).glob(f"*.{suffix}"):
            file.rename(folder / "train" / place / file.name)
    found = found_in(path, tmp_path / "out")
    assert (len(people_of(found)), found.skipped) == (2, {})
    (folder / "train" / inner / "a.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 people .* missing image: 1 "):
        found_in(path, tmp_path / "out")


@pytest.mark.parametrize("before", ["", "./", "/other/place/"])
def test_of_yolos_lists_the_names_alone_decide(tmp_path, before):
    path = yolo_pose(tmp_path / "in")
    folder = path.parent
    path.write_text(path.read_text().replace("images/train", "train.txt"))
    names = [f"{before}images/train/{name}" for name in ("a.png", "ä.png")]
    (folder / "train.txt").write_text("\n".join(names))
    for top, suffix in (("images", "png"), ("labels", "txt")):
        name = unicodedata.normalize("NFD", f"ä.{suffix}")
        (folder / top / f"train/b.{suffix}").rename(folder / top / "train" / name)
    label = (folder / "labels/train/a.txt").read_text()
    (folder / "labels/train/unlisted.txt").write_text(label)
    found = found_in(path, tmp_path / "out")
    assert (len(people_of(found)), found.skipped) == (2, {})
    (folder / "labels/day").mkdir()
    (folder / "labels/day/c.txt").write_text(label)
    absent = [f"{before}images/day/c.png", f"{before}images/day/d.png", 300 * "x" + "/e.png"]
    (folder / "train.txt").write_text("\n".join(names + absent))
    with pytest.raises(ValueError, match=r"1 of 3 people .* missing image: 1 \(images-day-c_00"):
        found_in(path, tmp_path / "out")
    found = found_in(path, tmp_path / "out", max_left_out=1)
    assert found.skipped == {"image without a label": 2}


def test_classes_of_yolo_are_known_by_their_numbers(tmp_path):
    path = yolo_pose(tmp_path / "in")
    names = f"  1: bird\n  0: mouse\nkpt_names:\n  1: [a, b, c, d]\n  '0': [{', '.join(JOINTS)}]\n"
    path.write_text(path.read_text().partition("  0: mouse")[0] + names)
    assert found_in(path, tmp_path / "out").joint_set.joints == JOINTS


def test_a_keypoint_of_yolo_at_minus_one_is_no_joint(tmp_path):
    path = yolo_pose(tmp_path / "in")
    text = path.parent / "labels/train/b.txt"
    text.write_text(text.read_text().replace("0 0 0\n", "-1 -1 2\n"))
    with pytest.raises(
        ValueError, match=r"b\.txt: line 1: a joint is at \(-1, -1\), expected the vi"
    ):
        found_in(path, tmp_path / "out")


def test_what_looks_wrong_in_a_few_labels_is_told(tmp_path):
    path = coco(tmp_path / "in")
    content = json.loads(path.read_text())
    content["annotations"][1]["keypoints"][-3:] = [0, 0, 2]
    content["annotations"].append(
        {"id": 3, "image_id": 1, "category_id": 1, "keypoints": [0.25, 0.5, 2] * 4}
    )
    path.write_text(json.dumps(content))
    notes = found_in(path, tmp_path / "out").notes
    assert (
        "1 of 12 joints that are not missing lie at (0, 0) (b.png): check whether these are "
        "labelled"
    ) in notes
    assert (
        "all joints of 1 of 3 people lie below 2 px (a.png): check whether these are shares of the "
        "image"
    ) in notes


def test_a_skeleton_of_sleap_that_is_not_there_is_named(tmp_path):
    path = sleap(tmp_path / "in")
    with h5py.File(path, "a") as file:
        file["instances"][0] = np.array((0, 0, 0, -1, -1, -1, 1, 0, 4), file["instances"].dtype)
    with pytest.raises(
        ValueError, match=r"instances\[0\]: skeleton -1 of 1, expected one there is"
    ):
        found_in(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"original_width": 320},
            r"result\[1\]: original_width and original_height are \(160, 120",
        ),
        (
            {"value": {"x": -1, "y": -1, "keypointlabels": ["snout"]}},
            r"result\[0\]: x and y are -1",
        ),
    ],
)
def test_a_point_of_label_studio_that_is_no_joint_is_named(tmp_path, change, message):
    path = label_studio(tmp_path / "in")
    tasks = json.loads(path.read_text())
    tasks[0]["annotations"][0]["result"][0].update(change)
    path.write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=message):
        found_in(path, tmp_path / "out")


def test_a_file_whose_figures_have_no_joint_says_so(tmp_path):
    path = sleap(tmp_path / "in")
    with h5py.File(path, "a") as file:
        points = file["points"][:]
        points["visible"] = False
        file["points"][:] = points
    with pytest.raises(
        ValueError, match=r"no people; passed over were a tool's .* no labelled joint: 2"
    ):
        found_in(path, tmp_path / "out")


@pytest.mark.parametrize("layout", ["fixed", "table"])
def test_whole_numbers_of_deeplabcuts_h5_are_read_from_their_own_block(tmp_path, layout):
    path = deeplabcut_h5(tmp_path / "in")
    columns = [("me", joint, axis) for joint in JOINTS for axis in "xy"]
    with h5py.File(path, "r+") as file:
        group = file["df_with_missing"]
        values = group["block0_values"][:]
        # pandas keeps those of rightear, all of them whole, by themselves.
        whole, others = [4, 5], [0, 1, 2, 3, 6, 7]
        if layout == "fixed":
            for number in range(3):
                labels = group.pop(f"block0_items_label{number}")[:]
                group[f"axis0_label{number}"] = labels
                group[f"axis0_level{number}"] = group[f"block0_items_level{number}"]
                group[f"block1_items_level{number}"] = group[f"block0_items_level{number}"]
                group[f"block0_items_label{number}"] = labels[others]
                group[f"block1_items_label{number}"] = labels[whole]
            del group["block0_values"]
            group["block0_values"] = values[:, others]
            group["block1_values"] = values[:, whole].astype(np.int64)
        else:
            del file["df_with_missing"]
            group = file.create_group("df_with_missing")
            group.attrs["non_index_axes"] = np.bytes_(pickle.dumps([(1, columns)], 0))
            kinds = {"values_block_0": (others, "<f8"), "values_block_1": (whole, "<i8")}
            kind_of = {name: (name, kind, (len(at),)) for name, (at, kind) in kinds.items()}
            table = np.zeros(2, [("index", "S21"), *kind_of.values()])
            table["index"] = [f"labeled-data/m1/{name}".encode() for name in ("a.png", "b.png")]
            for name, (at, _) in kinds.items():
                table[name] = values[:, at]
            group["table"] = table
            for name, (at, _) in kinds.items():
                named = np.bytes_(pickle.dumps([columns[place] for place in at], 0))
                group["table"].attrs[f"{name}_kind"] = named
    plan = found_in(path, tmp_path / "out")
    assert plan.joint_set.joints == JOINTS
    assert [person.joints for person in people_of(plan)] == [
        tuple(point or (0.0, 0.0) for point in mouse) for mouse in MICE
    ]


def test_a_project_of_deeplabcut_may_be_given_by_its_config(tmp_path):
    deeplabcut(tmp_path / "in")
    plan = found_in(tmp_path / "in/config.yaml", tmp_path / "out")
    assert [person.image for person in people_of(plan)] == [
        "labeled-data/m1/a.png",
        "labeled-data/m1/b.png",
    ]


def test_two_scorers_of_the_same_images_are_refused(tmp_path):
    path = deeplabcut(tmp_path / "in")
    (path.parent / "CollectedData_you.csv").write_text(path.read_text().replace("me", "you"))
    message = "labeled-data/m1/a.png is labelled in CollectedData_me.csv and in CollectedData_you"
    with pytest.raises(ValueError, match=re.escape(message)):
        found_in(tmp_path / "in", tmp_path / "out")


def test_flip_pairs_of_a_file_that_contradict_the_names_are_named_with_it(tmp_path):
    path = yolo_pose(tmp_path / "in")
    path.write_text(path.read_text().replace("[0, 2, 1, 3]", "[0, 1, 2, 3]"))
    message = f"{path}: flip_pairs lacks ['leftear', 'rightear']"
    with pytest.raises(ValueError, match=re.escape(message)):
        found_in(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "it holds GLOBAL os system"),
        # Python's reader would ask for 64 GiB.
        (b"\x80\x04]r\xff\xff\xff\xff.", "it numbers a value 4,294,967,295"),
        (b"\x80\x05\x96\1\1\1\1\1\1\1\1.", "expected 72340172838076673 bytes in a"),
    ],
)
def test_columns_that_would_run_a_program_or_fill_memory_are_refused(tmp_path, pickled, message):
    path = tmp_path / "CollectedData_me.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("df_with_missing")
        group["table"] = np.zeros(1, [("index", "S9"), ("values_block_0", "<f8", (2,))])
        group.attrs["non_index_axes"] = np.bytes_(pickled)
    with pytest.raises(ValueError, match=f"is not plain: {message}"):
        found_in(path, tmp_path / "out")


def test_a_document_type_is_refused_in_any_encoding(tmp_path):
    path = FILES["cvat"](tmp_path / "in")
    text = path.read_text().replace('encoding="utf-8"', 'encoding="utf-16"')
    path.write_text(text.replace("<annotations>", "<!DOCTYPE a><annotations>"), "utf-16")
    with pytest.raises(ValueError, match=r"annotations\.xml: not readable as XML: expected no DOC"):
        read_annotations("cvat", AnnotationFiles(annotations=path))


def test_data_of_other_files_are_not_read(tmp_path):
    path, other = sleap(tmp_path / "in"), sleap(tmp_path / "other")
    with h5py.File(path, "a") as file:
        del file["points"]
        file["points"] = h5py.ExternalLink(str(other), "points")
    with pytest.raises(ValueError, match="points: it is a link to elsewhere, expected data of"):
        found_in(path, tmp_path / "out")


def test_a_folder_of_several_files_needs_a_choice(tmp_path):
    coco(tmp_path / "in")
    label_studio(tmp_path / "in")
    message = "has 2 files of annotations, expected one or its path: mice.json (coco), tasks.json"
    with pytest.raises(ValueError, match=re.escape(message)):
        found_in(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="no such file or folder, nor a format by name"):
        found_in(tmp_path / "there", tmp_path / "out")


def test_the_joint_set_is_written_and_drawn_beside_the_shards(tmp_path):
    path = sleap(tmp_path / "in")
    index = pack_here(PackSettings(source=str(path), out=tmp_path / "out", split="train"))
    written = tmp_path / "out/joint-set.toml"
    assert read_joint_file(written).joint_set == index.joint_set
    image = cv2.imread(str(tmp_path / "out/joint-set.png"))
    assert image.shape == (800, 800, 3)
    # Packed again with that file, the mice and their joints are the same.
    plan = found_in(path, tmp_path / "again", joint_set=written)
    assert plan.joint_set == index.joint_set


# The genuine files


def test_the_mouse_of_deeplabcut_is_packed_alike_from_table_file_and_folder(tmp_path, tools_dir):
    folder = tools_dir / "dlc_openfield"
    table = folder / "labeled-data/m4s1/CollectedData_Pranav"
    plans = [
        found_in(path, tmp_path)
        for path in (folder, table.with_suffix(".csv"), table.with_suffix(".h5"))
    ]
    people = [people_of(plan) for plan in plans]
    assert [len(found) for found in people] == [116] * 3
    assert plans[0].joint_set.joints == ("snout", "leftear", "rightear", "tailbase")
    assert plans[0].joint_set.flip_pairs == ((1, 2),)
    for found in people:
        assert found[0].image == "labeled-data/m4s1/img0000.png"
        assert found[0].joints[0] == (21.521, 265.428)
        np.testing.assert_allclose(
            [person.joints for person in found], [person.joints for person in people[0]], atol=1e-9
        )


@pytest.mark.parametrize(
    ("name", "people", "joints"),
    [
        ("dlc_testdata", 3, 3),
        ("dlc_testdata_v2", 3, 3),
        ("madlc_testdata", 5, 3),
        ("madlc_testdata_v2", 5, 3),
        ("maudlc_testdata", 7, 5),
        ("maudlc_testdata_v2", 7, 5),
    ],
)
def test_every_variant_of_deeplabcuts_table_is_packed(tmp_path, tools_dir, name, people, joints):
    path = tools_dir / f"dlc_variants/labeled-data/video/{name}.csv"
    plan = found_in(path, tmp_path)
    found = people_of(plan)
    assert (len(found), len(plan.joint_set.joints)) == (people, joints)
    assert plan.skipped == {"image without a label": 1}
    # B of the first animal is empty in the second picture.
    second = next(person for person in found if person.image == "labeled-data/video/img001.png")
    assert second.joints[:3] == ((12, 13), (0, 0), (15, 16))
    assert second.visibility[:3] == (VISIBLE, MISSING, VISIBLE)
    if joints == 5:
        single = found_in(path, tmp_path, category="single")
        assert single.joint_set.joints == ("D", "E")
        assert people_of(single)[0].joints == ((22, 23), (24, 25))


def test_lightning_poses_example_is_packed(tmp_path, tools_dir):
    plan = found_in(tools_dir / "lightning_pose_mouse", tmp_path)
    people = people_of(plan)
    assert (len(people), len(plan.joint_set.joints)) == (90, 17)
    first = next(person for person in people if person.image == "labeled-data/img01.png")
    assert first.joints[:2] == ((77.25, 36.25), (253.5, 101.900392541708))
    # tailBase_top
    assert first.visibility[4] == MISSING


def test_sleaps_dancer_is_packed_without_the_predictions(tmp_path, tools_dir):
    plan = found_in(tools_dir / "sleap/dance.mp4.labels.slp", tmp_path)
    people = people_of(plan)
    assert plan.joint_set == COCO
    assert [person.image for person in people] == [f"dance.mp4#{n}" for n in range(3)]
    assert people[0].joints[0] == pytest.approx((193.83285522, 230.05151367))
    assert list(plan.skipped.values()) == [450]


def test_cvats_images_and_yolos_datasets_are_packed(tmp_path, tools_dir):
    plan = found_in(tools_dir / "cvat/for_images/train.xml", tmp_path)
    assert plan.joint_set.joints == ("1", "2", "3", "4")
    assert plan.joint_set.limbs == ((2, 1), (0, 3))
    assert [person.joints[1] for person in people_of(plan)] == [(2, 2), (4, 4)]
    for name in ("yolo_pose", "yolo_pose_xy"):
        [person] = people_of(found_in(tools_dir / name, tmp_path))
        # Shares of 15 x 10 pixels.
        assert np.array(person.joints) == pytest.approx(np.array([(1.5, 2), (4.5, 4), (7.5, 6)]))


def test_the_figure_of_label_studio_is_where_its_percents_are(tmp_path, tools_dir):
    pictures(tmp_path / "images", ("image1.jpg",))
    path = tools_dir / "label_studio/data_keypoints.json"
    message = "has (160, 120) pixels, expected (216, 174)"
    with pytest.raises(ValueError, match=re.escape(message)):
        found_in(path, tmp_path / "out", images=tmp_path / "images")
    found = read_annotations("label-studio", AnnotationFiles(annotations=path))
    [person] = found.people
    assert found.joint_set == COCO
    # 64.44 percent of 216, 39.29 percent of 174.
    assert person.joints[0] == pytest.approx((139.2, 68.36595744680851))
    assert sum(state == VISIBLE for state in person.visibility) == 3
    assert person.box == pytest.approx((83.914893, 13.32765957, 102.17872, 88.60425532))
