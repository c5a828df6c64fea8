"""The command that predicts, as it is typed; over a cluster in tests/cluster/test_cluster.py."""

import json
from pathlib import Path

import cv2
import pytest
from factories import checkpoint, film, photograph
from PIL import Image as PillowImage

import jobs.predict
from pipeline.inference.store import Store
from pipeline.run.cut import cut_checkpoint


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run's best checkpoint, three photographs and a video."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    checkpoint(tmp_path / "runs" / "pose" / "epoch_0001", {"pckh_0.5": 1.0})
    (tmp_path / "in").mkdir()
    for number in range(3):
        cv2.imwrite(f"in/{number}.jpg", photograph(seed=number))
    film(tmp_path / "in" / "film.avi", 4)
    return tmp_path


def run(*words: str) -> None:
    jobs.predict.main([*words, "--threads", "1", "--device", "cpu"])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    return ended.value.code, capsys.readouterr().err


def content(out: str = "out/predictions") -> dict:
    return json.loads(Path(out, "predictions.json").read_text())


def test_a_run_s_name_and_a_folder_are_enough(place, capsys):
    run("pose", "in")
    output = capsys.readouterr().out
    assert "epoch_0001: mpii, 16 joints, with flip test, decoding quarter" in output
    assert "3 images, 4 frames of 1 videos" in output
    assert "no --boxes: assuming one person a picture, who fills it" in output
    assert "7 people in 7 pictures" in output
    images = content()["images"]
    assert [(image["file"], image.get("frame")) for image in images] == [
        *(("in/0.jpg", None), ("in/1.jpg", None), ("in/2.jpg", None)),
        *(("in/film.avi", number) for number in range(4)),
    ]
    assert content()["model"]["checkpoint"] == "epoch_0001"
    assert {len(image["people"]) for image in images} == {1}


def test_the_network_is_cut_to_its_first_stacks(place, capsys):
    cut = cut_checkpoint(place / "runs" / "pose" / "epoch_0001", 1, place / "cuts")
    run("pose", "in/0.jpg", "--stacks", "1", "--exact")
    run(str(cut), "in/0.jpg", "--out", "cut", "--exact")
    run("pose", "in/0.jpg", "--out", "whole", "--exact")
    assert content()["model"]["checkpoint"] == "epoch_0001-stacks-1"
    assert content()["images"] == content("cut")["images"] != content("whole")["images"]
    capsys.readouterr()
    run("pose", "in/0.jpg", "--stacks", "1", "--exact")
    assert "1 of them were done before" in capsys.readouterr().out


def test_the_second_start_does_only_missing_parts(place, capsys, monkeypatch):
    run("pose", "in")
    first = content()
    cv2.imwrite("in/3.jpg", photograph(seed=3))
    capsys.readouterr()
    kept = []
    keep = Store.keep
    monkeypatch.setattr(
        Store, "keep", lambda self, found: (kept.extend(found.estimates), keep(self, found))
    )
    run("pose", "in")
    assert [estimate.file for estimate in kept] == ["in/3.jpg"]
    assert "7 of them were done before" in capsys.readouterr().out
    assert [image for image in content()["images"] if image["file"] != "in/3.jpg"] == first[
        "images"
    ]


def test_every_format_overlays_and_heatmaps_are_written(place):
    run("pose", "in", "--formats", "json", "csv", "coco", "mat", "--overlays", "--heatmaps")
    out = place / "out" / "predictions"
    assert {path.name for path in out.iterdir()} == {
        *("predictions.json", "predictions.csv", "predictions.mat"),
        *("coco_results.json", "coco_annotations.json"),
        *("overlays", "heatmaps", "parts", "job.json"),
    }
    drawn = cv2.imread(str(out / "overlays" / "in" / "1.jpg.png"))
    assert drawn.shape == (448, 560, 3)  # a frame of 250 pixels, enlarged to 700
    video = cv2.VideoCapture(str(out / "overlays" / "in" / "film.avi.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4
    kept = {str(path.relative_to(out / "heatmaps")) for path in out.glob("heatmaps/**/*.npz")}
    assert kept == {
        *(f"in/{number}.jpg-1.npz" for number in range(3)),
        *(f"in/film.avi/{number:06d}-1.npz" for number in range(4)),
    }


def test_an_unreadable_file_is_named_the_rest_is_done_and_the_status_is_1(place, capsys):
    Path("in/1.jpg").write_bytes(Path("in/1.jpg").read_bytes()[:900])
    Path("in/film.avi").write_bytes(b"no video")
    with pytest.raises(SystemExit) as ended:
        run("pose", "in")
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert "error: 2 files could not be read; all others are done" in captured.err
    assert "could not read in/film.avi: not a readable video" in captured.out
    assert "could not read in/1.jpg: damaged JPEG of 900 bytes" in captured.out
    assert [image["file"] for image in content()["images"]] == ["in/0.jpg", "in/2.jpg"]
    assert {failure["file"] for failure in content()["failures"]} == {"in/1.jpg", "in/film.avi"}
    # Mended, it is done by the next start.
    cv2.imwrite("in/1.jpg", photograph(seed=1))
    Path("in/film.avi").unlink()
    run("pose", "in")
    assert len(content()["images"]) == 3


def test_pictures_of_kinds_that_are_not_read_are_named_and_the_rest_is_done(place, capsys):
    Path("in/film.avi").unlink()
    Path("in/0.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Path("in/raw.CR2").write_bytes(b"II*\0")
    Path("in/notes.txt").touch()
    with pytest.raises(SystemExit) as ended:
        run("pose", "in")
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert "skipped: 1 files that are neither images nor videos" in captured.out
    assert "could not read in/0.HEIC: " in captured.out
    assert "HEIC image" in captured.out
    assert (
        "could not read in/raw.CR2: a kind of picture that is not read; convert it" in captured.out
    )
    assert captured.out.splitlines()[-1] == "in all: 3 people in 3 pictures; not read: 2 files"
    assert len(content()["images"]) == 3
    assert {failure["file"] for failure in content()["failures"]} == {"in/0.HEIC", "in/raw.CR2"}


def test_a_picture_that_is_too_large_is_left_out_until_the_bound_is_raised(place, capsys):
    cv2.imwrite("in/large.png", photograph(width=240, height=160))
    with pytest.raises(SystemExit) as ended:
        run("pose", "in/0.jpg", "in/large.png", "--max-pixels", "32000")
    assert ended.value.code == 1
    assert (
        "could not read in/large.png: an image of 240 x 160 pixels, expected at most 32,000 in "
        "all; --max-pixels is the bound"
    ) in capsys.readouterr().out
    assert [image["file"] for image in content()["images"]] == ["in/0.jpg"]
    run("pose", "in/0.jpg", "in/large.png", "--max-pixels", "38400", "--overlays")
    output = capsys.readouterr().out
    assert "1 of them were done before" in output
    assert output.splitlines()[-1] == "in all: 2 people in 2 pictures; not read: 0 files"


def test_kinds_that_packing_reads_are_predicted_too(place):
    picture = PillowImage.fromarray(photograph())
    names = ("a.gif", "b.jp2", "c.avif", "d.jfif", "e.ppm", "f.tga")
    for name in names:
        picture.save(Path("in") / name)
    picture.save("in/download", "PNG")
    run("pose", *(f"in/{name}" for name in names), "in/download")
    images = content()["images"]
    assert [image["file"] for image in images] == [*(f"in/{name}" for name in names), "in/download"]
    assert {(image["width"], image["height"]) for image in images} == {(200, 160)}


def test_people_come_from_boxes(place, capsys):
    Path("boxes.csv").write_text(
        "image,x,y,width,height\n0.jpg,0,0,90,90\n0.jpg,9,9,90,90\n9.jpg,0,0,9,9\n"
    )
    run("pose", "in/0.jpg", "in/1.jpg", "--boxes", "boxes.csv")
    output = capsys.readouterr().out
    assert "1 pictures of boxes.csv are not among the inputs: '9.jpg'" in output
    assert [len(image["people"]) for image in content()["images"]] == [2, 0]


def test_boxes_of_a_category_are_chosen_and_empty_ones_counted(place, capsys):
    rows = [(0, [0, 0, 90, 90]), (16, [9, 9, 90, 90]), (16, [9, 9, 0, 90])]
    entries = [{"image_id": "0", "category_id": one, "bbox": box} for one, box in rows]
    Path("boxes.json").write_text(json.dumps(entries))
    status, error = refused(capsys, "pose", "in/0.jpg", "--boxes", "boxes.json")
    assert status == 2
    assert "among 16 (2 entries), 0 (1 entries); give --boxes-category with an id" in error
    run("pose", "in/0.jpg", "--boxes", "boxes.json", "--boxes-category", "16")
    output = capsys.readouterr().out
    assert "1 entries of boxes.json are ignored: of no size" in output
    assert output.splitlines()[-1] == (
        "in all: 1 people in 1 pictures; not read: 0 files; boxes ignored: 2"
    )
    status, error = refused(
        capsys, "pose", "in/0.jpg", "--boxes", "boxes.json", "--boxes-category", "0"
    )
    assert status == 2
    assert "has results for boxes_category '16', expected '0'; give another folder" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pose"], "no INPUT is given, expected an image"),
        (["pose", "nowhere"], "INPUT='nowhere': no such file or folder"),
        (["pose", "in/0.JPG"], "INPUT='in/0.JPG': no such file or folder; did you mean 'in/0.jpg'"),
        (["pose", "in", "--max-pixels", "0"], "--max-pixels must be at least 1, got 0"),
        (["pose", "in", "--boxes-category", "3"], "--boxes-category 3 needs a file of --boxes"),
        (["nobody", "in"], "MODEL='nobody': no such folder, and none of this name in "),
        (["models:/pose@champion", "in"], "no such database"),
        (["pose", "in", "--weights", "ema"], "no ema.safetensors"),
        (["pose", "in", "--ray.workers", "-1"], "ray.workers must be at least 0, got -1"),
        (["pose", "in", "--boxes", "b.csv"], "b.csv: no such file"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(place, capsys, words, message):
    status, error = refused(capsys, *words)
    assert status == 2
    assert message in error
    assert not Path("out").exists()


def test_boxes_of_other_pictures_are_refused(place, capsys):
    Path("b.csv").write_text("image,x,y,width,height\nother.jpg,0,0,9,9\n")
    status, error = refused(capsys, "pose", "in", "--boxes", "b.csv")
    assert status == 2
    assert (
        "b.csv: none of its pictures is among the 4 inputs, such as 0.jpg; it has 'other.jpg'"
        in (error)
    )


def test_a_folder_of_another_model_is_refused(place, capsys):
    run("pose", "in/0.jpg")
    checkpoint(place / "other", **{"model.features": 16})
    status, error = refused(capsys, "other", "in/0.jpg")
    assert status == 2
    assert "--out out/predictions: has results for sha256 " in error
