"""Inputs, boxes, parts and output files of a prediction."""

import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from factories import checkpoint, film, photograph, touched

from pipeline.data.formats.mpii import read_mpii_predictions
from pipeline.data.photographs.video import Video, count_frames
from pipeline.inference.batch_predictor import Estimator, Options, file_name
from pipeline.inference.boxes.files import read_boxes
from pipeline.inference.drawing import draw_people, enlargement
from pipeline.inference.formats.coco import image_ids
from pipeline.inference.formats.registry import FORMATS
from pipeline.inference.formats.tables import Results
from pipeline.inference.results import Estimate, Failure, Found, FoundPerson, Part
from pipeline.inference.sources import MediaFile, find_sources
from pipeline.inference.store import Store, spans
from pipeline.pose.joint_sets import MPII

# Inputs


def test_inputs_are_files_folders_and_globs_each_file_once(tmp_path):
    a, b, film, _, _ = touched(
        tmp_path, "b/a.jpg", "b/deep/b.PNG", "c.mp4", "b/notes.txt", "b/.hidden.jpg"
    )
    found = find_sources([str(film), str(tmp_path / "b"), str(tmp_path / "**/*.jpg"), str(a)])
    assert [source.path for source in found.files] == [film, a, b]
    assert [source.is_video for source in found.files] == [True, False, False]
    assert found.others == 1


def test_a_name_in_another_unicode_form_is_the_same_file(tmp_path):
    [path] = touched(tmp_path, "ange\u0301lique/a.jpg")
    [found] = find_sources([str(tmp_path / "ang\u00e9lique")]).files
    assert found.path == path


def test_pictures_of_kinds_that_are_not_read_are_listed(tmp_path):
    a, raw, _ = touched(tmp_path, "a.jpg", "b.NEF", "notes.txt")
    found = find_sources([str(tmp_path)])
    assert ([source.path for source in found.files], found.unread, found.others) == ([a], (raw,), 1)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("b.nef", "INPUT='{0}/b.nef': expected an image"),
        (
            "Notes.txt",
            "INPUT='{0}/Notes.txt': no such file or folder; did you mean '{0}/notes.txt'",
        ),
        ("none.jpg", "INPUT='{0}/none.jpg': no such file or folder"),
        ("*.jpeg", "INPUT='{0}/*.jpeg': no file matches"),
        ("*.txt", "INPUT='{0}/*.txt': none of the 1 files is an image (.apng, "),
        ("empty", "INPUT='{0}/empty': none of the 0 files is an image (.apng, "),
        ("notes.txt", "INPUT='{0}/notes.txt': expected an image (.apng, "),
    ],
)
def test_an_input_that_means_nothing_is_refused(tmp_path, word, said):
    touched(tmp_path, "notes.txt", "b.nef")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"^{re.escape(said.format(tmp_path))}"):
        find_sources([str(tmp_path / word)])


# Videos


def test_frames_are_read_from_any_number(tmp_path):
    path = film(tmp_path / "f.avi", 9)
    assert count_frames(path) == 9
    video = Video(path)
    read = [
        (number, round(float(image.mean(axis=(0, 1))[0]))) for number, image in video.frames(3, 5)
    ]
    assert read == [(3, pytest.approx(60, abs=2)), (4, pytest.approx(80, abs=2))]
    assert [number for number, _ in video.frames(7, 99)] == [7, 8]
    with pytest.raises(ValueError, match="not a readable video"):
        count_frames(tmp_path / "none.avi")


# Parts


def estimate(file: str, **changes) -> Estimate:
    person = FoundPerson(
        joints=[[float(k), 2.0 * k, 0.5] for k in range(16)], center=[4.0, 5.0], scale=0.25
    )
    made = {"size": 1, "modified_ns": 2, "width": 30, "height": 20, "people": [person]}
    return Estimate(file=file, **(made | changes))


def source(path: str, **changes) -> MediaFile:
    return MediaFile(path=Path(path), **({"size": 1, "modified_ns": 2} | changes))


def test_a_part_has_a_stretch_of_frames_of_bounded_length():
    assert spans([0, 1, 2, 5, 6, 9]) == [(0, 3), (5, 7), (9, 10)]
    assert spans(range(600)) == [(0, 256), (256, 512), (512, 600)]


def test_only_missing_or_changed_parts_are_to_be_done(tmp_path):
    sources = [source("a.jpg"), source("b.jpg"), source("c.jpg"), source("f.mp4")]
    store = Store(tmp_path / "out")
    store.open({})
    assert [part.pictures() for part in store.missing(sources, {Path("f.mp4"): 4})] == [3, 4]
    store.keep(Found(estimates=[estimate("c.jpg"), estimate("a.jpg")]))
    store.keep(
        Found(
            estimates=[estimate("f.mp4", frame=2), estimate("f.mp4", frame=0)],
            failures=[Failure(file="b.jpg", why="damaged")],
        )
    )
    left = store.missing(sources, {Path("f.mp4"): 4})
    assert [part.frames for part in left] == [None, (1, 2), (3, 4)]
    assert [s.path.name for s in left[0].sources] == ["b.jpg"]
    known = [(e.file, e.frame) for e in store.estimates(sources)]
    assert known == [("a.jpg", None), ("c.jpg", None), ("f.mp4", 0), ("f.mp4", 2)]
    changed = [source("a.jpg", modified_ns=3), source("c.jpg", size=9)]
    assert [s.path.name for part in store.missing(changed, {}) for s in part.sources] == [
        *("a.jpg", "c.jpg")
    ]


def test_a_folder_that_was_begun_otherwise_is_refused(tmp_path):
    Store(tmp_path).open({"weights": "raw"})
    Store(tmp_path).open({"weights": "raw"})
    with pytest.raises(ValueError, match="has results for weights 'raw', expected 'ema'; give"):
        Store(tmp_path).open({"weights": "ema"})


def test_a_part_and_its_result_are_plain_data():
    part = Part(sources=(source("a.mp4"),), frames=(3, 9))
    assert Part.from_json(json.loads(json.dumps(part.to_json()))) == part
    found = Found(estimates=[estimate("a", frame=3)], failures=[Failure(file="b", why="c")])
    assert Found.from_json(json.loads(json.dumps(found.to_json())), "found") == found


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("estimates",), None, "estimates must be a list, got None"),
        (("estimates", 0), 3, "estimates[0] must be a table of fields, got 3"),
        (
            ("estimates", 0, "size"),
            "3",
            "estimates[0].size must be a whole number of",
        ),
        (
            ("estimates", 0, "frame"),
            0.5,
            "estimates[0].frame must be a whole number of",
        ),
        (
            ("estimates", 0, "people", 0, "scale"),
            None,
            "people[0].scale must be a finite number",
        ),
        (("estimates", 0, "people", 0, "joints", 1), [1, 2], "joints[1] must have 3 numbers, got"),
        (("estimates", 0, "people", 0, "box"), [1], "people[0].box must have 4 numbers, got [1]"),
        (("estimates", 0, "people", 0, "colour"), 1, "people[0]: unknown field 'colour'"),
        (("failures", 0), {"file": "b"}, "failures[0]: field 'why' is absent"),
    ],
)
def test_a_part_s_file_that_was_changed_is_refused_by_field(tmp_path, place, value, said):
    content = Found(estimates=[estimate("a")], failures=[Failure(file="b", why="c")]).to_json()
    *above, last = place
    changed = content
    for key in above:
        changed = changed[key]
    changed[last] = value
    store = Store(tmp_path)
    store.open({})
    (tmp_path / "parts" / "000001.json").write_text(json.dumps(content))
    expected = f"000001.json: .*{re.escape(said)}.*; without this file its pictures are predicted"
    with pytest.raises(ValueError, match=expected):
        store.estimates([source("a")])


def test_other_files_beside_the_parts_are_left_alone(tmp_path):
    store = Store(tmp_path)
    store.open({})
    (tmp_path / "parts" / "1-copy.json").write_text("{")
    store.keep(Found(estimates=[estimate("a")]))
    assert [found.file for found in store.estimates([source("a")])] == ["a"]


def test_a_job_file_that_was_changed_is_refused(tmp_path):
    Store(tmp_path).open({})
    (tmp_path / "job.json").write_text("[]")
    with pytest.raises(ValueError, match=r"job\.json: must be an object, got \[\]"):
        Store(tmp_path).open({})


def test_names_of_files_stay_within_their_folder():
    assert file_name("a/b.jpg") == "a/b.jpg"
    assert file_name("/a/../b.jpg", person=2) == "a/b.jpg-2"
    assert file_name("../../f.mp4", 7, 1) == "f.mp4/000007-1"


# Estimating


def options(root: Path, **changes) -> Options:
    return Options(root=root, **changes)


def test_an_unreadable_file_is_a_failure_and_the_rest_is_done(tmp_path):
    checkpoint(tmp_path / "c")
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), photograph(seed=number))
    (tmp_path / "2.png").write_bytes(b"broken")
    sources = tuple(source(f"{number}.png") for number in range(6))
    estimator = Estimator(tmp_path / "c", options(tmp_path, threads=2, heatmaps=True))
    found = estimator.estimate(Part(sources=sources))
    assert [e.file for e in found.estimates] == ["0.png", "1.png", "3.png", "4.png"]
    assert [(e.width, e.height, len(e.people)) for e in found.estimates] == [(200, 160, 1)] * 4
    assert [(f.file, f.why) for f in found.failures] == [
        ("2.png", "not a readable image (6 bytes)"),
        ("5.png", "No such file or directory"),
    ]
    assert sorted(found.files) == [f"heatmaps/{n}.png-1.npz" for n in (0, 1, 3, 4)]
    kept = np.load(io.BytesIO(found.files["heatmaps/3.png-1.npz"]))
    assert kept["heatmaps"].shape == (16, 16, 16)
    highest = kept["heatmaps"].max(axis=(1, 2)).astype(float)
    assert highest == pytest.approx(np.array(found.estimates[2].people[0].joints)[:, 2], abs=1e-3)
    # Alone or among others, a picture's joints are the same.
    [alone] = estimator.estimate(Part(sources=(sources[3],))).estimates
    assert np.array(alone.people[0].joints) == pytest.approx(
        np.array(found.estimates[2].people[0].joints), abs=1e-3
    )


def test_each_box_is_a_person_and_a_picture_without_boxes_has_none(tmp_path):
    checkpoint(tmp_path / "c")
    pictures = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in pictures:
        cv2.imwrite(str(path), photograph())
    (tmp_path / "boxes.csv").write_text(
        "image,x,y,width,height\na.jpg,0,0,200,160\na.jpg,50,40,60,80\n"
    )
    boxes = read_boxes(tmp_path / "boxes.csv").matched(pictures)
    found = find_sources([str(path) for path in pictures])
    framed = Estimator(tmp_path / "c", options(tmp_path, boxes=boxes)).estimate(
        Part(sources=found.files)
    )
    whole = Estimator(tmp_path / "c", options(tmp_path)).estimate(Part(sources=found.files[:1]))
    first, second = framed.estimates[0].people
    assert framed.estimates[1].people == []
    assert (first.box, second.box) == ([0, 0, 200, 160], [50, 40, 60, 80])
    assert np.array(first.joints) == pytest.approx(
        np.array(whole.estimates[0].people[0].joints), abs=1e-3
    )
    assert np.abs(np.array(first.joints) - np.array(second.joints)).max() > 1


def test_the_frames_of_a_video_are_pictures_and_missing_ones_are_reported(tmp_path):
    checkpoint(tmp_path / "c")
    path = film(tmp_path / "f.avi", 5)
    estimator = Estimator(tmp_path / "c", options(tmp_path))
    whole = estimator.estimate(Part(sources=(source(path.name),), frames=(0, 5)))
    assert [(e.frame, e.width, e.height) for e in whole.estimates] == [
        (n, 64, 48) for n in range(5)
    ]
    assert [e.time_s for e in whole.estimates] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {e.frames_per_s for e in whole.estimates} == {10.0}
    rest = estimator.estimate(Part(sources=(source(path.name),), frames=(3, 9)))
    assert [e.frame for e in rest.estimates] == [3, 4]
    assert [e.time_s for e in rest.estimates] == pytest.approx([0.3, 0.4])
    assert rest.estimates[0].people[0].center == whole.estimates[3].people[0].center
    assert [f.why for f in rest.failures] == ["ends after 5 frames, fewer than its header states"]


# Files


def written(kind: str, results: Results) -> tuple[str, bytes]:
    """Return the name and content of a format's first file."""
    return next(iter(FORMATS[kind](results).files.items()))


def results(*estimates: Estimate) -> Results:
    failures = [Failure(file="z.jpg", why="damaged")]
    return Results(
        joint_set=MPII,
        model={"checkpoint": "epoch_0001"},
        estimates=estimates,
        failures=failures,
        boxes=None,
        notes={},
    )


def test_json_has_joints_by_name_and_failures():
    name, data = written("json", results(estimate("a.jpg"), estimate("f.mp4", frame=3, people=[])))
    content = json.loads(data)
    assert name == "predictions.json"
    [image, frame] = content["images"]
    assert (image["file"], image["width"], image["height"]) == ("a.jpg", 30, 20)
    assert "frame" not in image
    assert image["people"][0]["joints"]["left_wrist"] == [15.0, 30.0, 0.5]
    assert image["people"][0]["confidence"] == 0.5
    assert (frame["frame"], frame["people"]) == (3, [])
    assert content["failures"] == [{"file": "z.jpg", "why": "damaged"}]


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_are_no_utf_8_or_would_act_lose_no_file(kind):
    names = ("not-utf-8-\udcff.jpg", "=cmd.jpg", "esc-\x1b[2J.jpg", "line\nend.jpg")
    written = FORMATS[kind](results(*map(estimate, names)))
    assert (
        all(b"=cmd" not in line[:4] for line in written.files["predictions.csv"].splitlines())
        if kind == "csv"
        else all(written.files.values())
    )


def test_csv_has_a_row_per_person():
    _, data = written("csv", results(estimate("a,b.jpg"), estimate("empty.jpg", people=[])))
    head, row, *rest = data.decode().splitlines()
    assert rest == []
    assert head.startswith("file,frame,time_s,person,x,y,width,height,score,confidence,right_ank")
    assert row.startswith('"a,b.jpg",,,1,,,,,,0.5,0.0,0.0,0.5,1.0,2.0,0.5,')
    assert len(head.split(",")) == 10 + 48


def test_coco_s_results_go_by_the_numbers_of_the_pictures():
    person = estimate("x").people[0]
    scored = FoundPerson(joints=person.joints, center=[0, 0], scale=1, score=0.5)
    _, data = written("coco", results(estimate("000012.jpg", people=[person, scored])))
    [first, second] = json.loads(data)
    assert (first["image_id"], first["category_id"], first["score"]) == (12, 1, 0.5)
    assert first["keypoints"][:6] == [0.0, 0.0, 0.5, 1.0, 2.0, 0.5]
    assert len(first["keypoints"]) == 48
    assert second["score"] == 0.25


def test_pictures_without_numbers_of_their_own_are_counted():
    pictures = [estimate("x1.jpg"), estimate("y1.jpg"), estimate("f.mp4", frame=0)]
    assert list(image_ids(pictures, None).values()) == [1, 2, 3]
    assert list(image_ids(pictures[:1], None).values()) == [1]
    assert list(image_ids([estimate("x30.jpg"), estimate("y4.jpg")], None).values()) == [30, 4]


def test_matlab_s_file_counts_pixels_from_one_and_is_scored_as_it_is(tmp_path):
    two = estimate("b.jpg", people=estimate("x").people * 2)
    name, data = written("mat", results(estimate("a.jpg"), two, estimate("c.jpg", people=[])))
    (tmp_path / name).write_bytes(data)
    preds = read_mpii_predictions(tmp_path / name, people=3)
    assert preds[2, 15].tolist() == [16.0, 31.0]
    read = scipy.io.loadmat(tmp_path / name, struct_as_record=False, squeeze_me=True)
    assert [str(entry.image.name) for entry in read["annolist"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [np.size(entry.annorect) for entry in read["annolist"]] == [1, 2, 0]
    point = read["annolist"][1].annorect[1].annopoints.point[15]
    assert (point.x, point.y, point.id, point.score) == (16.0, 31.0, 15, 0.5)
    assert read["annolist"][0].annorect.objpos.x == 5.0
    assert list(read["joint_names"])[9] == "head_top"


# Pictures


def test_joints_are_drawn_where_they_are_in_the_enlarged_picture():
    joints = [[10.0, 10.0, 0.9]] * 15 + [[30.0, 40.0, 0.25]]
    person = FoundPerson(joints=joints, center=[25, 25], scale=0.25)
    drawn = draw_people(np.zeros((50, 60, 3), np.uint8), [person], MPII, 10.0)
    assert drawn.shape == (500, 600, 3)
    # left_wrist, in orange; (30, 40) enlarged tenfold as an area.
    assert drawn[404, 304].tolist() == [255, 127, 14]
    assert drawn[450, 500].tolist() == [0, 0, 0]


def test_a_picture_is_enlarged_until_names_fit_but_not_beyond_measure():
    person = estimate("a").people[0]  # a frame of 50 pixels
    assert enlargement(100, [person]) == 14.0
    assert enlargement(1000, [person]) == 2.0
    assert enlargement(4000, [person]) == 1.0
    assert enlargement(100, []) == 1.0
