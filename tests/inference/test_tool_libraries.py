"""Files for labelling tools, read by the tools' own libraries, or checked by their rules."""

import contextlib
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from factories import BIRD
from test_round_trip import BIRDS

from pipeline.inference.formats.coco import coco_files
from pipeline.inference.formats.label_studio import label_studio_files
from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture
from pipeline.inference.formats.sleap import sleap_files
from pipeline.inference.formats.yolo import yolo_files


def labels(*pictures: Picture) -> Labels:
    ids = {picture.place: number for number, picture in enumerate(pictures, start=7)}
    return Labels(joint_set=BIRD, root=Path("/birds"), pictures=pictures, image_ids=ids)


def picture(name: str, people=BIRDS, frame: int | None = None) -> Picture:
    return Picture(name=name, width=200, height=100, people=people, frame=frame)


def test_pycocotools_finds_the_people_of_coco_files_and_scores_them_fully(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    written = coco_files(labels(picture("a.jpg"), picture("b.jpg", people=BIRDS[:1])))
    for name, content in written.files.items():
        (tmp_path / name).write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(tmp_path / "coco_annotations.json"))
        results = truth.loadRes(str(tmp_path / "coco_results.json"))
        found = evaluation.COCOeval(truth, results, "keypoints")
        found.params.kpt_oks_sigmas = np.array([0.05, 0.05, 0.05])
        found.evaluate()
        found.accumulate()
        found.summarize()
    assert truth.loadCats(1)[0]["skeleton"] == [[1, 2], [1, 3]]
    assert [len(truth.getAnnIds(imgIds=image)) for image in (7, 8)] == [2, 1]
    # The predictions are the truth, so that average precision is full.
    assert found.stats[0] == pytest.approx(1)


def test_sleap_io_reads_the_instances_of_photographs_and_videos(tmp_path):
    sleap_io = pytest.importorskip("sleap_io")
    written = sleap_files(labels(picture("day/a.jpg"), picture("film.mp4", frame=3)))
    path = tmp_path / "predictions.slp"
    path.write_bytes(written.files["sleap/predictions.slp"])
    found = sleap_io.load_slp(str(path), open_videos=False)
    [skeleton] = found.skeletons
    assert skeleton.node_names == list(BIRD.joints)
    assert skeleton.edge_names == [("beak", "left_wing"), ("beak", "right_wing")]
    assert [set(pair) for pair in skeleton.symmetry_names] == [{"left_wing", "right_wing"}]
    assert found.videos[0].filename == ["/birds/day/a.jpg"]
    assert found.videos[1].filename == "/birds/film.mp4"
    assert [frame.frame_idx for frame in found] == [0, 3]
    for frame in found:
        assert [instance.score for instance in frame.instances] == [0.5, 0.5]
        for instance, bird in zip(frame.instances, BIRDS, strict=True):
            expected = np.where(bird.states[:, None] == 0, np.nan, bird.joints)
            np.testing.assert_array_equal(instance.numpy(), expected)


def test_a_sequence_of_pictures_that_sleap_io_writes_is_read(tmp_path):
    sleap_io = pytest.importorskip("sleap_io")
    from pipeline.data.formats.registry import read_annotations, recognise
    from pipeline.settings.packing import AnnotationFiles

    written = sleap_files(labels(*(picture(f"{n}.jpg") for n in range(3))))
    path = tmp_path / "again.slp"
    path.write_bytes(written.files["sleap/predictions.slp"])
    sleap_io.load_slp(str(path), open_videos=False).save(str(path), verbose=False)
    name, path, _ = recognise(path)
    again = read_annotations(name, AnnotationFiles(annotations=path, predictions=True))
    assert [person.image for person in again.people] == [
        f"/birds/{n}.jpg" for n in range(3) for _ in BIRDS
    ]


def test_ultralytics_would_pass_over_no_picture():
    # Rules of verify_image_label in ultralytics/data/utils.py 8.4.
    outside = LabelledPerson(
        joints=np.array([[-2.5, 10.0], [201.5, 101.0], [230.0, 50.0]]),
        states=np.array([2, 2, 2]),
        confidence=np.ones(3),
        box=(-20.0, -10.0, 260.0, 130.0),
    )
    written = yolo_files(labels(picture("a.jpg", people=[*BIRDS, outside])))
    data = yaml.safe_load(written.files["yolo/data.yaml"])
    joints, values = data["kpt_shape"]
    assert sorted(data["flip_idx"]) == list(range(joints))
    rows = [line.split() for line in written.files["yolo/labels/a.txt"].decode().splitlines()]
    table = np.array(rows, np.float32)
    assert table.shape == (3, 5 + joints * values)
    points = table[:, 5:].reshape(-1, values)[:, :2]
    assert points.max() <= 1.01
    assert table.min() >= -0.01
    assert table[:, 3:5].min() >= 0
    assert table[:, 0].max() < len(data["names"])
    # Two joints lie further outside; the box ends at the picture's sides.
    assert table[2, [7, 10, 13]].tolist() == [0, 2, 0]
    assert table[2, 1:5].tolist() == [0.5, 0.5, 1, 1]
    assert "2 joints outside their pictures are left out" in written.notes[1]


def test_label_studio_would_accept_each_region():
    # Rules of LabelInterface.validate_prediction in label-studio-sdk 2.1.
    written = label_studio_files(labels(picture("a.jpg"), picture("b.jpg", people=[])))
    config = ElementTree.fromstring(written.files["label_studio/config.xml"])
    [image] = config.iter("Image")
    controls = {
        control.get("name"): control
        for control in config
        if control.tag in ("KeyPointLabels", "RectangleLabels")
    }
    for task in json.loads(written.files["label_studio/tasks.json"]):
        assert image.get("value") == "$image"
        assert set(task["data"]) == {"image"}
        [prediction] = task["predictions"]
        assert isinstance(prediction["model_version"], str)
        assert 0 <= prediction["score"] <= 1
        ids = [region["id"] for region in prediction["result"]]
        assert len(ids) == len(set(ids))
        for region in prediction["result"]:
            control = controls[region["from_name"]]
            assert region["type"] == control.tag.lower()
            assert region["to_name"] == control.get("toName") == image.get("name")
            known = {label.get("value") for label in control}
            assert set(region["value"][region["type"]]) <= known
            assert 0 <= region["score"] <= 1
