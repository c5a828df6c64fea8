"""The joint set that a labelling tool's file describes."""

import re

import numpy as np
import pytest

from pipeline.data.formats.annotations import person_of
from pipeline.data.formats.tools.skeleton import Skeleton, joint_names, joint_set_of
from pipeline.pose.joint_sets import COCO, known_sigmas

MOUSE = Skeleton(
    name="mouse", joints=("snout", "leftear", "rightear", "tail base"), limbs=((0, 3), (3, 0))
)


def people(*rows: list[tuple[float, float] | None], **fields: object):
    """Make people whose joints are visible where they are not None."""
    return [
        person_of(
            np.array([point or (0, 0) for point in row], np.float64),
            np.array([2 if point else 0 for point in row]),
            image=f"{number}.jpg",
            person=0,
            center=(0, 0),
            scale=1,
            **fields,
        )
        for number, row in enumerate(rows)
    ]


def described(skeleton: Skeleton, seen: list):
    return joint_set_of(skeleton, seen, [person.box is not None for person in seen])


def test_a_skeleton_becomes_a_joint_set_that_is_described_line_by_line():
    seen = people([(0, 0), (1, 1), (2, 1), (30, 0)], [(0, 0), None, None, (40, 0)])
    joint_set, lines = described(MOUSE, seen)
    assert joint_set.name == "mouse-4"
    assert joint_set.joints == ("snout", "leftear", "rightear", "tail_base")
    assert joint_set.flip_pairs == ((1, 2),)
    assert joint_set.limbs == ((0, 3),)
    assert joint_set.measures[0].segment == (0, 3)
    assert lines == [
        "joint set mouse-4: snout, leftear, rightear, tail_base",
        "joint names are written 'tail base' as tail_base",
        "flip pairs by their names: leftear-rightear",
        "limbs: snout-tail_base",
        "OKS sigmas: none",
        "errors are divided by the distance from snout to tail_base, which 100% of the people have "
        "(PCK-segment@0.2)",
    ]


def test_the_longest_pair_of_joints_that_most_people_have_is_the_normaliser():
    # Snout and tail are farthest apart, but only one of four people has both.
    row = [(0, 0), (5, 0), (0, 3), None]
    joint_set, lines = described(MOUSE, people(row, row, row, [(0, 0), None, None, (90, 0)]))
    assert joint_set.measures[0].segment == (1, 2)
    assert "which 75% of the people have" in lines[-1]


def test_the_box_is_the_normaliser_where_few_people_have_two_joints():
    row = [(0, 0), (5, 0), (0, 3), None]
    joint_set, _ = described(MOUSE, people(row, box=(0, 0, 9, 9)))
    assert joint_set.measures[0].segment == (1, 2)
    one = [(0, 0), None, None, None]
    joint_set, lines = described(MOUSE, people(one, one, one, row, box=(0, 0, 9, 9)))
    assert joint_set.measures[0].key == "pck_box"
    assert lines[-1] == (
        "errors are divided by the longer side of the box, which 100% of the people have "
        "(PCK-box@0.05)"
    )


def test_the_torso_is_the_normaliser_where_the_names_have_one():
    skeleton = Skeleton(name="top", joints=("neck", "Left Shoulder", "Right-Shoulder", "RightHip"))
    joint_set, _ = described(skeleton, people([(0, 0), (1, 1), (2, 1), (3, 9)], box=(0, 0, 9, 9)))
    assert joint_set.measures[0].segment == (1, 3)
    assert joint_set.flip_pairs == ((1, 2),)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("left_ear", "right_ear"), [(0, 1)]),
        (("ear_l", "ear_r"), [(0, 1)]),
        (("LEar", "REar"), [(0, 1)]),
        (("earL", "earR"), [(0, 1)]),
        (("Left Ear", "Right Ear"), [(0, 1)]),
        (("ear.left", "ear.right"), [(0, 1)]),
        (("L", "R"), [(0, 1)]),
        (("hoofLeftFront", "hoofRightFront"), [(0, 1)]),
        (("lip", "rip"), [(0, 1)]),
        (("nose", "tail"), []),
    ],
)
def test_flip_pairs_are_found_in_every_spelling(names, pairs):
    seen = people([(0, 0), (1, 1), (9, 9)])
    joint_set, _ = described(Skeleton(name="x", joints=(*names, "x")), seen)
    assert list(joint_set.flip_pairs) == pairs


def test_flip_pairs_of_the_file_have_to_agree_with_the_names():
    skeleton = Skeleton(name="x", joints=("earL", "earR", "tail"), flip_pairs=((0, 2),))
    message = "flip_pairs lacks ['earL', 'earR'], which change places in a mirrored image"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        described(skeleton, people([(0, 0), (1, 1), (9, 9)]))
    stated = Skeleton(name="x", joints=("a", "b", "c"), flip_pairs=((0, 2), (2, 0)))
    joint_set, lines = described(stated, people([(0, 0), (1, 1), (9, 9)]))
    assert joint_set.flip_pairs == ((0, 2),)
    assert lines[1] == "flip pairs of the file: a-c"


def test_cocos_joints_in_their_order_are_the_known_set():
    spelled = tuple(name.title().replace("_", " ") for name in COCO.joints)
    assert described(Skeleton(name="person", joints=spelled), [])[0] is COCO


def test_joints_of_a_known_set_have_its_sigmas_in_any_order():
    assert known_sigmas(("Left Hip", "nose")) == (0.107, 0.026)
    # CrowdPose has no face, and AI Challenger sigmas of its own.
    assert known_sigmas(("head", "left_hip")) == (0.079, 0.107)
    assert known_sigmas(("Head top", "Neck")) == (0.01291456, 0.01236173)
    assert known_sigmas(("nose", "tail")) == ()


def test_names_are_written_in_letters_digits_and_underscores_and_stay_apart():
    assert joint_names(("a b", "a-b", "Ohr links", "Öhr", "耳", "a_b")) == (
        *("a_b", "a_b_2", "Ohr_links", "Ohr", "joint_4", "a_b_3"),
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"joints": ("a", "a")}, "names the joint 'a' 2 times, expected names that differ"),
        ({"joints": ("a", " ")}, "names the joint ' ' 1 times, expected names that differ"),
        ({"joints": ("a", "b"), "limbs": ((0, 2),)}, "has a limb of the joints (0, 2), expected"),
        ({"joints": ("a", "b"), "flip_pairs": ((-1, 0),)}, "has a flip pair of the joints (-1, 0)"),
    ],
)
def test_a_skeleton_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(f"skeleton 'x' {message}")):
        Skeleton(name="x", **fields)
