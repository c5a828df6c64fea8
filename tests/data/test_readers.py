"""Annotation readers: every trap of the formats, in files of their genuine structure."""

import copy
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.coco import read_coco as read_files
from pipeline.data.formats.mpii import read_mpii_hrnet, read_mpii_json, with_head_sizes
from pipeline.data.formats.pose_h5 import read_mpii_h5
from pipeline.data.formats.registry import SOURCES, read_annotations
from pipeline.pose.geometry import frame_box
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Visibility
from pipeline.settings.packing import AnnotationFiles

MISSING, OCCLUDED, VISIBLE = Visibility


def mpii_record(**changes) -> dict:
    """A person as pytorch-pose's file has it: numbers are floats, the first pixel is 1."""
    joints = [[101.0 + k, 201.0 + 2 * k, 1.0] for k in range(16)]
    record = {
        "dataset": "MPI",
        "isValidation": 0.0,
        "img_paths": "015601864.jpg",
        "img_width": 1280.0,
        "img_height": 720.0,
        "objpos": [594.0, 257.0],
        "joint_self": joints,
        "scale_provided": 3.0,
        "joint_others": [[895.0, 293.0, 1.0]] * 16,
        "scale_provided_other": 2.472,
        "objpos_other": [952.0, 222.0],
        "annolist_index": 5.0,
        "people_index": 2.0,
        "numOtherPeople": 1.0,
    }
    return copy.deepcopy(record | changes)


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_truth(path: Path, joints: np.ndarray, missing: np.ndarray, boxes: np.ndarray) -> Path:
    """Write detections_our_format.mat from (N, 16, 2), (N, 16) and (N, 2, 2)."""
    scipy.io.savemat(
        path,
        {
            "pos_gt_src": joints.transpose(1, 2, 0),
            "jnt_missing": missing.T.astype(np.uint8),
            "headboxes_src": boxes.transpose(1, 2, 0),
        },
    )
    return path


# MPII as pytorch-pose re-packaged it


def read_one(tmp_path: Path, **changes):
    path = write_json(tmp_path / "mpii_annotations.json", [mpii_record(**changes)])
    return read_mpii_json(path).people[0]


def test_mpii_pixels_become_zero_based(tmp_path):
    person = read_one(tmp_path)
    assert person.joints[0] == (100.0, 200.0)
    assert person.joints[15] == (115.0, 230.0)
    assert person.person == 1
    assert person.image == "015601864.jpg"
    assert person.image_size == (1280, 720)
    assert person.key == "015601864_01"


def test_the_centre_of_mpii_is_adjusted_once(tmp_path):
    person = read_one(tmp_path)
    # 257 + 15 * 3, and both coordinates from 1-based to 0-based.
    assert person.center == (593.0, 301.0)
    assert person.scale == 3.75


def test_missing_occluded_and_visible_are_three_states(tmp_path):
    joints = mpii_record()["joint_self"]
    joints[1] = [0.0, 0.0, 0.0]
    joints[2] = [647.0, 188.0, 0.0]
    joints[3] = [0.0, 50.0, 1.0]
    joints[4] = [50.0, 0.0, 0.0]
    joints[5] = [-12.0, 30.0, 1.0]
    person = read_one(tmp_path, joint_self=joints)
    assert person.visibility[:6] == (VISIBLE, MISSING, OCCLUDED, VISIBLE, OCCLUDED, VISIBLE)
    # On and beyond the border a joint is kept where it is.
    assert person.joints[3] == (-1.0, 49.0)
    assert person.joints[5] == (-13.0, 29.0)


def test_fractions_of_a_pixel_are_kept(tmp_path):
    joints = mpii_record()["joint_self"]
    joints[8] = [637.02, 189.818, 1.0]
    assert read_one(tmp_path, joint_self=joints).joints[8] == pytest.approx((636.02, 188.818))


def test_the_split_of_mpii_is_the_files_own_with_training_first(tmp_path):
    path = write_json(
        tmp_path / "a.json",
        [mpii_record(isValidation=1.0, img_paths="b.jpg"), mpii_record(img_paths="a.jpg")],
    )
    people = read_mpii_json(path).people
    assert [(person.image, person.split) for person in people] == [
        ("a.jpg", "train"),
        ("b.jpg", "val"),
    ]


def test_a_gzipped_file_is_read_alike(tmp_path):
    path = tmp_path / "mpii_annotations.json.gz"
    path.write_bytes(gzip.compress(json.dumps([mpii_record()]).encode()))
    assert read_mpii_json(path).people == [read_one(tmp_path)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"joint_self": [[1, 2, 1]] * 14},
            "entry 1: joint_self has shape (14, 3), expected (16, 3)",
        ),
        (
            {"joint_self": "none"},
            "entry 1: joint_self: expected numbers of shape (16, 3), got 'none'",
        ),
        ({"scale_provided": 0}, "entry 1: scale_provided must be above 0, got 0"),
        ({"objpos": [5.0]}, "entry 1: objpos has shape (1,), expected (2,)"),
        (
            {"objpos": [5.0, float("nan")]},
            "entry 1: objpos: expected finite numbers, got [5.0, nan]",
        ),
        ({"img_paths": None}, "entry 1: img_paths must be a path, got None"),
        ({"people_index": None}, "entry 1: people_index: expected finite numbers, got None"),
        ({"isValidation": []}, "entry 1: isValidation has shape (0,), expected ()"),
        (
            {"img_width": [640]},
            "entry 1: img_width and img_height: expected numbers of shape (2,), got [[640], ",
        ),
    ],
)
def test_a_bad_field_of_mpii_is_named_with_its_entry(tmp_path, change, message):
    path = write_json(tmp_path / "a.json", [mpii_record(), mpii_record(**change)])
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_mpii_json(path)


def test_an_image_of_mpii_without_a_size_has_none(tmp_path):
    assert read_one(tmp_path, img_width=None).image_size is None


def test_an_absent_field_of_mpii_is_named_with_its_entry(tmp_path):
    record = mpii_record()
    del record["objpos"]
    path = write_json(tmp_path / "a.json", [record])
    with pytest.raises(ValueError, match=re.escape(f"{path}: entry 0: field 'objpos' is absent")):
        read_mpii_json(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: no such file"):
        read_mpii_json(tmp_path / "a.json")
    broken = tmp_path / "b.json"
    broken.write_text("[1, 2")
    with pytest.raises(ValueError, match=r"b\.json: not readable as JSON: Expecting"):
        read_mpii_json(broken)
    cut = tmp_path / "c.json.gz"
    cut.write_bytes(gzip.compress(b"[" + b"1," * 1000)[:-12])
    with pytest.raises(ValueError, match=r"c\.json\.gz: not readable as JSON: "):
        read_mpii_json(cut)
    other = write_json(tmp_path / "d.json", {"images": []})
    with pytest.raises(ValueError, match=r"d\.json: expected a list of people, got dict"):
        read_mpii_json(other)


# Head sizes


def validation_people(tmp_path: Path, count: int):
    """People whose joints all lie 300 pixels further than those of the one before."""
    records = [
        mpii_record(
            isValidation=1.0,
            img_paths=f"{number}.jpg",
            joint_self=[[300.0 * number + k + 1, 10.0 * k + 1, 1.0] for k in range(16)],
        )
        for number in range(count)
    ]
    return write_json(tmp_path / "val.json", records), records


def truth_of(tmp_path: Path, records: list[dict]) -> Path:
    joints = np.array([record["joint_self"] for record in records])[..., :2]
    # Boxes 30 wide and 40 high: the diagonal is 50.
    boxes = np.array([[[100.0, 100.0], [130.0, 140.0]]] * len(records))
    return write_truth(tmp_path / "truth.mat", joints, np.zeros((len(records), 16)), boxes)


def test_a_head_size_is_three_fifths_of_the_head_boxs_diagonal(tmp_path):
    path, records = validation_people(tmp_path, 2)
    people = read_mpii_json(path, truth_of(tmp_path, records)).people
    assert [person.head_size for person in people] == [pytest.approx(30.0)] * 2
    assert read_mpii_json(path).people[0].head_size is None


def test_people_of_the_training_split_have_no_head_size(tmp_path):
    _, records = validation_people(tmp_path, 1)
    both = write_json(tmp_path / "both.json", [mpii_record(), *records])
    people = read_mpii_json(both, truth_of(tmp_path, records)).people
    assert people[0].head_size is None
    assert people[1].head_size == pytest.approx(30.0)


def test_head_sizes_in_another_order_are_refused(tmp_path):
    path, records = validation_people(tmp_path, 3)
    truth = truth_of(tmp_path, [records[0], records[2], records[1]])
    with pytest.raises(
        ValueError,
        match=r"truth\.mat: person 1 is not 1_01 of the annotations \(joints 150 px apart, "
        r"expected at most 2.5\)",
    ):
        read_mpii_json(path, truth)


def test_more_people_than_head_sizes_are_refused(tmp_path):
    path, records = validation_people(tmp_path, 3)
    with pytest.raises(ValueError, match=r"truth\.mat: 2 people, expected at least 3"):
        read_mpii_json(path, truth_of(tmp_path, records[:2]))


def test_a_truth_file_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "truth.mat"
    scipy.io.savemat(path, {"pos_gt_src": np.zeros((14, 2, 5))})
    with pytest.raises(
        ValueError, match=re.escape("pos_gt_src has shape (14, 2, 5), expected (16, 2, N)")
    ):
        with_head_sizes([], path)


# MPII as HRNet re-packaged it


def hrnet_record(**changes) -> dict:
    record = {
        "joints_vis": [1] * 16,
        "joints": [[101.0 + k, 201.0 + 2 * k] for k in range(16)],
        "image": "015601864.jpg",
        "scale": 3.0,
        "center": [594.0, 257.0],
    }
    return copy.deepcopy(record | changes)


def test_hrnets_file_holds_the_same_person_as_pytorch_poses(tmp_path):
    path = write_json(tmp_path / "valid.json", [hrnet_record()])
    person, other = read_mpii_hrnet(path).people[0], read_one(tmp_path)
    assert (person.joints, person.center, person.scale) == (other.joints, other.center, other.scale)
    assert person.split is None


def test_hrnets_missing_joint_is_recognised_by_its_flag(tmp_path):
    joints, flags = hrnet_record()["joints"], [1] * 16
    joints[0], flags[0] = [-1.0, -1.0], 0
    joints[1] = [-1.0, -1.0]
    joints[2] = [0.0, 12.0]
    path = write_json(tmp_path / "valid.json", [hrnet_record(joints=joints, joints_vis=flags)])
    person = read_mpii_hrnet(path).people[0]
    assert person.visibility[:4] == (MISSING, VISIBLE, VISIBLE, VISIBLE)
    assert person.joints[2] == (-1.0, 11.0)


def test_hrnets_people_are_numbered_within_their_image(tmp_path):
    names = ("a.jpg", "b.jpg", "a.jpg")
    path = write_json(tmp_path / "valid.json", [hrnet_record(image=name) for name in names])
    assert [person.key for person in read_mpii_hrnet(path).people] == ["a_00", "b_00", "a_01"]


# COCO


def read_coco(path: Path) -> Annotations:
    return read_files(AnnotationFiles(annotations=path))


PERSON = {"id": 1, "name": "person", "keypoints": list(COCO.joints)}


def coco_file(path: Path, *people: dict) -> Path:
    annotations = [
        {
            "id": number,
            "image_id": 785,
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": 17,
            # Two of one place would be one person.
            "keypoints": [n for k in range(17) for n in (100 + k, 200 + k + number, 2)],
            "bbox": [50.0, 60.0, 80.0, 160.0 + number],
            "area": 1.0,
        }
        | person
        for number, person in enumerate(people)
    ]
    images = [{"id": 785, "file_name": "000000000785.jpg", "width": 640, "height": 425}]
    return write_json(path, {"images": images, "annotations": annotations, "categories": [PERSON]})


def test_coco_pixels_are_zero_based_already(tmp_path):
    person = read_coco(coco_file(tmp_path / "a.json", {})).people[0]
    assert person.joints[0] == (100.0, 200.0)
    assert person.joints[16] == (116.0, 216.0)
    assert person.image_size == (640, 425)
    assert person.head_size is None


def test_the_frame_of_coco_is_a_quarter_wider_than_the_box(tmp_path):
    person = read_coco(coco_file(tmp_path / "a.json", {})).people[0]
    assert person.box == (50.0, 60.0, 80.0, 160.0)
    # A box from pixel edge 50 to 130 covers pixels 50 to 129: their middle is 89.5.
    assert person.center == (89.5, 139.5)
    assert person.scale == 1.0


@pytest.mark.parametrize(("area", "expected"), [(2500.5, 2500.5), (None, None), (0, None)])
def test_the_area_of_coco_is_kept(tmp_path, area, expected):
    assert read_coco(coco_file(tmp_path / "a.json", {"area": area})).people[0].area == expected


def test_the_three_states_of_coco_are_kept(tmp_path):
    keypoints = [0, 0, 0, 367, 81, 1, 0, 75, 2] + [10, 10, 2] * 14
    person = read_coco(coco_file(tmp_path / "a.json", {"keypoints": keypoints})).people[0]
    assert person.visibility[:4] == (MISSING, OCCLUDED, VISIBLE, VISIBLE)
    assert person.joints[2] == (0.0, 75.0)


def test_crowds_and_unlabelled_people_of_coco_are_counted_and_skipped(tmp_path):
    unlabelled = {"keypoints": [0] * 51, "num_keypoints": 0}
    path = coco_file(tmp_path / "a.json", {}, {"iscrowd": 1}, unlabelled, {})
    annotations = read_coco(path)
    assert [person.key for person in annotations.people] == ["000000000785_00", "000000000785_01"]
    assert annotations.skipped == {"crowd": 1, "no labelled joint": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1, 1, 2] * 16}, "keypoints has 48 numbers, expected 51"),
        ({"image_id": 7}, "image_id 7 is not among the images"),
        ({"keypoints": [1, 1, 3] * 17}, "visibility must be 0, 1 or 2, got 3"),
        ({"image_id": None}, "image_id must be a number or a name, got None"),
        ({"image_id": [785]}, "image_id must be a number or a name, got [785]"),
        ({"category_id": 3}, "category_id 3 is not among the categories"),
        ({"bbox": [1, 1, 5]}, "bbox has shape (3,), expected (4,)"),
        ({"bbox": [1, 1, float("nan"), 5]}, "bbox: expected finite numbers, got [1, 1, nan, 5]"),
        ({"bbox": "1 1 5 5"}, "bbox: expected numbers of shape (4,), got '1 1 5 5'"),
        ({"keypoints": "none"}, "keypoints must be a list of numbers, got 'none'"),
        (
            {"keypoints": [float("nan"), 1, 2] + [1, 1, 2] * 16},
            "keypoints of nose, which is labelled: expected finite numbers, got [nan, 1]",
        ),
        (
            {"keypoints": [1, 1, 2] * 16 + [None, None, 1]},
            "keypoints of right_ankle, which is labelled: expected finite numbers, got "
            "[None, None]",
        ),
    ],
)
def test_a_bad_annotation_of_coco_is_named(tmp_path, change, message):
    path = coco_file(tmp_path / "a.json", {}, change)
    with pytest.raises(ValueError, match=re.escape(f"{path}: annotations[1]: {message}")):
        read_coco(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bbox", None), ("bbox", []), ("bbox", [0, 0, 0, 0]), ("bbox", [50, 60, 80, -1])],
)
def test_a_person_of_coco_without_a_box_has_that_of_the_joints(tmp_path, field, value):
    annotations = read_coco(coco_file(tmp_path / "a.json", {field: value}))
    [person] = annotations.people
    # Joints from (100, 200) to (116, 216): a square of 1.25 times 16 pixels.
    assert person.box == (100, 200, 16, 16)
    assert (person.center, person.scale) == ((108.0, 208.0), 0.1)
    assert annotations.notes[0] == "1 people have no box of a size: that of their joints stands in"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoints": None}, "no keypoints"),
        ({"keypoints": []}, "no keypoints"),
        ({"keypoints": [5, 5, 2] + [0] * 48, "bbox": None}, "one labelled joint and no box"),
    ],
)
def test_an_annotation_of_coco_without_enough_joints_is_counted(tmp_path, change, reason):
    annotations = read_coco(coco_file(tmp_path / "a.json", {}, change))
    assert (len(annotations.people), annotations.skipped) == (1, {reason: 1})


def test_other_things_than_people_are_counted_and_need_no_keypoints(tmp_path):
    path = coco_file(tmp_path / "a.json", {})
    content = json.loads(path.read_text())
    content["annotations"].append(
        {"id": 9, "image_id": 785, "category_id": 2, "bbox": [1, 1, 9, 9]}
    )
    content["categories"].append({"id": 2, "name": "car"})
    annotations = read_coco(write_json(path, content))
    assert (len(annotations.people), annotations.skipped) == (1, {"no keypoints": 1})


def test_a_joint_without_coordinates_or_label_is_missing(tmp_path):
    keypoints = [None, None, 0, None, None, None] + [100, 200, 2, 110, 220, 2] + [0] * 39
    [person] = read_coco(coco_file(tmp_path / "a.json", {"keypoints": keypoints})).people
    assert person.visibility == (MISSING, MISSING, VISIBLE, VISIBLE, *[MISSING] * 13)


@pytest.mark.parametrize(
    "image", [{"width": None}, {"width": 0, "height": 0}, {"height": None}, {}]
)
def test_an_image_of_coco_without_a_size_has_none(tmp_path, image):
    path = coco_file(tmp_path / "a.json", {})
    content = json.loads(path.read_text())
    sizes = {"width": 640, "height": 425} if image else {}
    content["images"] = [{"id": 785, "file_name": "000000000785.jpg"} | sizes | image]
    assert read_coco(write_json(path, content)).people[0].image_size is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", None, "images must be a list, got None"),
        ("annotations", {}, "annotations must be a list, got {}"),
        ("annotations", [None], "annotations[0] must be an object, got None"),
        ("images", [{"id": 1, "file_name": None}], "images[0]: file_name must be a path, got None"),
        (
            "images",
            [{"id": True, "file_name": "a.jpg"}],
            "images[0]: id must be a number or a name, got True",
        ),
        (
            "images",
            [{"id": 1, "file_name": "a.jpg", "width": 1.5, "height": 2}],
            "images[0]: width and height must be whole numbers above 0, got 1.5 and 2",
        ),
    ],
)
def test_a_bad_list_of_coco_is_named(tmp_path, field, value, message):
    path = coco_file(tmp_path / "a.json", {})
    content = json.loads(path.read_text()) | {field: value}
    with pytest.raises(ValueError, match=re.escape(message)):
        read_coco(write_json(path, content))


def of_categories(path: Path, *categories: dict) -> Path:
    content = json.loads(coco_file(path, {}).read_text()) | {"categories": list(categories)}
    return write_json(path, content)


def test_keypoints_that_nothing_names_are_refused_with_the_way_out(tmp_path):
    path = of_categories(tmp_path / "a.json", {"id": 1, "name": "dog", "keypoints": None})
    message = f"{path}: annotations[0] has keypoints, but its category dog names none; expected"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*--joint-set FILE"):
        read_coco(path)
    path = of_categories(tmp_path / "b.json")
    with pytest.raises(ValueError, match="there are no categories, expected one whose keypoints"):
        read_coco(path)


def test_a_joint_set_file_names_the_joints_of_a_coco_file_that_names_none(tmp_path):
    path = of_categories(tmp_path / "a.json")
    joint_set = tmp_path / "own.toml"
    names = [f"joint{k}" for k in range(17)]
    joint_set.write_text(
        f"name = 'own'\njoints = {names}\nnormaliser = ['joint0', 'joint9']\nindex_base = 0\n"
    )
    annotations = read_files(AnnotationFiles(annotations=path, joint_set=joint_set))
    assert annotations.joint_set.joints == tuple(names)
    assert annotations.people[0].joints[16] == (116.0, 216.0)


def test_cocos_names_are_known_in_any_spelling(tmp_path):
    spelled = [name.title().replace("_", " ") for name in COCO.joints]
    path = of_categories(tmp_path / "a.json", {"id": "1", "name": "person", "keypoints": spelled})
    assert len(read_coco(path).people) == 1


def test_categories_of_other_joints_need_a_choice(tmp_path):
    dog = {"id": 2, "name": "dog", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    path = of_categories(tmp_path / "a.json", PERSON, dog)
    content = json.loads(path.read_text())
    of_dog = {"category_id": 2, "keypoints": [10, 20, 2, 40, 60, 1]}
    content["annotations"] += [content["annotations"][0] | {"id": 8} | of_dog]
    write_json(path, content)
    message = (
        f"{path}: categories differ in their joints: person (17 joints, 1 figures), dog (2 joints, "
        "1 figures); choose one by --category NAME"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_coco(path)
    found = read_files(AnnotationFiles(annotations=path, category="dog"))
    assert found.joint_set.joints == ("nose", "tail")
    assert found.joint_set.limbs == ((0, 1),)
    assert found.people[0].joints == ((10.0, 20.0), (40.0, 60.0))
    assert found.people[0].visibility == (VISIBLE, OCCLUDED)
    assert found.skipped == {"other category": 1}
    message = f"--category dig: {path} has person, dog; did you mean 'dog'?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_files(AnnotationFiles(annotations=path, category="dig"))
    del content["annotations"][0]["category_id"]
    with pytest.raises(ValueError, match="category_id must be a number or a name, got None"):
        read_coco(write_json(path, content))


def test_categories_of_the_same_joints_are_one_joint_set(tmp_path):
    cat = PERSON | {"id": 2, "name": "cat"}
    path = of_categories(tmp_path / "a.json", PERSON, cat)
    content = json.loads(path.read_text())
    other = {"id": 8, "category_id": 2, "keypoints": [50, 60, 2] * 17}
    content["annotations"] += [content["annotations"][0] | other]
    annotations = read_coco(write_json(path, content))
    assert (len(annotations.people), annotations.joint_set) == (2, COCO)


def test_annotations_with_a_score_are_a_tools_predictions(tmp_path):
    path = coco_file(tmp_path / "a.json", {}, {"score": 0.9})
    annotations = read_coco(path)
    assert len(annotations.people) == 1
    assert annotations.skipped == {"a tool's prediction, no label (--predictions)": 1}
    assert len(read_files(AnnotationFiles(annotations=path, predictions=True)).people) == 2


@pytest.mark.parametrize("other", [785, "785", 785.0])
def test_an_image_id_twice_is_refused_with_both_files(tmp_path, other):
    path = coco_file(tmp_path / "a.json", {})
    content = json.loads(path.read_text())
    content["images"].append({"id": other, "file_name": "b.jpg"})
    message = (
        f"{path}: images[0] (000000000785.jpg) and images[1] (b.jpg) share the id 785, expected "
        "one id an image; number images and annotations anew before joining files"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_coco(write_json(path, content))
    content["images"][1]["file_name"] = "000000000785.jpg"
    assert len(read_coco(write_json(path, content)).people) == 1


@pytest.mark.parametrize("image_id", [785, "785", 785.0])
def test_an_id_is_one_however_it_is_written(tmp_path, image_id):
    assert len(read_coco(coco_file(tmp_path / "a.json", {"image_id": image_id})).people) == 1


def test_an_annotation_that_is_there_again_is_counted_once(tmp_path):
    path = coco_file(tmp_path / "a.json", {}, {})
    content = json.loads(path.read_text())
    first, other = content["annotations"]
    content["annotations"] = [first, first, first | {"id": 7}, other | {"id": 0}]
    annotations = read_coco(write_json(path, content))
    assert (len(annotations.people), annotations.skipped) == (2, {"the same annotation again": 2})
    [note] = [note for note in annotations.notes if "ids" in note]
    assert note == (
        "1 ids of annotations are there several times with other content, as in joined exports; "
        "all are read, since each annotation names its image"
    )


# All of them


def test_a_source_refuses_head_boxes_that_it_cannot_take(tmp_path):
    path = coco_file(tmp_path / "a.json", {})
    with pytest.raises(ValueError, match=r"^--head-boxes heads\.mat: coco takes none$"):
        read_annotations("coco", AnnotationFiles(annotations=path, head_boxes=Path("heads.mat")))
    assert len(read_annotations("coco", AnnotationFiles(annotations=path)).people) == 1


def test_a_file_without_people_is_refused(tmp_path):
    path = coco_file(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json: no people$"):
        read_annotations("coco", AnnotationFiles(annotations=path))


def test_shares_of_the_image_are_refused_in_coco(tmp_path):
    shares = {"keypoints": [n for k in range(17) for n in (0.01 * k, 0.5, 2)]}
    files = AnnotationFiles(annotations=coco_file(tmp_path / "a.json", shares, {}, shares))
    message = (
        "a.json: all joints of 2 of 3 people lie below 2 px, as shares of the image would; "
        "expected pixels: multiply x by the image's width and y by its height (a --joint-set file "
        "with unit = 'pixels' if these are pixels)"
    )
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        read_annotations("coco", files)


def test_a_mark_of_missing_joints_is_refused_in_coco(tmp_path):
    marked = {"keypoints": [-1, -1, 2, -1, -1, 1] + [100, 200, 2] * 15}
    files = AnnotationFiles(annotations=coco_file(tmp_path / "a.json", marked))
    message = (
        "2 of 17 joints that are not missing lie at (-1, -1); expected the visibility 0 where a "
        "joint is not annotated"
    )
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        read_annotations("coco", files)


def test_a_joint_that_is_not_finite_is_refused_whatever_the_source(tmp_path):
    def broken(_: AnnotationFiles) -> Annotations:
        people = read_coco(coco_file(tmp_path / "a.json", {})).people
        joints = ((float("inf"), 1.0), *people[0].joints[1:])
        return Annotations(joint_set=COCO, people=[replace(people[0], joints=joints)])

    source = replace(SOURCES["lsp"], read=broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "lsp", source)
        message = (
            "joints.mat: person 0 of 000000000785.jpg: nose is annotated at (inf, 1), expected "
            "pixels"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            read_annotations("lsp", AnnotationFiles(annotations=Path("joints.mat")))


def test_every_source_has_its_conventions():
    known = ("mpii-json", "mpii-hrnet", "lspet", "coco")
    assert [SOURCES[name].index_base for name in known] == [1, 1, 0, 0]
    assert not any(SOURCES[name].center_adjusted for name in known)
    assert ["head_boxes" in SOURCES[name].takes for name in known] == [True, True, False, False]


# The real files


@pytest.fixture(scope="module")
def mpii_people(mpii_dir):
    path = mpii_dir / "mpii_annotations.json.gz"
    return read_mpii_json(path, mpii_dir / "detections_our_format.mat").people


def test_mpii_has_the_usual_split(mpii_people):
    train = [person for person in mpii_people if person.split == "train"]
    validation = [person for person in mpii_people if person.split == "val"]
    assert (len(train), len(validation)) == (22_246, 2_958)
    images = {person.image for person in train}, {person.image for person in validation}
    assert (len(images[0]), len(images[1])) == (14_679, 2_729)
    assert not images[0] & images[1]


def test_nearly_a_quarter_of_mpiis_training_joints_is_occluded(mpii_people):
    states = np.array([person.visibility for person in mpii_people if person.split == "train"])
    annotated = states != MISSING
    assert 100 * (states == OCCLUDED)[annotated].mean() == pytest.approx(23, abs=0.5)
    assert 100 * (states == MISSING).mean() == pytest.approx(6.7, abs=0.05)


def test_frames_and_heads_of_mpii_are_those_that_the_authors_computed(mpii_people, mpii_dir):
    validation = [person for person in mpii_people if person.split == "val"]
    with h5py.File(mpii_dir / "valid.h5") as file:
        theirs = {name: file[name][:] for name in ("center", "scale", "normalize", "person")}
        names = [name.decode() for name in file["imgname"][:]]
    assert [person.image for person in validation] == names
    assert [person.person for person in validation] == theirs["person"].tolist()
    # The scale of the JSON is rounded to thousandths, and 15 of it are added to the centre.
    centers = np.array([person.center for person in validation]) + 1
    assert np.abs(centers - theirs["center"]).max() < 0.01
    assert np.abs([person.scale for person in validation] - theirs["scale"]).max() < 0.001
    assert np.abs([person.head_size for person in validation] - theirs["normalize"]).max() < 0.001


def test_the_authors_validation_people_are_pytorch_poses(mpii_people, mpii_dir):
    annotations = read_mpii_h5(mpii_dir / "valid.h5")
    ours, theirs = annotations.people, [p for p in mpii_people if p.split == "val"]
    assert (len(ours), annotations.skipped) == (2958, {})
    assert [person.key for person in ours] == [person.key for person in theirs]
    assert [person.visibility for person in ours] == [person.visibility for person in theirs]
    shown = np.array([person.visibility for person in ours]) != MISSING
    apart = np.array([p.joints for p in ours]) - np.array([p.joints for p in theirs])
    # Truncation; 5 of the JSON's 88,480 coordinates were just below a whole number before rounding.
    assert (np.abs(apart)[shown] >= 1).sum() == 5
    assert np.abs(apart)[shown].max() < 1.001

    def furthest(field: str) -> float:
        values = [np.array([getattr(p, field) for p in people]) for people in (ours, theirs)]
        return float(np.abs(values[0] - values[1]).max())

    assert furthest("center") < 1
    assert furthest("scale") < 1e-3
    assert furthest("head_size") < 0.5


def test_hrnets_real_people_are_pytorch_poses(mpii_people, mpii_dir):
    theirs = read_mpii_hrnet(
        mpii_dir / "hrnet_style.json", mpii_dir / "detections_our_format.mat"
    ).people
    ours = [person for person in mpii_people if person.split == "val"][:5]
    assert len(theirs) == 5
    for one, other in zip(theirs, ours, strict=True):
        assert one.image == other.image
        assert one.head_size == other.head_size
        assert one.scale == pytest.approx(other.scale, abs=0.001)
        assert one.center == pytest.approx(other.center, abs=0.01)
        shown = np.array(one.visibility) != MISSING
        assert (shown == (np.array(other.visibility) != MISSING)).all()
        apart = np.abs(np.array(one.joints) - np.array(other.joints))[shown]
        assert apart.max() < 0.001


def test_the_real_validation_people_in_another_order_are_refused(mpii_people, mpii_dir):
    validation = [person for person in mpii_people if person.split == "val"]
    shuffled = [*validation[:100], validation[101], validation[100], *validation[102:]]
    with pytest.raises(ValueError, match=r"detections_our_format\.mat: person 100 is not "):
        with_head_sizes(shuffled, mpii_dir / "detections_our_format.mat")


def test_two_of_cocos_fourteen_people_have_no_labelled_joint(coco_dir):
    annotations = read_coco(coco_dir / "person_keypoints.json")
    assert len(annotations.people) == 12
    assert annotations.skipped == {"no labelled joint": 2}
    for person in annotations.people:
        assert (coco_dir / "images" / person.image).is_file()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, "box (0.1, 0.1, 0.5, 0.5)"),
        ({"bbox": [50, 60, 8000, 16000]}, "box (50.0, 60.0, 8000.0, 16000.0)"),
    ],
)
def test_boxes_in_another_unit_than_the_joints_are_refused(tmp_path, change, field):
    files = AnnotationFiles(annotations=coco_file(tmp_path / "a.json", change, change, {}))
    message = (
        f"a.json: {field} of 000000000785.jpg does not fit its joints, nor does it in 2 of 3 "
        "people; expected the unit of the joints (a frame has sides of 200 * scale)"
    )
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        read_annotations("coco", files)
    coco_file(tmp_path / "a.json", change, {}, {})
    assert len(read_annotations("coco", files).people) == 3


def test_a_joint_at_the_corner_in_all_of_several_people_is_refused(tmp_path):
    corner = {"keypoints": [0, 0, 2] + [100, 200, 2] * 16}
    files = AnnotationFiles(annotations=coco_file(tmp_path / "a.json", corner, corner, corner))
    message = "3 of 51 joints that are not missing lie at (0, 0); expected the visibility 0 where a"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_annotations("coco", files)
    coco_file(tmp_path / "a.json", corner, corner)
    assert len(read_annotations("coco", files).people) == 2


def test_a_category_id_twice_is_refused_unless_it_is_the_same_category(tmp_path):
    path = coco_file(tmp_path / "a.json", {})
    content = json.loads(path.read_text())
    content["categories"].append(content["categories"][0])
    assert len(read_coco(write_json(path, content)).people) == 1
    content["categories"][1] = content["categories"][0] | {"keypoints": ["a", "b"]}
    said = "categories[1] has the id 1 of another one before it, expected one id each"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {said}')}$"):
        read_coco(write_json(path, content))


def test_boxes_of_coco_end_at_edges_of_pixels_and_joints_are_pixels(tools_dir):
    content = json.loads((tools_dir / "coco_mini/person_keypoints_train2017.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    at_the_end, joints = 0, []
    for record in content["annotations"]:
        left, top, width, height = record["bbox"]
        size = np.array(sizes[record["image_id"]])
        beyond = size - (left + width, top + height)
        # A box around the middles of pixels would end at the last one's, a pixel before.
        at_the_end += int((np.abs(beyond) < 1e-6).sum())
        assert beyond.min() > -1e-6
        points = np.array(record.get("keypoints") or []).reshape(-1, 3)
        points = points[points[:, 2] > 0, :2]
        joints += points.ravel().tolist()
        assert (points <= size - 1).all()
    assert at_the_end > 5
    assert all(value == int(value) for value in joints)


def test_the_frame_of_a_picture_s_own_box_is_around_its_middle():
    # Pixels 0 to 9 and 0 to 5: their middle is at 4.5 and 2.5.
    assert frame_box((0, 0, 10, 6)) == ((4.5, 2.5), 1.25 * 10 / 200)
