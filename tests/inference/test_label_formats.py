"""Files of labelling tools that predictions are written to: values worked out by hand."""

import csv
import io
import json
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import yaml
from factories import BIRD

from jobs.predict import Format
from pipeline.inference.formats.coco import coco_files
from pipeline.inference.formats.cvat import cvat_files
from pipeline.inference.formats.deeplabcut import deeplabcut_files
from pipeline.inference.formats.label_studio import label_studio_files
from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, labels_of
from pipeline.inference.formats.registry import FORMATS
from pipeline.inference.formats.sleap import sleap_files
from pipeline.inference.formats.tables import Results
from pipeline.inference.formats.yolo import yolo_files
from pipeline.inference.results import Estimate, FoundPerson

# The right wing is missing, the left one occluded.
PERSON = LabelledPerson(
    joints=np.array([[20.0, 10.0], [60.0, 50.0], [0.0, 0.0]]),
    states=np.array([2, 1, 0]),
    confidence=np.array([0.9, 0.5, 0.1]),
    score=0.5,
)


def labels(*pictures: Picture) -> Labels:
    ids = {picture.place: number for number, picture in enumerate(pictures, start=7)}
    root = Path("/birds/park")
    return Labels(joint_set=BIRD, root=root, pictures=pictures, image_ids=ids)


def picture(name: str = "day/a.jpg", people=(PERSON,), **fields) -> Picture:
    return Picture(name=name, width=200, height=100, people=people, **fields)


def test_every_format_of_the_command_has_a_writer():
    assert list(get_args(Format)) == sorted(FORMATS, key=list(get_args(Format)).index)


def test_coco_has_the_skeleton_and_everything_that_importers_ask_for():
    files = coco_files(labels(picture(), picture("film.mp4", frame=3, people=()))).files
    [result] = json.loads(files["coco_results.json"])
    assert (result["image_id"], result["score"]) == (7, 0.5)
    assert result["keypoints"] == [20, 10, 0.9, 60, 50, 0.5, 0, 0, 0]
    content = json.loads(files["coco_annotations.json"])
    assert content["categories"] == [
        {
            "id": 1,
            "name": "bird",
            "keypoints": ["beak", "left_wing", "right_wing"],
            "skeleton": [[1, 2], [1, 3]],
        }
    ]
    assert content["images"] == [
        {"id": 7, "file_name": "day/a.jpg", "width": 200, "height": 100},
        {"id": 8, "file_name": "film.mp4#3", "width": 200, "height": 100},
    ]
    [annotation] = content["annotations"]
    assert annotation["keypoints"] == [20, 10, 2, 60, 50, 1, 0, 0, 0]
    # Without a box that of the joints: 40 x 40 pixels, of which a person covers 0.53.
    assert annotation["bbox"] == [20, 10, 40, 40]
    assert annotation["area"] == pytest.approx(0.53 * 1600)
    assert (annotation["num_keypoints"], annotation["iscrowd"]) == (2, 0)


def test_yolo_counts_in_shares_of_the_picture():
    written = yolo_files(labels(picture(), picture("film.mp4", frame=3, people=())))
    assert yaml.safe_load(written.files["yolo/data.yaml"]) == {
        "path": ".",
        "train": "images",
        "val": "images",
        "kpt_shape": [3, 3],
        "flip_idx": [0, 2, 1],
        "names": {0: "bird"},
        "kpt_names": {0: ["beak", "left_wing", "right_wing"]},
        "predicted_by": "hourglass",
    }
    row = written.files["yolo/labels/day/a.txt"].decode().split()
    assert [float(word) for word in row] == [
        *(0, 0.2, 0.3, 0.2, 0.4),
        *(0.1, 0.1, 2, 0.3, 0.5, 1, 0, 0, 0),
    ]
    assert written.files["yolo/labels/film_000003.txt"] == b""
    assert "copy the pictures in /birds/park to yolo/images" in written.notes[0]
    # Ultralytics looks for labels below the last folder images of a picture's path.
    within = yolo_files(labels(picture("day/images/a.jpg")))
    assert "yolo/images/day/labels/a.txt" in within.files


def test_deeplabcut_has_a_table_a_folder_and_one_a_video():
    frame = picture("film.mp4", frame=3)
    files = deeplabcut_files(labels(picture(), picture("b.jpg", people=()), frame)).files
    rows = list(csv.reader(io.StringIO(files[_collected("day")].decode())))
    assert rows == [
        ["scorer", *["hourglass"] * 6],
        ["bodyparts", "beak", "beak", "left_wing", "left_wing", "right_wing", "right_wing"],
        ["coords", *["x", "y"] * 3],
        ["labeled-data/day/a.jpg", "20.0", "10.0", "60.0", "50.0", "", ""],
    ]
    # A picture at the top lies in the folder's own name.
    assert _collected("park") in files
    film = list(csv.reader(io.StringIO(files["deeplabcut/filmDLC_hourglass.csv"].decode())))
    assert film[2] == ["coords", *["x", "y", "likelihood"] * 3]
    assert film[3] == ["3", "20.0", "10.0", "0.9", "60.0", "50.0", "0.5", "", "", ""]


def test_deeplabcut_names_individuals_where_there_are_several():
    both = picture("day/a.jpg", people=(PERSON, PERSON))
    files = deeplabcut_files(labels(both, picture("day/b.jpg"))).files
    rows = list(csv.reader(io.StringIO(files[_collected("day")].decode())))
    assert rows[1] == ["individuals", *["individual1"] * 6, *["individual2"] * 6]
    assert rows[5] == ["labeled-data/day/b.jpg", "20.0", "10.0", "60.0", "50.0", *[""] * 8]


def test_deeplabcut_tells_folders_of_one_name_apart():
    names = ("day/a.jpg", "old/day/a.jpg", "night/a.jpg")
    files = deeplabcut_files(labels(*map(picture, names))).files
    assert list(files) == [_collected("park-day"), _collected("park-old-day"), _collected("night")]
    # Another folder has the name that one of them gets.
    names = ("day/a.jpg", "old/day/b.jpg", "park-day/c.jpg")
    files = deeplabcut_files(labels(*map(picture, names))).files
    assert len(files) == 3
    assert all(any(name.encode() in data for data in files.values()) for name in "abc")


def _collected(folder: str) -> str:
    return f"deeplabcut/labeled-data/{folder}/CollectedData_hourglass.csv"


def test_cvat_has_skeletons_of_points():
    files = cvat_files(labels(picture(), picture("film.mp4", frame=3))).files
    root = ElementTree.fromstring(files["cvat/annotations.xml"])
    declared = [label.findtext("name") for label in root.iter("label")]
    assert declared == ["bird", "beak", "left_wing", "right_wing"]
    assert {label.findtext("parent") for label in root.iter("label")} == {None, "bird"}
    [image] = root.iter("image")
    assert (image.get("name"), image.get("width"), image.get("height")) == (
        "day/a.jpg",
        "200",
        "100",
    )
    [skeleton] = image.iter("skeleton")
    points = [
        (p.get("label"), p.get("points"), p.get("occluded"), p.get("outside"))
        for p in skeleton.iter("points")
    ]
    assert points == [
        ("beak", "20.0000,10.0000", "0", "0"),
        ("left_wing", "60.0000,50.0000", "1", "0"),
        ("right_wing", "0,0", "0", "1"),
    ]
    frames = ElementTree.fromstring(files["cvat/film.xml"]).iter("image")
    assert [frame.get("name") for frame in frames] == ["frame_000003"]
    assert ElementTree.fromstring(files["cvat/film.xml"]).findtext("meta/task/source") == "film.mp4"
    # The editor's drawing of the skeleton has a line for each limb.
    drawing = ElementTree.fromstring(f"<svg>{root.findtext('meta/task/labels/label/svg')}</svg>")
    nodes = [
        (line.get("data-node-from"), line.get("data-node-to")) for line in drawing.iter("line")
    ]
    assert nodes == [("1", "2"), ("1", "3")]
    names = [node.get("data-label-name") for node in drawing.iter("circle")]
    assert names == ["beak", "left_wing", "right_wing"]


def test_label_studio_counts_in_percent_and_leaves_frames_out():
    written = label_studio_files(labels(picture(), picture("film.mp4", frame=3)))
    [task] = json.loads(written.files["label_studio/tasks.json"])
    assert task["data"]["image"] == "/data/local-files/?d=day/a.jpg"
    box, beak, wing = task["predictions"][0]["result"]
    assert {key: box["value"][key] for key in ("x", "y", "width", "height")} == {
        **{"x": 10, "y": 10, "width": 20, "height": 40},
    }
    assert (beak["value"]["x"], beak["value"]["y"]) == (10, 10)
    assert beak["value"]["keypointlabels"] == ["beak"]
    assert wing["parentID"] == box["id"]
    assert (beak["score"], task["predictions"][0]["score"]) == (0.9, 0.5)
    assert "1 frames of videos are left out" in written.notes[1]
    config = ElementTree.fromstring(written.files["label_studio/config.xml"])
    joints = [label.get("value") for label in config.find("KeyPointLabels")]
    assert joints == ["beak", "left_wing", "right_wing"]


def test_sleap_has_predicted_instances_on_photographs_and_videos():
    two = picture("film.mp4", frame=3, people=(PERSON, PERSON))
    data = sleap_files(labels(picture(), two)).files["sleap/predictions.slp"]
    with h5py.File(io.BytesIO(data)) as file:
        videos = [json.loads(text) for text in file["videos_json"][:]]
        frames, instances = file["frames"][:], file["instances"][:]
        points = file["pred_points"][:]
        metadata = json.loads(bytes(file["metadata"].attrs["json"]))
    assert videos[0]["backend"]["filename"] == "/birds/park/day/a.jpg"
    assert videos[0]["backend"]["filenames"] == ["/birds/park/day/a.jpg"]
    assert videos[1]["backend"]["filename"] == "/birds/park/film.mp4"
    assert frames["video"].tolist() == [0, 1]
    assert frames["frame_idx"].tolist() == [0, 3]
    assert frames["instance_id_end"].tolist() == [1, 3]
    # Predictions, which SLEAP shows for correction.
    assert instances["instance_type"].tolist() == [1, 1, 1]
    assert points["x"][:2].tolist() == [20, 60]
    assert np.isnan(points["x"][2])
    assert points["visible"][:3].tolist() == [True, True, False]
    assert [node["name"] for node in metadata["nodes"]] == list(BIRD.joints)
    kinds = [link["type"]["py/reduce"][1]["py/tuple"] for link in metadata["skeletons"][0]["links"]]
    # Two limbs, and a symmetry.
    assert kinds == [[1], [1], [2]]


def test_names_are_below_the_common_folder(tmp_path):
    def estimate(file: str, frame: int | None = None) -> Estimate:
        person = FoundPerson(joints=[[1, 2, 0.5]] * 3, center=[0, 0], scale=1, box=[0, 0, 4, 5])
        sizes = {"size": 1, "modified_ns": 1, "width": 30, "height": 20}
        return Estimate(file=file, people=[person], frame=frame, **sizes)

    results = Results(
        joint_set=BIRD,
        model={},
        estimates=[estimate(f"{tmp_path}/a/b/1.jpg"), estimate(f"{tmp_path}/a/2.mp4", 5)],
        failures=[],
        boxes=None,
        notes={},
    )
    ids = {(estimate.file, estimate.frame): 1 for estimate in results.estimates}
    found = labels_of(results, ids)
    assert found.root == tmp_path / "a"
    assert [picture.place for picture in found.pictures] == ["b/1.jpg", "2.mp4#5"]
    [person] = found.pictures[0].people
    assert (person.frame, person.score, person.states.tolist()) == ((0, 0, 4, 5), 0.5, [2, 2, 2])
    for write in FORMATS.values():
        assert write(results).files
