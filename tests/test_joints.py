"""Joint sets: tables that have to agree with themselves."""

import re

import pytest

from pipeline.joints import COCO, FLIC, JOINT_SETS, LSP, MPII, joint_set


def test_the_flip_map_of_mpii_is_the_published_one():
    assert MPII.mirror == (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)


def test_the_flip_map_of_flic_is_that_of_the_papers_authors():
    # {1,4}, {2,5}, {3,6}, {7,8}, {9,10} in their code, which counts from 1.
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
def test_the_torso_runs_from_the_left_shoulder_to_the_right_hip(joints):
    start, end = joints.measure("pck_torso").segment
    assert (joints.joints[start], joints.joints[end]) == ("left_shoulder", "right_hip")


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
    message = "evaluation.measure: joint set coco has pck_torso, pck_box, not 'pckh'"
    with pytest.raises(ValueError, match=re.escape(message)):
        COCO.measure("pckh")
    with pytest.raises(ValueError, match="joint set flic has pck_torso, not 'pckh'"):
        FLIC.measure("pckh")


def test_an_unknown_joint_set_is_refused_with_the_known_ones():
    message = "unknown joint set 'aic'; known: coco, flic, lsp, mpii, synthetic"
    with pytest.raises(ValueError, match=re.escape(message)):
        joint_set("aic")
