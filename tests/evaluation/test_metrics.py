"""PCKh, counted by hand and compared with published figures."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.io
from factories import BIRD

from pipeline.data.formats.mpii import read_mpii_truth
from pipeline.data.formats.pose_h5 import read_mpii_h5
from pipeline.evaluation.metrics import (
    THRESHOLDS,
    AveragePrecision,
    JointCounts,
    dissimilarity,
    joint_counts,
    normalised_errors,
    person_sizes,
    scores,
    stack_table,
    table,
)
from pipeline.pose.joint_sets import COCO, LSP, MPII, OKS

AT_HALF = 50
_NUMBERS = ["ap", "ap_50", "ap_75", "ap_m", "ap_l", "ar", "ar_50", "ar_75", "ar_m", "ar_l"]
PRECISION = AveragePrecision(**dict.fromkeys(_NUMBERS, 12.5))


def errors_at(
    distances: list[float], *, size: float = 10.0, annotated: list[bool] | None = None
) -> np.ndarray:
    """Return normalised errors of one person whose joints are off to the right by `distances`."""
    truth = np.zeros((1, len(distances), 2))
    predicted = truth.copy()
    predicted[0, :, 0] = distances
    shown = np.array([annotated or [True] * len(distances)])
    return normalised_errors(predicted, truth, shown, np.array([size]))


def test_an_error_is_the_distance_over_the_size():
    truth = np.array([[[1.0, 1.0]]])
    predicted = np.array([[[4.0, 5.0]]])
    shown = np.array([[True]])
    errors = normalised_errors(predicted, truth, shown, np.array([20.0]))
    assert errors.tolist() == [[0.25]]


def test_a_joint_exactly_at_the_threshold_counts():
    counts = joint_counts(errors_at([5.0, np.nextafter(5.0, 6.0)]))
    assert counts.correct[AT_HALF].tolist() == [1, 0]


@pytest.mark.parametrize("hundredth", [1, 7, 10, 29, 35, 50])
def test_every_threshold_includes_its_own_value(hundredth):
    counts = joint_counts(errors_at([float(hundredth)], size=100.0))
    assert counts.correct[hundredth, 0] == 1
    assert counts.correct[hundredth - 1, 0] == 0


def test_a_joint_that_is_not_annotated_counts_neither_way():
    counts = joint_counts(errors_at([0.0, 0.0, 100.0], annotated=[True, False, False]))
    assert counts.annotated.tolist() == [1, 0, 0]
    assert counts.correct[AT_HALF].tolist() == [1, 0, 0]


def test_a_prediction_of_nan_is_wrong_rather_than_absent():
    counts = joint_counts(errors_at([float("nan"), 0.0]))
    assert counts.annotated.tolist() == [1, 1]
    assert counts.correct[AT_HALF].tolist() == [0, 1]


def test_a_person_of_undefined_size_is_left_out():
    truth = np.zeros((2, 1, 2))
    shown = np.ones((2, 1), bool)
    errors = normalised_errors(truth, truth, shown, np.array([np.nan, 10.0]))
    assert joint_counts(errors).annotated.tolist() == [1]


def test_a_size_that_is_not_positive_is_refused():
    truth = np.zeros((3, 1, 2))
    shown = np.ones((3, 1), bool)
    with pytest.raises(ValueError, match=r"^person 1: size must be above 0 pixels, got 0.0$"):
        normalised_errors(truth, truth, shown, np.array([9.0, 0.0, -1.0]))


def test_counts_of_batches_add_to_the_counts_of_the_whole():
    random = np.random.default_rng(0)
    errors = random.random((30, 16))
    errors[random.random((30, 16)) < 0.2] = np.nan
    whole = joint_counts(errors)
    parts = sum(
        (joint_counts(part) for part in (errors[:7], errors[7:8], errors[8:])),
        JointCounts.zero(16),
    )
    assert (parts.correct == whole.correct).all()
    assert (parts.annotated == whole.annotated).all()
    assert whole.annotated.sum() == (~np.isnan(errors)).sum()


def test_head_sizes_and_box_sizes_are_taken_as_they_are():
    head, box, undefined = np.array([20.0]), np.array([300.0]), np.array([np.nan])
    joints, shown = np.zeros((1, 16, 2)), np.ones((1, 16), bool)
    assert person_sizes(MPII.measure("pckh"), joints, shown, head, box, undefined) == 20
    joints, shown = np.zeros((1, 17, 2)), np.ones((1, 17), bool)
    assert person_sizes(COCO.measure("pck_box"), joints, shown, head, box, undefined) == 300


def test_a_joint_is_similar_by_its_distance_its_sigma_and_the_area():
    # Two sigma times the root of the area are 10 and 20 pixels.
    joint_set = replace(BIRD, measures=(OKS,), sigmas=(0.05, 0.1, 0.1))
    areas, nothing = np.array([10_000.0]), np.array([np.nan])
    truth, shown = np.zeros((1, 3, 2)), np.ones((1, 3), bool)
    size = person_sizes(OKS, truth, shown, nothing, nothing, areas)
    assert size.tolist() == [100]
    # A joint's similarity is exp(-e^2 / 2): a half at e = 1.177, three quarters at 0.759.
    predicted = np.array([[[11.7, 0], [0, 15.2], [0, 15.1]]])
    errors = dissimilarity(normalised_errors(predicted, truth, shown, size), joint_set.sigmas)
    assert errors == pytest.approx(1 - np.exp([[-(1.17**2) / 2, -(0.76**2) / 2, -(0.755**2) / 2]]))
    counted = scores(joint_counts(errors), joint_set, OKS, PRECISION)
    assert counted.joints == {
        0.5: {"beak": 100, "left_wing": 100, "right_wing": 100},
        0.75: {"beak": 0, "left_wing": 0, "right_wing": 100},
    }
    assert counted.headline == 12.5
    lines = table(counted).splitlines()
    assert lines[0].split() == ["joint", "OKS@0.5", "OKS@0.75", "annotated"]
    assert lines[-1].split() == ["OKS", "AP", "12.50"]
    assert lines[-2].startswith("AUC 0.5-1")
    assert stack_table([counted]).splitlines()[0].split()[-3:] == ["0.5-1", "OKS", "AP"]
    far = dissimilarity(normalised_errors(predicted + 999, truth, shown, size), joint_set.sigmas)
    assert far == pytest.approx(1)


def test_the_head_of_leeds_sports_pose_is_measured_between_its_joints():
    joints = np.zeros((3, 14, 2))
    joints[:, LSP.joints.index("head_top")] = (10, 10)
    joints[:, LSP.joints.index("neck")] = (13, 14)
    shown = np.ones((3, 14), bool)
    shown[1, LSP.joints.index("neck")] = False
    joints[2] = 0
    undefined = np.full(3, np.nan)
    sizes = person_sizes(LSP.measure("auto"), joints, shown, undefined, undefined, undefined)
    # The second person lacks the neck; both ends of the third are at one point.
    assert np.array_equal(sizes, [5.0, np.nan, np.nan], equal_nan=True)


def made_counts() -> JointCounts:
    """Head-top 3 of 4 at 0.5, right wrist 1 of 2, left wrist 0 of 2, pelvis 0 of 10."""
    counts = JointCounts.zero(16)
    correct, annotated = counts.correct.copy(), counts.annotated.copy()
    annotated[[9, 10, 15, 6]] = (4, 2, 2, 10)
    correct[AT_HALF, [9, 10, 15, 6]] = (3, 1, 0, 0)
    return JointCounts(correct=correct, annotated=annotated)


def test_the_pooled_mean_divides_once_and_leaves_the_pelvis_out():
    result = scores(made_counts(), MPII, MPII.measure("pckh"))
    assert result.pooled[0.5] == 100 * 4 / 8
    assert result.headline == 50.0
    assert result.joints[0.5]["head_top"] == 75.0
    assert result.joints[0.5]["pelvis"] == 0.0
    assert result.groups[0.5]["wrist"] == 25.0
    assert result.annotated["pelvis"] == 10


def test_a_joint_that_was_never_annotated_has_no_percentage():
    result = scores(made_counts(), MPII, MPII.measure("pckh"))
    assert np.isnan(result.joints[0.5]["left_knee"])
    assert result.as_dict()["joints"]["0.5"]["left_knee"] is None
    assert result.as_dict()["joints"]["0.5"]["head_top"] == 75.0
    assert np.isnan(scores(JointCounts.zero(16), MPII, MPII.measure("pckh")).headline)


def test_the_area_under_the_curve_is_summed_in_trapezoids():
    # One joint with error 0.25: wrong up to 0.24, right from 0.25. Of 50 intervals
    # the last 25 are whole, and the one from 0.24 to 0.25 is a half.
    errors = np.full((1, 16), np.nan)
    errors[0, 9] = 0.25
    result = scores(joint_counts(errors), MPII, MPII.measure("pckh"))
    assert result.auc == pytest.approx(100 * 25.5 / 50)


def test_the_thresholds_are_the_hundredths_up_to_one_half():
    assert len(THRESHOLDS) == 51
    assert THRESHOLDS[[0, 10, 50]].tolist() == [0.0, 0.1, 0.5]


def test_the_table_names_measure_and_thresholds():
    lines = table(scores(made_counts(), MPII, MPII.measure("pckh"))).splitlines()
    assert lines[0].split() == ["joint", "PCKh@0.5", "PCKh@0.1", "annotated"]
    assert "head_top                  75.00           0.00          4" in lines
    assert lines[-3].split() == ["pooled", "mean", "50.00", "0.00"]
    assert next(line for line in lines if line.startswith("left_knee")).split() == [
        "left_knee",
        "-",
        "-",
        "0",
    ]


PUBLISHED = {
    "bearpaw-hg_s1_b1.mat": {
        "groups": (95.12, 96.35, 93.61, 85.53, 79.56, 84.51, 78.28, 73.38),
        "pooled": 85.08,
        "unweighted": 84.46,
        "pooled at 0.1": 22.81,
        "auc": 55.52,
    },
    "bearpaw-hg_s2_b1.mat": {
        "groups": (95.80, 96.74, 94.57, 88.12, 83.31, 86.24, 80.88, 77.44),
        "pooled": 87.30,
        "unweighted": 86.76,
        "pooled at 0.1": 23.91,
        "auc": 57.38,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_predictions_get_their_published_scores(mpii_dir, name):
    truth = read_mpii_truth(mpii_dir / "detections_our_format.mat")
    predicted = scipy.io.loadmat(mpii_dir / name)["preds"]
    errors = normalised_errors(predicted, truth.joints, truth.annotated, truth.head_sizes)
    result = scores(joint_counts(errors), MPII, MPII.measure("pckh"))
    published = PUBLISHED[name]
    groups = ("head", "head and neck", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    assert tuple(result.groups[0.5]) == groups
    assert tuple(result.groups[0.5].values()) == pytest.approx(published["groups"], abs=0.01)
    assert result.pooled[0.5] == pytest.approx(published["pooled"], abs=0.01)
    assert result.unweighted[0.5] == pytest.approx(published["unweighted"], abs=0.01)
    assert result.pooled[0.1] == pytest.approx(published["pooled at 0.1"], abs=0.01)
    assert result.auc == pytest.approx(published["auc"], abs=0.01)


# The 2 stacks and the 1 stack of pytorch-pose, against truth that was truncated to whole pixels.
@pytest.mark.parametrize(
    ("name", "pooled"), [("bearpaw-hg_s2_b1.mat", 24.47), ("bearpaw-hg_s1_b1.mat", 23.27)]
)
def test_truncated_truth_raises_the_score_at_a_tenth(mpii_dir, name, pooled):
    truth = read_mpii_truth(mpii_dir / "detections_our_format.mat")
    people = read_mpii_h5(mpii_dir / "valid.h5").people
    predicted = scipy.io.loadmat(mpii_dir / name)["preds"]
    # The file of predictions counts pixels from 1.
    joints = np.array([person.joints for person in people]) + 1
    errors = normalised_errors(predicted, joints, truth.annotated, truth.head_sizes)
    result = scores(joint_counts(errors), MPII, MPII.measure("pckh"))
    assert result.pooled[0.1] == pytest.approx(pooled, abs=0.01)
    assert result.pooled[0.5] == pytest.approx(PUBLISHED[name]["pooled"], abs=0.01)


def test_the_table_has_room_for_long_names_and_no_place_for_groups_that_are_not():
    names = tuple(f"joint_number_{number:02d}_of_sixteen" for number in range(16))
    own = replace(MPII, joints=names, groups=())
    measure = replace(own.measure("pckh"), title="PCK-of-a-horse")
    lines = table(scores(made_counts(), own, measure)).splitlines()
    assert " PCK-of-a-horse@0.5 PCK-of-a-horse@0.1 " in lines[0]
    assert len({len(line) for line in lines[:17]}) == 1
    assert all(f"{name} " in line for name, line in zip(names, lines[1:17], strict=True))
    assert [line for line in lines if set(line) == {"-"}] == [lines[17]]
    assert lines[18].startswith("pooled mean")


def test_the_stack_table_has_a_row_per_stack():
    halves = joint_counts(errors_at([0.0] * 8 + [1000.0] * 8))
    whole = joint_counts(errors_at([2.0] * 16))
    measure = MPII.measure("pckh")
    text = stack_table([scores(counts, MPII, measure) for counts in (halves, whole)])
    head, *rows = text.splitlines()
    assert head.split() == ["stack", "PCKh@0.5", "PCKh@0.1", "AUC", "0-0.5"]
    # Without pelvis and thorax 6 of 14 are right; errors of 0.2 are wrong up to there.
    assert rows[0].split() == ["1/2", "42.86", "42.86", "42.86"]
    assert rows[1].split()[:3] == ["2/2", "100.00", "0.00"]
