"""The command that measures a checkpoint in a detector's boxes, as it is typed."""

import json
from pathlib import Path

import cv2
import pytest
from factories import checkpoint, photograph

import jobs.evaluate
import jobs.predict
from pipeline.pose.joint_sets import COCO

BOXES = {11: [5, 5, 90, 100], 12: [20, 10, 80, 90]}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a checkpoint, two photographs, and a detector's boxes."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "c", joint_set=COCO)
    (tmp_path / "in").mkdir()
    rows, detections = ["image,x,y,width,height"], []
    for number, box in BOXES.items():
        name = "one" if number == 11 else "two"
        cv2.imwrite(f"in/{name}.jpg", photograph(seed=number))
        rows.append(f"{name}.jpg,{','.join(map(str, box))}")
        score = 0.9 if number == 11 else 0.0
        detections.append({"image_id": number, "category_id": 1, "bbox": box, "score": score})
    # Of an image that nobody annotated.
    detections.append({"image_id": 13, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1.0})
    Path("boxes.csv").write_text("\n".join(rows))
    Path("boxes.json").write_text(json.dumps(detections))
    words = ["c", "in", "--boxes", "boxes.csv", "--exact", "--formats", "coco"]
    jobs.predict.main([*words, "--out", "found", "--threads", "1", "--device", "cpu"])
    return tmp_path


def truth(moved: float = 0.0) -> None:
    """Annotate what the network found, that of the second photograph moved."""
    content = json.loads(Path("found/coco_annotations.json").read_text())
    for record in content["images"]:
        record["id"] = 11 if record["file_name"] == "one.jpg" else 12
    for number, record in enumerate(content["annotations"]):
        record["image_id"] = 11 + number
        if number:
            for place in range(0, 51, 3):
                record["keypoints"][place] += moved
    Path("truth.json").write_text(json.dumps(content))


def run(*words: str) -> dict:
    options = ["--threads", "1", "--device", "cpu", "--json", "scores.json"]
    jobs.evaluate.main(
        ["c", "--boxes", "boxes.json", "--truth", "truth.json", "--images", "in", *options, *words]
    )
    return json.loads(Path("scores.json").read_text())


def test_boxes_of_a_detector_are_evaluated_by_average_precision(place, capsys):
    truth()
    assert run()["oks"]["ap"] == pytest.approx(100)
    output = capsys.readouterr().out
    assert "boxes of 1 other images are ignored" in output
    assert "network, by OKS, 2 boxes of boxes.json, 2 people" in output
    truth(moved=1000)
    # The better box is right: full precision at 51 of the 101 recalls. The other's score is 0.
    assert run()["oks"]["ap"] == pytest.approx(100 * 51 / 101)


def test_images_without_a_file_of_their_own_are_refused(place, capsys):
    truth()
    content = json.loads(Path("truth.json").read_text())
    del content["images"][1]["file_name"]
    Path("truth.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        run()
    assert "--truth names 1 files for 2 images, expected a file_name of its own for each" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["c"],
            "--data or --data.val is required: a packed folder or validation shards; or ",
        ),
        (["c", "--boxes", "b.json"], "--truth and --images missing, expected all of --boxes"),
        (["c", "--data.val", "v", "--boxes", "b.json"], "--data.val: give shards, or --boxes"),
        (
            ["c", "--boxes", "b", "--truth", "t", "--images", "i", "--people", "p"],
            "--people: needs the shards of --data.val, not --boxes",
        ),
    ],
)
def test_shards_and_boxes_are_told_apart(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        jobs.evaluate.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_photographs_that_are_missing_are_named(place, capsys):
    truth()
    Path("in/two.jpg").unlink()
    with pytest.raises(SystemExit):
        run()
    assert "--images in lacks 1 of the 2 images of --truth, such as two.jpg" in (
        capsys.readouterr().err
    )
