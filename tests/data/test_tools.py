"""Files that labelling tools wrote, and public datasets of other joints, as they are packed."""

from pathlib import Path

import pytest

from pipeline.data.packing_plan import plan_packing
from pipeline.pose.joint_sets import COCO
from pipeline.pose.person import Visibility
from pipeline.settings.packing import PackSettings

MISSING, OCCLUDED, VISIBLE = Visibility


def plan_of(annotations: Path, out: Path, source: str = "coco", **options: object):
    """Plan the pack of a file whose pictures lie beside it, all of it for training."""
    defaults = {"images": annotations.parent, "split": "train", "max_left_out": 0.0}
    settings = {"source": source, "annotations": annotations, "out": out} | defaults | options
    return plan_packing(PackSettings(**settings))


def people_of(plan):
    people = [person for job in plan.jobs for person in job.people]
    return sorted(people, key=lambda person: person.key)


@pytest.mark.parametrize(
    ("name", "people", "joints", "flip_pairs", "measure", "skipped"),
    [
        ("crowdpose", 4, 14, 6, "segment", {"no labelled joint": 1}),
        ("aic", 9, 14, 6, "segment", {}),
        ("ap10k", 2, 17, 7, "segment", {}),
        ("horse10", 3, 22, 0, "box", {}),
        ("macaque", 2, 17, 8, "segment", {}),
    ],
)
def test_public_datasets_of_other_joints_are_packed(
    tmp_path, tools_dir, name, people, joints, flip_pairs, measure, skipped
):
    file = tools_dir / "coco_other_joints" / name / f"test_{name}.json"
    plan = plan_of(file, tmp_path)
    joint_set = plan.joint_set
    assert len(people_of(plan)) == people
    assert (len(joint_set.joints), len(joint_set.flip_pairs)) == (joints, flip_pairs)
    assert joint_set.measures[0].normaliser == measure
    assert (plan.skipped, plan.left_out) == (skipped, {})


def test_a_person_of_ai_challenger_is_where_the_file_has_him(tmp_path, tools_dir):
    plan = plan_of(tools_dir / "coco_other_joints/aic/test_aic.json", tmp_path)
    person = people_of(plan)[0]
    joints = dict(zip(plan.joint_set.joints, person.joints, strict=True))
    states = dict(zip(plan.joint_set.joints, person.visibility, strict=True))
    assert person.image == "054d9ce9201beffc76e5ff2169d2af2f027002ca.jpg"
    assert (joints["Right_Shoulder"], joints["Neck"]) == ((313, 201), (372, 170))
    assert (states["Right_Elbow"], states["Right_Knee"]) == (OCCLUDED, MISSING)
    assert plan.joint_set.sigmas[-1] == 0.01236173
    assert person.box == (279, 55, 213, 544)


def test_a_category_of_ap_10k_is_packed_alone(tmp_path, tools_dir):
    file = tools_dir / "coco_other_joints/ap10k/test_ap10k.json"
    plan = plan_of(file, tmp_path, category="antelope")
    assert [person.image for person in people_of(plan)] == ["000000000004.jpg"]
    assert plan.skipped == {"other category": 1}
    assert plan.joint_set.name == "antelope-17"


@pytest.mark.parametrize(("part", "people"), [("train2017", 86), ("val2017", 68)])
def test_coco_itself_is_packed_as_coco(tmp_path, tools_dir, part, people):
    folder = tools_dir / "coco_mini"
    plan = plan_of(folder / f"person_keypoints_{part}.json", tmp_path, images=folder / part)
    assert (len(people_of(plan)), plan.joint_set) == (people, COCO)
