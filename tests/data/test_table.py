"""Users' own joints: the joint-set file, the table, and the way from there to a trained network."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pyarrow
import pyarrow.parquet
import pytest
import torch
from factories import photograph
from PIL import Image as PillowImage

import jobs.evaluate
import jobs.inspect
from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.registry import read_annotations
from pipeline.data.formats.table import read_table
from pipeline.data.formats.table_cells import read_cells
from pipeline.data.packing import close_plan, open_plan, pack_shard
from pipeline.data.packing_plan import plan_packing
from pipeline.data.shards.index import Index
from pipeline.pose.joint_file import read_joint_file
from pipeline.pose.joint_set import JointSet, Measure
from pipeline.pose.person import Person, Visibility
from pipeline.run.checkpoint import write_checkpoint
from pipeline.run.metadata import read_metadata
from pipeline.run.plan import plan_training
from pipeline.settings import Settings
from pipeline.settings.packing import AnnotationFiles, PackSettings
from pipeline.training.metrics import evaluated_metrics
from pipeline.training.trainer import Task, Trainer

MISSING, OCCLUDED, VISIBLE = Visibility

HORSE = """
name = "horse"
joints = ["nose", "left_ear", "right_ear", "withers"]
flip_pairs = [["left_ear", "right_ear"]]
limbs = [["nose", "left_ear"], ["nose", "right_ear"], ["nose", "withers"]]
normaliser = ["nose", "withers"]
index_base = 0
"""
COLUMNS = ["image"] + [
    f"{name}_{a}" for name in ("nose", "left_ear", "right_ear", "withers") for a in "xy"
]
ROW = {
    "image": "a.jpg",
    **{"nose_x": 10, "nose_y": 20, "left_ear_x": 30, "left_ear_y": 5.5},
    **{"right_ear_x": 40, "right_ear_y": 6, "withers_x": 110, "withers_y": 60},
}
FRAME = {"center_x": 60, "center_y": 40, "scale": 0.7}
BOX = {"box_x": 8, "box_y": 4, "box_width": 120, "box_height": 80}


def toml_of(folder: Path, text: str = HORSE, **lines: str | None) -> Path:
    """Write a joint-set file: `text` with some of its lines replaced, added, or (None) left out."""
    kept = [line for line in text.strip().splitlines() if line.partition(" =")[0] not in lines]
    kept += [f"{name} = {value}" for name, value in lines.items() if value is not None]
    path = folder / "horse.toml"
    path.write_text("\n".join(kept) + "\n")
    return path


def csv_of(folder: Path, *rows: dict) -> Path:
    """Write a CSV table whose columns are those of the first row; None is an empty cell."""
    lines = [",".join(rows[0])]
    lines += [
        ",".join("" if row[name] is None else str(row[name]) for name in rows[0]) for row in rows
    ]
    path = folder / "horses.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def parquet_of(folder: Path, *rows: dict) -> Path:
    path = folder / "horses.parquet"
    table = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]})
    pyarrow.parquet.write_table(table, path)
    return path


def read(folder: Path, *rows: dict, **lines: str | None) -> Annotations:
    return read_table(csv_of(folder, *rows), read_joint_file(toml_of(folder, **lines)))


def read_one(folder: Path, **changes: object) -> Person:
    [person] = read(folder, ROW | changes).people
    return person


def refused(folder: Path, said: str, *rows: dict, **lines: str | None) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'{folder}/horses.csv: {said}')}$"):
        read(folder, *rows, **lines)


# The joint-set file


def test_a_joint_set_file_names_joints_pairs_limbs_and_measure(tmp_path):
    file = read_joint_file(toml_of(tmp_path))
    assert file.index_base == 0
    assert file.joint_set == JointSet(
        name="horse",
        joints=("nose", "left_ear", "right_ear", "withers"),
        flip_pairs=((1, 2),),
        limbs=((0, 1), (0, 2), (0, 3)),
        groups=(),
        in_mean=(0, 1, 2, 3),
        measures=(
            Measure(
                key="pck_segment",
                title="PCK-segment",
                normaliser="segment",
                segment=(0, 3),
                thresholds=(0.2, 0.1),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("normaliser", "headline", "metric", "thresholds"),
    [
        ('"head"', "PCKh@0.5", "pckh_0.5", (0.5, 0.1)),
        ('"box"', "PCK-box@0.05", "pck_box_0.05", (0.05, 0.2)),
        ('["withers", "nose"]', "PCK-segment@0.2", "pck_segment_0.2", (0.2, 0.1)),
        ('"oks"', "OKS AP", "coco_ap", (0.5, 0.75)),
    ],
)
def test_a_normaliser_makes_a_measure_with_its_usual_thresholds(
    tmp_path, normaliser, headline, metric, thresholds
):
    path = toml_of(tmp_path, normaliser=normaliser, sigmas="[0.05, 0.05, 0.05, 0.1]")
    [measure] = read_joint_file(path).joint_set.measures
    assert (measure.headline, measure.metric_name) == (headline, metric)
    assert measure.thresholds == thresholds


def test_thresholds_mean_groups_and_base_are_free_to_choose(tmp_path):
    path = toml_of(
        tmp_path,
        index_base="1",
        thresholds="[0.3, 0.05]",
        in_mean='["nose", "withers"]',
        groups='{ ear = ["left_ear", "right_ear"] }',
    )
    file = read_joint_file(path)
    assert file.index_base == 1
    assert file.joint_set.measures[0].thresholds == (0.3, 0.05)
    assert file.joint_set.in_mean == (0, 3)
    assert file.joint_set.groups == (("ear", (1, 2)),)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"limb": "[]"}, "joint set: unknown field 'limb'; did you mean 'limbs'?"),
        ({"colour": '"bay"'}, "joint set: unknown field 'colour'"),
        ({"joints": None}, "joint set: field 'joints' is absent"),
        ({"index_base": None}, "joint set: field 'index_base' is absent"),
        ({"normaliser": None}, "joint set: field 'normaliser' is absent"),
        (
            {"index_base": "2"},
            "index_base must be the number of the first pixel in the table, 0 or 1, got 2",
        ),
        (
            {"index_base": "true"},
            "index_base must be the number of the first pixel in the table, 0 or 1, got True",
        ),
        ({"name": "7"}, "name must be a string, got 7"),
        ({"joints": '"nose"'}, "joints must be a list, got 'nose'"),
        (
            {"limbs": '[["nose", "wither"]]'},
            "limbs[0][1]: unknown joint 'wither'; did you mean 'withers'?",
        ),
        ({"limbs": '["nose"]'}, "limbs[0] must be a list, got 'nose'"),
        ({"flip_pairs": '[["left_ear"]]'}, "flip_pairs[0] must be two joints, got ['left_ear']"),
        (
            {"flip_pairs": '[["left_ear", "right_ear"], ["left_ear", "nose"]]'},
            "flip_pairs must hold a joint once, got 'left_ear'",
        ),
        (
            {"normaliser": '"heads"'},
            "normaliser must be 'head', 'box', 'oks' or a list of two joints, got 'heads'; "
            "did you mean 'head'?",
        ),
        (
            {"normaliser": "3"},
            "normaliser must be 'head', 'box', 'oks' or a list of two joints, got 3",
        ),
        (
            {"normaliser": '["nose", "tail"]'},
            "normaliser[1]: unknown joint 'tail'",
        ),
        (
            {"normaliser": '["nose", "nose"]'},
            "segment must be two different joints, got the same twice",
        ),
        ({"thresholds": "[0.7]"}, "thresholds[0] must be hundredths from 0.01 to 0.5, got 0.7"),
        ({"thresholds": "0.2"}, "thresholds must be a list, got 0.2"),
        ({"thresholds": '["0.2"]'}, "thresholds[0] must be a finite number, got '0.2'"),
        ({"in_mean": '["ear"]'}, "in_mean[0]: unknown joint 'ear'"),
        (
            {"joints": '["nose", "left_ear", "right_ear", "withers", "left ear"]'},
            "joints[4] must be made of letters a-z, digits and '_', got 'left ear'",
        ),
        (
            {"flip_pairs": None},
            "flip_pairs lacks ['left_ear', 'right_ear'], which change places in a mirrored image",
        ),
        (
            {"flip_pairs": '[["left_ear", "nose"], ["right_ear", "withers"]]'},
            "flip_pairs lacks ['left_ear', 'right_ear'], which change places in a mirrored image",
        ),
    ],
)
def test_a_joint_set_file_with_a_mistake_is_refused_by_field(tmp_path, lines, said):
    path = toml_of(tmp_path, **lines)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {said}')}$"):
        read_joint_file(path)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("front_left_paw", "front_right_paw"),
        ("l_eye", "r_eye"),
        ("EyeL_L", "EyeL_R"),
        ("leftear", "rightear"),
        ("LeftEar", "RightEar"),
        ("earL", "earR"),
        ("LEFT_EAR", "RIGHT_EAR"),
        ("LF_paw", "RF_paw"),
        ("FL_paw", "FR_paw"),
        ("ear_left", "right_ear"),
        ("L_ear", "rightEar"),
        ("Lear", "Rear"),
        ("EarLTip", "EarRTip"),
        ("L1", "R1"),
    ],
)
def test_sides_are_known_by_any_part_of_a_name(tmp_path, left, right):
    lines = {
        "joints": json.dumps(["nose", left, right]),
        "limbs": "[]",
        "normaliser": '"head"',
        "flip_pairs": None,
    }
    path = toml_of(tmp_path, **lines)
    message = f"flip_pairs lacks ['{left}', '{right}'], which change places in a mirrored image"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_joint_file(path)
    lines["flip_pairs"] = json.dumps([[right, left]])
    assert read_joint_file(toml_of(tmp_path, **lines)).joint_set.mirror == (0, 2, 1)


@pytest.mark.parametrize(
    "joints",
    [
        ["rear", "left_ear", "nose"],
        ["tail", "rump", "nose"],
        ["left_ear", "right_eye", "nose"],
        ["upright", "up", "nose"],
    ],
)
def test_words_that_begin_like_a_side_are_no_sides(tmp_path, joints):
    lines = {"joints": json.dumps(joints), "limbs": None, "flip_pairs": None}
    read_joint_file(toml_of(tmp_path, **lines, normaliser='"box"'))


def test_a_flip_pair_of_one_side_is_refused(tmp_path):
    lines = {"joints": '["nose", "left_ear", "leftEye"]', "limbs": None, "normaliser": '"box"'}
    said = (
        "flip_pairs has ['left_ear', 'leftEye'], which are both left; expected joints that change "
        "places in a mirrored image"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        read_joint_file(toml_of(tmp_path, **lines, flip_pairs='[["left_ear", "leftEye"]]'))


def test_joints_without_sides_need_no_flip_pairs(tmp_path):
    lines = {"joints": '["nose", "left_ear"]', "limbs": None, "flip_pairs": None}
    file = read_joint_file(toml_of(tmp_path, **lines, normaliser='"box"'))
    assert file.joint_set.mirror == (0, 1)
    assert file.joint_set.limbs == ()


def test_a_joint_set_file_that_is_not_there_or_no_toml_is_refused(tmp_path):
    path = tmp_path / "horse.toml"
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: no such file$"):
        read_joint_file(path)
    path.write_text("name: horse\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: not readable as TOML: "):
        read_joint_file(path)


# The table


def test_a_row_is_a_person_whose_coordinates_are_kept_to_the_fraction(tmp_path):
    person = read_one(tmp_path)
    assert (person.image, person.person, person.key) == ("a.jpg", 0, "a_00")
    assert person.joints == ((10.0, 20.0), (30.0, 5.5), (40.0, 6.0), (110.0, 60.0))
    assert person.visibility == (VISIBLE,) * 4
    assert (person.head_size, person.box, person.image_size, person.split) == (None,) * 4


def test_the_frame_of_joints_alone_is_a_quarter_wider_than_their_box(tmp_path):
    person = read_one(tmp_path)
    # From 10 to 110 and from 5.5 to 60.
    assert person.center == (60.0, 32.75)
    assert person.scale == pytest.approx(1.25 * 100 / 200)


def test_the_frame_of_a_box_is_a_quarter_wider_and_goes_before_that_of_the_joints(tmp_path):
    person = read_one(tmp_path, **BOX)
    # From pixel edge 8 to 128: pixels 8 to 127, the middle 67.5.
    assert person.center == (67.5, 43.5)
    assert person.scale == pytest.approx(1.25 * 120 / 200)
    assert person.box == (8.0, 4.0, 120.0, 80.0)


def test_centre_and_scale_go_before_the_box(tmp_path):
    person = read_one(tmp_path, **BOX, **FRAME)
    assert (person.center, person.scale) == ((60.0, 40.0), 0.7)
    assert person.box == (8.0, 4.0, 120.0, 80.0)


def test_a_table_that_counts_from_one_becomes_zero_based_in_joints_centre_and_box(tmp_path):
    [person] = read(tmp_path, ROW | BOX | FRAME, index_base="1").people
    assert person.joints == ((9.0, 19.0), (29.0, 4.5), (39.0, 5.0), (109.0, 59.0))
    assert (person.center, person.scale) == ((59.0, 39.0), 0.7)
    assert person.box == (7.0, 3.0, 120.0, 80.0)
    [person] = read(tmp_path, ROW | BOX, index_base="1").people
    assert person.center == (66.5, 42.5)


def test_empty_coordinates_are_a_missing_joint(tmp_path):
    person = read_one(tmp_path, nose_x=None, nose_y=None, left_ear_x="NaN", left_ear_y="nan")
    assert person.visibility == (MISSING, MISSING, VISIBLE, VISIBLE)
    assert person.joints[0] == (0.0, 0.0)


def test_a_joint_at_zero_is_not_missing(tmp_path):
    person = read_one(tmp_path, nose_x=0, nose_y=0, left_ear_x=-3.5)
    assert person.visibility == (VISIBLE,) * 4
    assert person.joints[:2] == ((0.0, 0.0), (-3.5, 5.5))


@pytest.mark.parametrize(
    ("stated", "state"),
    [
        ("0", MISSING),
        ("1", OCCLUDED),
        ("2", VISIBLE),
        ("2.0", VISIBLE),
        ("missing", MISSING),
        ("Occluded", OCCLUDED),
        (" visible ", VISIBLE),
        (None, VISIBLE),
    ],
)
def test_visibility_is_a_number_or_a_word(tmp_path, stated, state):
    person = read_one(tmp_path, left_ear_visibility=stated)
    assert person.visibility == (VISIBLE, state, VISIBLE, VISIBLE)


def test_a_joint_without_coordinates_may_be_marked_as_missing(tmp_path):
    changes = {"nose_x": None, "nose_y": None, "nose_visibility": 0}
    assert read_one(tmp_path, **changes).visibility[0] is MISSING


def test_head_size_split_and_size_of_the_image_are_taken(tmp_path):
    row = {"head_size": 12.5, "split": "val", "image_width": 640, "image_height": 480.0}
    person = read_one(tmp_path, **row)
    assert (person.head_size, person.split, person.image_size) == (12.5, "val", (640, 480))
    empty = {"head_size": None, "image_width": None, "image_height": None}
    person = read_one(tmp_path, **row | empty)
    assert (person.head_size, person.image_size) == (None, None)


def test_people_are_counted_within_their_image_in_the_order_of_the_rows(tmp_path):
    rows = [ROW | {"image": name} for name in ("a.jpg", "b.jpg", "./a.jpg", "below/a.jpg")]
    people = read(tmp_path, *rows).people
    assert [(person.image, person.person) for person in people] == [
        ("a.jpg", 0),
        ("b.jpg", 0),
        ("a.jpg", 1),
        ("below/a.jpg", 0),
    ]


def test_people_may_have_numbers_of_their_own(tmp_path):
    rows = [ROW | {"person": number} for number in (7, 3)]
    assert [person.person for person in read(tmp_path, *rows).people] == [7, 3]


def test_people_whom_nothing_frames_are_counted_and_skipped(tmp_path):
    nobody = ROW | dict.fromkeys(COLUMNS[1:]) | dict.fromkeys(FRAME)
    one = nobody | {"nose_x": 5, "nose_y": 6}
    framed = one | FRAME
    annotations = read(tmp_path, framed, nobody, one, nobody | FRAME, ROW | dict.fromkeys(FRAME))
    assert [person.person for person in annotations.people] == [0, 4]
    assert annotations.people[0].visibility == (VISIBLE, MISSING, MISSING, MISSING)
    assert annotations.skipped == {
        "no annotated joint": 2,
        "one annotated joint, and neither centre nor box": 1,
    }


def test_lines_are_named_as_an_editor_counts_them(tmp_path):
    path = csv_of(tmp_path, ROW)
    header, row = path.read_text().splitlines()
    path.write_text(
        "\ufeff" + "\n".join([header, row, "", ",,,,,,,,", row.replace("20", "2O")]) + "\n"
    )
    file = read_joint_file(toml_of(tmp_path))
    message = f"{path}: line 5, column nose_y: expected a number, got '2O'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_table(path, file)
    path.write_text("\ufeff" + "\r\n".join([header, row, "", ",,,,,,,,", row]) + "\r\n")
    assert [person.person for person in read_table(path, file).people] == [0, 1]


def test_parquet_and_csv_give_the_same_people(tmp_path):
    full = ROW | BOX | FRAME
    full |= {"head_size": 12.5, "split": "val", "nose_visibility": "occluded", "person": 3}
    gaps = full | {"image": "b.jpg", "split": "train", "withers_x": None, "withers_y": None}
    gaps |= dict.fromkeys(BOX) | {"head_size": None, "nose_visibility": None}
    file = read_joint_file(toml_of(tmp_path, index_base="1"))
    from_csv = read_table(csv_of(tmp_path, full, gaps), file)
    assert [person.box is None for person in from_csv.people] == [False, True]
    assert from_csv == read_table(parquet_of(tmp_path, full, gaps), file)


def test_text_in_parquet_that_is_no_utf_8_is_refused_by_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": ["name.jpg"], "column": [1]}), path)
    whole = path.read_bytes()
    for part in (b"name.jpg", b"column"):
        path.write_bytes(whole.replace(part, b"\xff" * len(part)))
        with pytest.raises(ValueError, match=r"a\.parquet: not readable as Parquet: .*utf-8"):
            read_cells(path)


def test_parquet_as_pandas_writes_it_is_read_alike(tmp_path):
    columns = {name: [float("nan"), value] for name, value in ROW.items()} | {
        "image": ["a.jpg", "b.jpg"],
        "nose_x": [1.0, 2.0],
        "nose_y": [1.0, 2.0],
        "left_ear_x": [5.0, 2.0],
        "left_ear_y": [9.0, 2.0],
        "left_ear_visibility": [2.0, float("nan")],
        "__index_level_0__": [4, 9],
    }
    path = tmp_path / "horses.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    people = read_table(path, read_joint_file(toml_of(tmp_path))).people
    assert people[0].visibility == (VISIBLE, VISIBLE, MISSING, MISSING)
    assert people[1].visibility == (VISIBLE,) * 4


# Mistakes in a table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nose_x": "ten"}, "column nose_x: expected a number, got 'ten'"),
        ({"nose_x": "inf"}, "column nose_x: expected a number, got 'inf'"),
        ({"nose_x": "1_0"}, "column nose_x: expected a number, got '1_0'"),
        (
            {"nose_x": None},
            "column nose_x: expected a number, as in nose_y, or nothing in both, got nothing",
        ),
        (
            {"withers_y": "NaN"},
            "column withers_y: expected a number, as in withers_x, or nothing in both, got nothing",
        ),
        (
            {"nose_visibility": "hidden"},
            "column nose_visibility: expected one of 0, 1, 2, missing, occluded, visible, "
            "got 'hidden'",
        ),
        (
            {"nose_visibility": "3"},
            "column nose_visibility: expected one of 0, 1, 2, missing, occluded, visible, got '3'",
        ),
        (
            {"nose_x": None, "nose_y": None, "nose_visibility": "visible"},
            "column nose_visibility: expected missing, since nose_x and nose_y are empty, "
            "got 'visible'",
        ),
        (
            {"nose_x": None, "nose_y": None, "nose_visibility": "1"},
            "column nose_visibility: expected missing, since nose_x and nose_y are empty, got '1'",
        ),
        (
            {"image": None},
            "column image: expected the path of a photograph below --images, got nothing",
        ),
        (
            {"image": "/data/a.jpg"},
            "column image: expected the path of a photograph below --images, got '/data/a.jpg'",
        ),
        (
            {"image": "../a.jpg"},
            "column image: expected the path of a photograph below --images, got '../a.jpg'",
        ),
        ({"split": "test"}, "column split: expected train or val, got 'test'"),
        ({"split": None}, "column split: expected train or val, got nothing"),
        ({"person": "1.5"}, "column person: expected a whole number from 0, got '1.5'"),
        ({"person": "-1"}, "column person: expected a whole number from 0, got '-1'"),
        ({"person": None}, "column person: expected a whole number from 0, got nothing"),
        ({"head_size": "0"}, "column head_size: expected a number above 0, got '0'"),
        (BOX | {"box_y": None}, "column box_y: expected a number, got nothing"),
        (FRAME | {"scale": None}, "column scale: expected a number above 0, got nothing"),
        (FRAME | {"scale": "-0.5"}, "column scale: expected a number above 0, got '-0.5'"),
        (FRAME | {"center_x": "mid"}, "column center_x: expected a number, got 'mid'"),
        (
            {"image_width": "0", "image_height": 5},
            "column image_width: expected a whole number from 1, got '0'",
        ),
    ],
)
def test_a_cell_with_a_mistake_is_named(tmp_path, change, said):
    right = dict.fromkeys(change, 1) | {"image": "b.jpg"}
    right |= {"split": "val"} if "split" in change else {}
    refused(tmp_path, f"line 3, {said}", ROW | right, ROW | change)


def test_a_person_that_occurs_twice_is_refused(tmp_path):
    rows = [ROW | {"person": 1}, ROW | {"person": 0}, ROW | {"person": 1}]
    refused(tmp_path, "line 4: person 1 of a.jpg is on line 2 already, expected each once", *rows)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("left_eer_x", "unknown column 'left_eer_x'; did you mean 'left_ear_x'?"),
        ("boxx", "unknown column 'boxx'; did you mean 'box_x'?"),
        (
            "comment",
            "unknown column 'comment'; expected image, person, split, head_size, box_x, box_y, "
            "box_width, box_height, center_x, center_y, scale, image_width, image_height and, of "
            "each joint, NAME_x, NAME_y, NAME_visibility",
        ),
        (
            "box_x",
            "column 'box_y' is absent, expected all of box_x, box_y, box_width, box_height or none",
        ),
        ("scale", "column 'center_x' is absent, expected all of center_x, center_y, scale or none"),
        (
            "image_height",
            "column 'image_width' is absent, expected all of image_width, image_height or none",
        ),
        ("", "column 10 has no name; if it is pandas' index, write the table with index=False"),
    ],
)
def test_a_column_that_is_unknown_or_lacks_another_is_refused(tmp_path, extra, said):
    refused(tmp_path, said, ROW | {extra: 1})


@pytest.mark.parametrize("absent", ["image", "withers_y"])
def test_a_column_that_is_absent_is_named(tmp_path, absent):
    row = {name: value for name, value in ROW.items() if name != absent}
    refused(tmp_path, f"column '{absent}' is absent", row)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a header of columns, got none"),
        ("image;nose_x\na.jpg;1\n", "expected columns separated by commas, got semicolons"),
        ("image\tnose_x\na.jpg\t1\n", "expected columns separated by commas, got tabs"),
        ("image,nose_x,image\n", "column 'image' is there 2 times, expected once"),
        ("image,nose_x\na.jpg\n", "line 2: expected 2 cells as in the header, got 1"),
        (
            'image,nose_x\n"a\n.jpg",1\nb.jpg,1,\n',
            "line 4: expected 2 cells as in the header, got 3",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, said):
    path = tmp_path / "horses.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {said}')}$"):
        read_table(path, read_joint_file(toml_of(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("horses.xlsx", b"", "expected a table whose name ends in .csv or .parquet"),
        ("horses.csv", None, "no such file"),
        ("horses.csv", b"image,\xff\n", "not readable as CSV in UTF-8: "),
        ("horses.parquet", b"image,nose_x\n", "not readable as Parquet: "),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {said}')}"):
        read_table(path, read_joint_file(toml_of(tmp_path)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nose_x": True}, "column nose_x: expected a number, got True"),
        ({"image": 5}, "column image: expected the path of a photograph below --images, got 5"),
    ],
)
def test_a_cell_of_parquet_is_named_by_row(tmp_path, change, said):
    path = parquet_of(tmp_path, ROW | change)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: row 1, {said}')}$"):
        read_table(path, read_joint_file(toml_of(tmp_path)))


@pytest.mark.parametrize(
    ("normaliser", "columns"),
    [("head", {"head_size": None}), ("box", dict.fromkeys(BOX)), ("head", {}), ("box", {})],
)
def test_a_table_without_the_normaliser_of_its_measure_is_refused(tmp_path, normaliser, columns):
    named = "head_size" if normaliser == "head" else "box_x, box_y, box_width, box_height"
    said = (
        f"expected {named} of at least one person, since the joint-set file has normaliser = "
        f"'{normaliser}'; got none"
    )
    refused(tmp_path, said, ROW | columns, normaliser=f'"{normaliser}"')


def test_many_joints_at_the_corner_are_taken_for_a_mistake(tmp_path):
    zero = ROW | {"nose_x": 0, "nose_y": 0}
    assert len(read(tmp_path, *[zero] * 9).people) == 9
    refused(
        tmp_path,
        "10 of 40 joints that are not missing lie at (0, 0); expected empty cells, or the "
        "visibility missing, where a joint is not annotated, or missing = 0 in the joint-set file",
        *[zero] * 10,
    )
    said = ROW | {"nose_x": 0, "nose_y": 0, "nose_visibility": 0}
    assert len(read(tmp_path, *[said] * 10).people) == 10
    # One in a hundred joints, but no more than that.
    assert len(read(tmp_path, *[zero] * 10, *[ROW] * 241).people) == 251


def test_many_joints_before_the_first_pixel_are_taken_for_a_wrong_base(tmp_path):
    edge = ROW | {"left_ear_y": 0.5}
    assert len(read(tmp_path, *[edge] * 10, index_base="0").people) == 10
    assert len(read(tmp_path, *[edge] * 9, index_base="1").people) == 9
    refused(
        tmp_path,
        "10 of 40 joints have an x or y from 0 to 1, before the first pixel by index_base = 1 of "
        "the joint-set file; expected index_base = 0",
        *[edge] * 10,
        index_base="1",
    )
    below = ROW | {"left_ear_y": -0.5}
    assert len(read(tmp_path, *[below] * 10, index_base="1").people) == 10


def checked(folder: Path, *rows: dict, **lines: str | None) -> Annotations:
    """Read a table as packing does, with the checks of all sources."""
    files = AnnotationFiles(annotations=csv_of(folder, *rows), joint_set=toml_of(folder, **lines))
    return read_annotations("table", files)


GONE = ROW | {"nose_x": -1, "nose_y": -1}


@pytest.mark.parametrize("value", [-1, -999, 99999, -8388607])
def test_a_value_for_missing_joints_is_refused_with_the_setting_that_reads_it(tmp_path, value):
    gone = ROW | {"nose_x": value, "nose_y": value}
    said = (
        f"horses.csv: 2 of 8 joints that are not missing lie at ({value}, {value}); expected empty "
        f"cells where a joint is not annotated, or missing = {value} in the joint-set file"
    )
    with pytest.raises(ValueError, match=f"{re.escape(said)}$"):
        checked(tmp_path, gone, gone)
    people = checked(tmp_path, gone, gone, missing=str(value)).people
    assert [person.visibility[0] for person in people] == [MISSING, MISSING]
    assert people[0].visibility[1:] == (VISIBLE,) * 3


def test_one_joint_beyond_the_corner_may_be_true_unless_both_numbers_are_minus_one(tmp_path):
    beyond = ROW | {"nose_x": -2, "nose_y": -2}
    assert checked(tmp_path, beyond, ROW).people[0].joints[0] == (-2.0, -2.0)
    with pytest.raises(ValueError, match=r"1 of 8 joints that are not missing lie at \(-1, -1\)"):
        checked(tmp_path, GONE, ROW)


@pytest.mark.parametrize("name", ["box", "center"])
def test_a_joint_of_a_table_is_not_named_like_other_columns(tmp_path, name):
    toml = toml_of(tmp_path, joints=f'["nose", "left_ear", "right_ear", "withers", "{name}"]')
    # A labelling tool's file may name it so.
    assert read_joint_file(toml).joint_set.joints[-1] == name
    message = f"a joint of a table can't be named '{name}', since {name}_x and {name}_y are columns"
    with pytest.raises(ValueError, match=message):
        read_table(csv_of(tmp_path, ROW), read_joint_file(toml))


def test_a_joint_that_is_both_visible_and_missing_is_refused(tmp_path):
    refused(
        tmp_path,
        "line 2, column nose_visibility: expected missing, since nose_x and nose_y are -1, as "
        "missing joints', got 'visible'",
        GONE | {"nose_visibility": "visible"},
        missing="-1",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": 140.0}, "scale 140.0 of a.jpg does not fit its joints"),
        ({"scale": 0.0035}, "scale 0.0035 of a.jpg does not fit its joints"),
        ({"center_x": 900}, "scale 0.7 of a.jpg does not fit its joints"),
        ({"head_size": 0.1}, "head_size 0.1 of a.jpg does not fit its joints"),
        ({"head_size": 800.0}, "head_size 800.0 of a.jpg does not fit its joints"),
    ],
)
def test_frames_and_head_sizes_in_another_unit_than_the_joints_are_refused(tmp_path, change, said):
    row = ROW | FRAME | {"head_size": 20}
    with pytest.raises(ValueError, match=f"horses.csv: {re.escape(said)}, nor does it in 2 of 3 "):
        checked(tmp_path, row | change, row | change, row)
    assert len(checked(tmp_path, row | change, row).people) == 2


def test_joints_farther_than_any_picture_reaches_are_refused(tmp_path):
    said = "horses.csv: person 0 of a.jpg: nose is annotated at (1e+10, 20), expected pixels"
    with pytest.raises(ValueError, match=f"{re.escape(said)}$"):
        checked(tmp_path, ROW | {"nose_x": 1e10}, ROW)


SHARES = {name: value / 200 for name, value in ROW.items() if name != "image"} | {"image": "a.jpg"}
ADVICE = (
    "expected pixels, or unit = 'share' in the joint-set file (unit = 'pixels' if these are pixels)"
)


def test_shares_of_the_image_are_refused_with_the_setting_that_reads_them(tmp_path):
    said = "all joints of 2 of 3 people lie below 2 px, as shares of the image would; " + ADVICE
    with pytest.raises(ValueError, match=f"{re.escape(said)}$"):
        checked(tmp_path, SHARES, SHARES, ROW)
    assert len(checked(tmp_path, SHARES, SHARES, unit='"pixels"').people) == 2
    size = {"image_width": 200, "image_height": 400}
    person, _ = checked(tmp_path, SHARES | size, SHARES | size, unit='"share"').people
    # Shares of 200 and 400 pixels.
    assert person.joints[0] == (10.0, 40.0)
    assert person.joints[3] == pytest.approx((110, 120))


def test_a_column_of_shares_is_refused_by_its_joint(tmp_path):
    row = ROW | {"nose_x": 0.25}
    said = "x of nose lies below 2 px in all 10 people who have it, as shares of the image would; "
    with pytest.raises(ValueError, match=re.escape(said + ADVICE)):
        checked(tmp_path, *[row] * 10)
    assert len(checked(tmp_path, *[row] * 9).people) == 9
    assert len(checked(tmp_path, *[row] * 10, unit='"pixels"').people) == 10


def test_shares_come_with_the_sizes_that_they_are_of(tmp_path):
    said = (
        "unit = 'share' of the joint-set file needs the photographs' sizes: give their folder by "
        "--images, or the columns image_width and image_height"
    )
    refused(tmp_path, said, SHARES, unit='"share"')
    size = {"image_width": 200, "image_height": 400}
    with pytest.raises(ValueError, match=r"unit = 'share' .* takes no centre, got .* 'center_x'$"):
        checked(tmp_path, SHARES | FRAME | size, unit='"share"')
    with pytest.raises(ValueError, match=r"line 3, column image_height: expected .*, got nothing$"):
        checked(tmp_path, SHARES | size, SHARES | size | {"image_height": None}, unit='"share"')
    box = {"box_x": 0.1, "box_y": 0.2, "box_width": 0.5, "box_height": 0.25}
    person = checked(tmp_path, SHARES | box | size, ROW | box | size, unit='"share"').people[0]
    assert person.box == (20.0, 80.0, 100.0, 100.0)


@pytest.mark.parametrize(("unit", "whole"), [("share", 1), ("percent", 100)])
def test_parts_of_photographs_need_no_sizes_in_the_table(tmp_path, unit, whole):
    PillowImage.new("RGB", (200, 400)).save(tmp_path / "a.jpg")
    turned = PillowImage.Exif()
    turned[0x0112] = 6
    # Viewers show it as 100 x 300.
    PillowImage.new("RGB", (300, 100)).save(tmp_path / "b.jpg", exif=turned)
    parts = ROW | {"nose_x": 0.05 * whole, "nose_y": 0.25 * whole}
    files = AnnotationFiles(
        annotations=csv_of(tmp_path, *(parts | {"image": f"{name}.jpg"} for name in "abc")),
        joint_set=toml_of(tmp_path, unit=f'"{unit}"'),
        images=tmp_path,
    )
    first, second, absent = read_annotations("table", files).people
    assert (first.joints[0], first.image_size) == ((10.0, 100.0), (200, 400))
    assert (second.joints[0], second.image_size) == ((5.0, 75.0), (100, 300))
    # Packing leaves it out, and says so.
    assert absent.image_size is None
    _, second, _ = read_annotations("table", replace(files, exif="stored")).people
    assert (second.joints[0], second.image_size) == ((15.0, 25.0), (300, 100))


def percentages(folder: Path, images: int = 10, size: tuple[int, int] = (300, 200)) -> PackSettings:
    """A table of joints from 5 to 60, each in a photograph of its own."""
    rows = [ROW | {"image": f"{number}.png", "withers_x": 55} for number in range(images)]
    for number in range(images):
        PillowImage.new("RGB", size).save(folder / f"{number}.png")
    return PackSettings(
        source="table",
        images=folder,
        annotations=csv_of(folder, *rows),
        joint_set=toml_of(folder),
        out=folder / "packed",
        val_images=1,
    )


def test_percentages_of_the_image_are_refused_with_the_setting_that_reads_them(tmp_path):
    settings = percentages(tmp_path)
    said = (
        "horses.csv: 40 of 40 joints lie within the first 100 px of 10 images that are all larger, "
        "as percentages of the image would; expected pixels, or unit = 'percent' in the joint-set "
        "file (unit = 'pixels' if these are pixels)"
    )
    with pytest.raises(ValueError, match=f"{re.escape(said)}$"):
        plan_packing(settings)
    toml_of(tmp_path, unit='"pixels"')
    assert plan_packing(settings).people == 10
    toml_of(tmp_path, unit='"percent"')
    # 10 and 20 percent of 300 and 200 pixels.
    assert plan_packing(settings).jobs[0].people[0].joints[0] == pytest.approx((30, 40))


@pytest.mark.parametrize("change", [{"images": 9}, {"size": (300, 199)}])
def test_few_or_small_photographs_tell_nothing_of_percentages(tmp_path, change):
    assert plan_packing(percentages(tmp_path, **change)).people == change.get("images", 10)


def test_boxes_that_look_like_two_corners_are_noted(tmp_path):
    settings = percentages(tmp_path)
    corners = {"box_x": 5, "box_y": 2, "box_width": 299, "box_height": 150}
    rows = [ROW | corners | {"image": f"{number}.png"} for number in range(10)]
    csv_of(tmp_path, *rows)
    said = (
        "10 of 10 boxes would reach beyond their image: if they are two corners, make x, y, width "
        "and height of them"
    )
    assert said in plan_packing(settings).notes
    # One that is no corner: its width is less than its x.
    csv_of(tmp_path, *rows[:9], rows[9] | {"box_x": 200, "box_width": 90})
    assert said not in plan_packing(settings).notes


def test_joints_beyond_the_corner_of_a_photograph_are_pixels(tmp_path):
    settings = percentages(tmp_path)
    csv_of(tmp_path, *(ROW | {"image": f"{number}.png"} for number in range(10)))
    assert plan_packing(settings).people == 10


def test_a_box_without_a_size_leaves_the_frame_to_the_joints(tmp_path):
    framed = read_one(tmp_path)
    person = read_one(tmp_path, **BOX | {"box_width": 0})
    assert (person.box, person.center, person.scale) == (None, framed.center, framed.scale)


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999"])
def test_an_infinite_coordinate_is_refused_by_its_cell(tmp_path, cell):
    said = f"line 2, column nose_x: expected a number, got {cell!r}"
    refused(tmp_path, said, ROW | {"nose_x": cell})


def test_the_header_rows_of_deeplabcut_are_named_with_the_way_from_there(tmp_path):
    path = tmp_path / "CollectedData_me.csv"
    path.write_text("scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\na.jpg,1,2\n")
    said = (
        f"{path}: expected one row of column names, got DeepLabCut's rows scorer, bodyparts and "
        f"coords; give it as it is instead: python -m jobs.pack {path}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        read_table(path, read_joint_file(toml_of(tmp_path)))


# From a table to a trained network


@pytest.fixture
def settings(tmp_path) -> PackSettings:
    """A table of six horses in as many photographs, two of which validate."""
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for number in range(6):
        name, split = f"horse-{number}.jpg", "val" if number > 3 else "train"
        cv2.imwrite(str(images / name), photograph(seed=number))
        rows.append(ROW | {"image": name, "split": split, "nose_visibility": "occluded"})
    return PackSettings(
        source="table",
        images=images,
        annotations=csv_of(tmp_path, *rows),
        joint_set=toml_of(tmp_path),
        out=tmp_path / "out",
        people_per_shard=2,
    )


def pack(settings: PackSettings) -> Index:
    plan = plan_packing(settings)
    open_plan(plan)
    return close_plan(plan, [pack_shard(settings, job) for job in plan.jobs])


def training_settings(folder: Path) -> Settings:
    return Settings.from_flat(
        {
            "data.train": f"{folder}/train-*.tar",
            "data.val": f"{folder}/val-*.tar",
            "model.stacks": 1,
            "model.features": 8,
            "model.input_px": 64,
            "optim.batch_size": 2,
            "optim.epochs": 1,
            "ray.storage": f"{folder}/runs",
        }
    )


def test_the_index_holds_joint_set_sums_and_base(settings):
    index = pack(settings)
    assert Index.read(settings.out) == index
    assert index.joint_set == read_joint_file(settings.joint_set).joint_set
    assert sorted(index.annotations) == ["horse.toml", "horses.csv"]
    assert index.conventions == {
        "split": "auto",
        "val_images": 500,
        "seed": 0,
        "index_base": 0,
        "center_adjusted": False,
        "exif": "auto",
    }
    assert index.source == "table"
    assert {name: counts["people"] for name, counts in index.splits().items()} == {
        "train": 4,
        "val": 2,
    }


def test_another_joint_set_file_is_another_dataset(settings):
    pack(settings)
    assert open_plan(plan_packing(settings)) is None
    toml_of(settings.joint_set.parent, index_base="1")
    with pytest.raises(ValueError, match=r"holds another dataset; choose an empty folder$"):
        open_plan(plan_packing(settings))


def test_head_boxes_are_not_for_a_table(settings):
    with pytest.raises(ValueError, match=r"^--head-boxes heads\.mat: table takes none$"):
        plan_packing(replace(settings, head_boxes=Path("heads.mat")))


@pytest.mark.slow
def test_joints_of_ones_own_are_trained_saved_restored_and_measured(
    settings, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pack(settings)
    joint_set = read_joint_file(settings.joint_set).joint_set
    plan = plan_training(training_settings(settings.out))
    assert plan.joint_set == joint_set
    assert plan.settings.model.joints == 4
    assert plan.settings.ray.name.startswith("horse-s1m1-")
    assert plan.measure.metric_name == "pck_segment_0.2"
    task = Task(
        settings=plan.settings.flat(),
        joint_set=plan.joint_set.to_json(),
        train=plan.train.paths,
        val=plan.val.paths,
    )
    trainer = Trainer(task, 0, 1, torch.device("cpu"))
    list(trainer.train_epoch(every_s=1e9))
    metrics = evaluated_metrics(trainer, *trainer.evaluate_people())
    assert {"pck_segment_0.2", "pck_segment_0.1/left_ear", "pck_segment_auc"} <= set(metrics)
    folder = plan.folder / "epoch_0001"
    folder.mkdir(parents=True)
    write_checkpoint(folder, trainer.state.snapshot(metrics))
    assert read_metadata(folder).joint_set == joint_set
    assert plan_training(training_settings(settings.out)).is_complete
    second = Trainer(task, 0, 1, torch.device("cpu"))
    second.state.restore(folder)
    assert second.state.progress.epochs == 1

    shards = [f"--data.{name}={settings.out}/{name}-*.tar" for name in ("val", "train")]
    jobs.evaluate.main(
        ["--checkpoint", str(folder), *shards, "--threads", "1", "--figures", str(tmp_path / "f")]
    )
    said = capsys.readouterr().out
    # All horses stand alike, so the mean of those to train on is exact.
    assert said.count("withers") == 2
    assert re.search(r"constant pose\n.*PCK-segment@0.2.*\nnose +100.00", said)
    assert (tmp_path / "f" / "overlay.png").exists()

    jobs.inspect.main([f"{settings.out}/*.tar", "--out", str(tmp_path / "card")])
    assert "table, joint set horse: 6 people in 6 images" in capsys.readouterr().out
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert card["joints"]["nose"] == {"missing": 0, "occluded": 6, "visible": 0, "outside": 0}
