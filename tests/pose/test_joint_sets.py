"""Joint sets: consistent tables, their JSON, and the errors on input."""

import json
import re
from dataclasses import replace

import pytest

from pipeline.pose.joint_sets import (
    COCO,
    FLIC,
    JOINT_SETS,
    LSP,
    MPII,
    OKS,
    JointSet,
    Measure,
    joint_set,
)
from pipeline.pose.sides import common_side


def test_the_flip_map_of_mpii_is_the_published_one():
    assert MPII.mirror == (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)


def test_the_flip_map_of_flic_is_that_of_the_papers_authors():
    # Their code, which counts from 1, has {1,4}, {2,5}, {3,6}, {7,8}, {9,10}.
    assert FLIC.mirror == (3, 4, 5, 0, 1, 2, 7, 6, 9, 8, 10)


@pytest.mark.parametrize("joints", JOINT_SETS.values(), ids=JOINT_SETS.keys())
def test_mirroring_swaps_left_and_right_by_name(joints):
    swap = {"left": "right", "right": "left"}
    for name, counterpart in zip(joints.joints, joints.mirror, strict=True):
        side, _, part = name.partition("_")
        expected = f"{swap[side]}_{part}" if side in swap else name
        assert joints.joints[counterpart] == expected


@pytest.mark.parametrize("joints", JOINT_SETS.values(), ids=JOINT_SETS.keys())
def test_limbs_and_groups_name_joints_that_exist(joints):
    known = set(range(len(joints.joints)))
    assert {joint for limb in joints.limbs for joint in limb} <= known
    assert {joint for _, members in joints.groups for joint in members} <= set(joints.in_mean)


def test_pelvis_and_thorax_are_left_out_of_the_mean_of_mpii():
    left_out = set(range(16)) - set(MPII.in_mean)
    assert {MPII.joints[joint] for joint in left_out} == {"pelvis", "thorax"}


@pytest.mark.parametrize("joints", JOINT_SETS.values(), ids=JOINT_SETS.keys())
def test_the_torso_runs_from_a_shoulder_to_the_other_sides_hip(joints):
    start, end = joints.measure("pck_torso").segment
    # The authors' sizes of FLIC's torsos are of the other diagonal than the rest.
    expected = ("left_shoulder", "right_hip")
    if joints is FLIC:
        expected = ("right_shoulder", "left_hip")
    assert (joints.joints[start], joints.joints[end]) == expected


def test_the_head_of_leeds_sports_pose_runs_from_head_top_to_neck():
    start, end = LSP.measure("pckh").segment
    assert (LSP.joints[start], LSP.joints[end]) == ("head_top", "neck")


def test_auto_is_the_joint_sets_own_measure():
    assert MPII.measure("auto").headline == "PCKh@0.5"
    assert LSP.measure("auto").headline == "PCKh@0.5"
    assert COCO.measure("auto").headline == "PCK-torso@0.2"
    assert COCO.measure("pck_box").headline == "PCK-box@0.05"
    assert FLIC.measure("auto").headline == "PCK-torso@0.2"
    assert FLIC.measure("auto").thresholds == (0.2, 0.1)


def test_pckh_is_refused_where_there_is_no_head_box():
    message = "evaluation.measure: joint set coco has pck_torso, pck_box, oks, not 'pckh'"
    with pytest.raises(ValueError, match=re.escape(message)):
        COCO.measure("pckh")
    with pytest.raises(ValueError, match="joint set flic has pck_torso, not 'pckh'"):
        FLIC.measure("pckh")


def test_an_unknown_joint_set_is_refused_with_the_known_ones():
    message = "unknown joint set 'aic'; known: coco, flic, lsp, mpii, synthetic"
    with pytest.raises(ValueError, match=re.escape(message)):
        joint_set("aic")


# JSON


@pytest.mark.parametrize("joints", JOINT_SETS.values(), ids=JOINT_SETS.keys())
def test_a_joint_set_comes_back_from_json_as_it_was(joints):
    assert JointSet.from_json(json.loads(json.dumps(joints.to_json()))) == joints


def test_sigmas_come_back_and_are_no_difference_between_joint_sets():
    content = json.loads(json.dumps(COCO.to_json()))
    assert JointSet.from_json(content).sigmas == COCO.sigmas
    # 1/10 of the list in COCO's evaluation; a hip is the least exact.
    assert (min(COCO.sigmas), COCO.sigmas[11], len(COCO.sigmas)) == (0.025, 0.107, 17)
    assert COCO.difference(replace(COCO, sigmas=())) == ""


def test_json_names_joints_instead_of_counting_them():
    content = LSP.to_json()
    fields = ["name", "joints", "flip_pairs", "limbs", "groups", "in_mean", "measures"]
    assert list(content) == fields
    assert content["flip_pairs"][0] == ["right_ankle", "left_ankle"]
    assert content["limbs"][-1] == ["left_hip", "left_shoulder"]
    assert content["groups"]["head"] == ["neck", "head_top"]
    assert content["measures"][0] == {
        "key": "pckh",
        "title": "PCKh",
        "normaliser": "segment",
        "segment": ["head_top", "neck"],
        "thresholds": [0.5, 0.1],
        "auc_limit": 0.5,
    }
    assert "segment" not in MPII.to_json()["measures"][0]


def test_joint_sets_are_distinguished_by_name_or_by_difference():
    assert MPII.difference(replace(MPII)) == ""
    assert MPII.difference(LSP) == "mpii and lsp"
    other = replace(MPII, limbs=(), in_mean=(0,))
    assert MPII.difference(other) == "two called mpii that differ in limbs, in_mean"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limb": []}, "joint set: unknown field 'limb'; did you mean 'limbs'?"),
        ({"limbs": None}, "limbs must be a list, got None"),
        ({"limbs": [["neck"]]}, "limbs[0] must be two joints, got ['neck']"),
        (
            {"limbs": [["neck", "head_top"], ["neck", "headtop"]]},
            "limbs[1][1]: unknown joint 'headtop'; did you mean 'head_top'?",
        ),
        ({"in_mean": ["nose"]}, "in_mean[0]: unknown joint 'nose'"),
        ({"groups": ["head"]}, "groups must be a table of lists of joints, got ['head']"),
        ({"groups": {"head": "neck"}}, "groups.head must be a list, got 'neck'"),
        ({"name": 5}, "name must be a string, got 5"),
        ({"joints": ["a", 5]}, "joints[1] must be a string, got 5"),
        ({"measures": [{}]}, "measures[0]: field 'key' is absent"),
    ],
)
def test_json_that_is_no_joint_set_is_refused_by_field(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        JointSet.from_json(LSP.to_json() | change)


def test_json_without_a_field_or_no_table_at_all_is_refused():
    content = LSP.to_json()
    del content["flip_pairs"]
    with pytest.raises(ValueError, match=r"^joint set: field 'flip_pairs' is absent$"):
        JointSet.from_json(content)
    with pytest.raises(ValueError, match=r"^joint set must be a table of fields, got 'lsp'$"):
        JointSet.from_json("lsp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 1}, "measures[0].title must be a string, got 1"),
        (
            {"thresholds": [0.5, "0.1"]},
            "measures[0].thresholds[1] must be a finite number, got '0.1'",
        ),
        ({"thresholds": []}, "measures[0].thresholds must hold at least one threshold, got none"),
        (
            {"normaliser": "torso"},
            "measures[0].normaliser must be one of head, segment, box, oks, got 'torso'",
        ),
        ({"segment": ["neck"]}, "measures[0].segment must be two joints, got ['neck']"),
        ({"limit": 1}, "measures[0]: unknown field 'limit'; did you mean 'auc_limit'?"),
    ],
)
def test_json_that_is_no_measure_is_refused_by_field(change, message):
    content = LSP.to_json()
    content["measures"][0] |= change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        JointSet.from_json(content)


# Consistency


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "my horse"},
            "name must be made of letters a-z, digits, '_', '.' and '-', and begin with none of "
            "the last two, got 'my horse'",
        ),
        (
            {"name": ".."},
            "name must be made of letters a-z, digits, '_', '.' and '-', and begin with none of "
            "the last two, got '..'",
        ),
        (
            {"groups": (("../../legs", (0,)),)},
            "groups must have names of letters a-z, digits, '_', '-' and spaces, got '../../legs'",
        ),
        ({"joints": ()}, "joints must hold at least one joint, got none"),
        ({"joints": ("a", "b", "a")}, "joints must hold a joint once, got 'a' 2 times"),
        (
            {"joints": ("a", "left ear")},
            "joints[1] must be made of letters a-z, digits and '_', got 'left ear'",
        ),
        ({"flip_pairs": ((0, 5), (1, 14))}, "flip_pairs[1] must hold joints from 0 to 13, got 14"),
        ({"flip_pairs": ((0, 5), (5, 1))}, "flip_pairs must hold a joint once, got 'left_ankle'"),
        (
            {"flip_pairs": ((3, 3),)},
            "flip_pairs[0] must be two different joints, got the same twice",
        ),
        ({"limbs": ((0, 1), (-1, 2))}, "limbs[1] must hold joints from 0 to 13, got -1"),
        ({"limbs": ((2, 2),)}, "limbs[0] must be two different joints, got the same twice"),
        ({"groups": (("legs", (0, 20)),)}, "groups.legs must hold joints from 0 to 13, got 20"),
        ({"groups": (("legs", ()),)}, "groups.legs must hold at least one joint, got none"),
        ({"in_mean": (14,)}, "in_mean must hold joints from 0 to 13, got 14"),
        ({"in_mean": ()}, "in_mean must hold at least one joint, got none"),
        ({"in_mean": (1, 1)}, "in_mean must hold a joint once, got 1 2 times"),
        ({"measures": ()}, "measures must hold at least one measure, got none"),
        ({"sigmas": (0.1,)}, "sigmas must hold one number a joint, 14, got 1"),
        ({"sigmas": (*[0.1] * 13, 0)}, "sigmas[13] must lie between 0 and 1, got 0"),
        (
            {"measures": (OKS,)},
            "sigmas must hold one number a joint for the normaliser oks, got none",
        ),
        (
            {"measures": LSP.measures[:1] * 2},
            "measures must hold a measure once, got 'pckh' 2 times",
        ),
        (
            {"measures": (replace(LSP.measures[0], segment=(1, 14)),)},
            "measures[0].segment must hold joints from 0 to 13, got 14",
        ),
    ],
)
def test_a_joint_set_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(LSP, **change)


def test_joints_with_sigmas_are_measured_by_oks_too():
    assert [measure.key for measure in COCO.all_measures] == ["pck_torso", "pck_box", "oks"]
    assert COCO.measure("auto").key == "pck_torso"
    found = COCO.measure("oks")
    assert (found.headline, found.metric_name) == ("OKS AP", "coco_ap")
    assert found.metric_names == ["coco_ap", "coco_ap_50", "coco_ap_75"]
    chosen = replace(COCO, measures=(OKS,))
    assert chosen.all_measures == (OKS,)
    assert JointSet.from_json(chosen.to_json()) == chosen
    message = "joint set lsp has pckh, pck_torso, not 'oks'; it needs the joints' sigmas: "
    with pytest.raises(ValueError, match=message):
        LSP.measure("oks")
    with pytest.raises(ValueError, match=r"thresholds\[0\] must be hundredths from 0.5 to 0.99"):
        replace(OKS, thresholds=(0.3,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "pck head"}, "key must be made of letters a-z, digits and '_', got 'pck head'"),
        *(
            (
                {"title": title},
                "title must be made of at most 80 letters, digits, spaces and any of .,:@%()/+-, "
                f"got {title!r:.100}",
            )
            for title in ("a\x1b[2J", "$\\frac{$", "", "x" * 81, "\udcff")
        ),
        ({"thresholds": ()}, "thresholds must hold at least one threshold, got none"),
        ({"thresholds": (0.1, 0.1)}, "thresholds must hold a threshold once, got 0.1 2 times"),
        ({"thresholds": (0.5, 0.6)}, "thresholds[1] must be hundredths from 0.01 to 0.5, got 0.6"),
        ({"thresholds": (0.055,)}, "thresholds[0] must be hundredths from 0.01 to 0.5, got 0.055"),
        ({"auc_limit": 0.0}, "auc_limit must be hundredths from 0.01 to 0.5, got 0"),
        ({"segment": (0, 1)}, "segment is not for the normaliser head"),
        (
            {"normaliser": "segment", "segment": (1, 1)},
            "segment must be two different joints, got the same twice",
        ),
    ],
)
def test_a_measure_that_contradicts_itself_is_refused(change, message):
    right = {"key": "pckh", "title": "PCKh", "normaliser": "head", "thresholds": (0.5,)}
    assert Measure(**right).headline == "PCKh@0.5"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Measure(**right | change)


@pytest.mark.parametrize(
    ("names", "side"),
    [
        (("left_ear",), "left"),
        (("Right_Knee", "Right_Ankle"), "right"),
        (("earL", "L_shoulder"), "left"),
        (("left_hip", "right_hip"), None),
        (("nose", "left_eye"), None),
    ],
)
def test_the_side_of_a_limb_is_the_one_that_both_joints_have(names, side):
    assert common_side(names) == side
