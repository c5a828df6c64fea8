"""Charts hold the numbers given, and can be drawn."""

import io
from dataclasses import replace

import numpy as np
import pytest
from factories import person, sample, samples
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import DrawnPose, draw_augmented, draw_truth, overlay, pose_of, spaced
from pipeline.data.shards.reader import ShardReader
from pipeline.evaluation.charts import curves, joint_bars, threshold_curve
from pipeline.evaluation.metrics import THRESHOLDS, JointCounts, Scores, scores
from pipeline.pose.joint_sets import MPII, OKS
from pipeline.pose.person import Visibility
from pipeline.settings import DataSettings
from tune.figures.scatter import trials_against


def png(figure: Figure) -> bytes:
    """Draw the figure; a warning would be an error."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    return buffer.getvalue()


def is_picture(figure: Figure) -> bool:
    return png(figure).startswith(b"\x89PNG")


def made_counts() -> JointCounts:
    """Joint k of 20 annotated: k correct from 0.1 on, all 20 from 0.4 on."""
    correct = np.zeros((len(THRESHOLDS), 16), np.int64)
    correct[10:40] = np.arange(16)
    correct[40:] = 20
    return JointCounts(correct=correct, annotated=np.full(16, 20))


def made_scores() -> Scores:
    return scores(made_counts(), MPII, MPII.measure("pckh"))


def pose(**changes) -> DrawnPose:
    made = {
        "image": np.zeros((40, 60, 3), np.uint8),
        "joints": np.array([(10.0 + k, 20.0 + k) for k in range(16)]),
        "shown": np.ones(16, bool),
    }
    return DrawnPose(**made | changes)


def lines_of(axis, marker: str) -> list:
    return [line for line in axis.lines if line.get_marker() == marker]


def rings_of(axis) -> list:
    return [line for line in axis.lines if line.get_markerfacecolor() == "none"]


# People


def test_an_overlay_has_one_picture_per_person():
    figure = overlay([pose(title=f"person {k}") for k in range(5)], MPII, "five people")
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == [f"person {k}" for k in range(5)]
    assert figure.get_suptitle() == "five people"
    assert shown[0].images[0].get_array().shape == (40, 60, 3)
    # The first pixel's centre is at 0, and y points down.
    assert shown[0].get_xlim() == (-0.5, 59.5)
    assert shown[0].get_ylim() == (39.5, -0.5)
    assert is_picture(figure)


def test_limbs_join_the_joints_and_left_is_orange():
    [axis, *_] = overlay([pose()], MPII, "").axes
    limbs = lines_of(axis, "None")
    assert len(limbs) == len(MPII.limbs) == 15
    ankle_to_knee = limbs[MPII.limbs.index((4, 5))]
    assert ankle_to_knee.get_xydata().tolist() == [[14.0, 24.0], [15.0, 25.0]]
    colours = {limb: to_hex(line.get_color()) for limb, line in zip(MPII.limbs, limbs, strict=True)}
    assert colours[(4, 5)] == "#ff7f0e"
    assert colours[(0, 1)] == "#1f9bff"
    # From the hip to the pelvis, and up the spine, is neither side.
    assert colours[(2, 6)] == colours[(6, 7)] == "#7bd34f"


def test_a_joint_that_is_not_shown_has_neither_dot_nor_limb():
    shown = np.ones(16, bool)
    shown[5] = False
    [axis, *_] = overlay([pose(shown=shown)], MPII, "").axes
    assert len(lines_of(axis, "None")) == 14
    dots = [line.get_xydata()[0].tolist() for line in lines_of(axis, "o")]
    assert len(dots) == 15
    assert [15.0, 25.0] not in dots


def test_the_truth_is_ringed_where_it_is_annotated_alone():
    annotated = np.zeros(16, bool)
    annotated[[3, 9]] = True
    truth = np.array([(30.0 + k, 5.0) for k in range(16)])
    [axis, *_] = overlay([pose(truth=truth, annotated=annotated)], MPII, "").axes
    assert [ring.get_xydata()[0].tolist() for ring in rings_of(axis)] == [[33.0, 5.0], [39.0, 5.0]]
    [unknown, *_] = overlay([pose()], MPII, "").axes
    assert rings_of(unknown) == []


def test_a_pose_is_drawn_in_the_pixels_of_its_crop():
    states = (Visibility.MISSING,) + (Visibility.VISIBLE,) * 15
    made = sample(4, visibility=states)
    predicted = np.array(made.person.joints) + (10.0, 0.0)
    drawn = pose_of(made, predicted)
    # The stored square begins at (25, 5), 64 pixels for the frame's 100.
    assert (made.crop.left, made.crop.top) == (25, 5)
    factor = made.crop.factor_x
    assert factor == pytest.approx(0.64, abs=0.01)
    assert drawn.truth[5] == pytest.approx(
        ((92.5 - 25 + 0.5) * factor - 0.5, (72.5 - 5 + 0.5) * made.crop.factor_y - 0.5)
    )
    assert (drawn.joints - drawn.truth)[:, 0] == pytest.approx(np.full(16, 10 * factor))
    assert drawn.annotated.tolist() == [False] + [True] * 15
    assert drawn.shown.all()
    assert drawn.title == "photo-004_00"


@pytest.mark.parametrize(
    ("people", "count", "chosen"),
    [(5, 3, [0, 2, 4]), (9, 5, [0, 2, 4, 6, 8]), (2, 12, [0, 1]), (1, 1, [0])],
)
def test_people_to_draw_are_evenly_spaced(people, count, chosen):
    assert spaced(people, count).tolist() == chosen


def test_training_samples_are_drawn_as_the_network_sees_them(pack):
    paths = pack(samples(4))
    loader = SampleLoader(ShardReader([str(path) for path in paths]), MPII, 64)
    figure = draw_augmented(loader, DataSettings(), spaced(4, 3))
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == ["photo-000_00", "photo-001_00", "photo-003_00"]
    assert shown[0].images[0].get_array().shape == (64, 64, 3)
    assert is_picture(figure)


def test_unvaried_training_samples_carry_their_joints(pack):
    made = person()
    paths = pack(samples(1))
    loader = SampleLoader(ShardReader([str(path) for path in paths]), MPII, 64)
    plain = DataSettings(scale_jitter=0.0, rotation_deg=0.0, flip_share=0.0, color_jitter=0.0)
    [axis, *_] = draw_augmented(loader, plain, np.array([0])).axes
    dots = np.array([line.get_xydata()[0] for line in lines_of(axis, "o")])
    # The frame of 100 pixels around (100, 80) on 64 pixels, whose middle is 31.5.
    expected = (np.array(made.joints) - (100, 80)) * 0.64 + 31.5
    assert dots == pytest.approx(expected, abs=1e-3)


def test_annotated_joints_are_drawn_on_the_stored_crop_and_occluded_ones_ringed(pack):
    states = (Visibility.MISSING, Visibility.OCCLUDED) + (Visibility.VISIBLE,) * 14
    paths = pack(samples(1, visibility=states))
    loader = SampleLoader(ShardReader([str(path) for path in paths]), MPII, 64)
    [axis, *_] = draw_truth(loader, np.array([0]), "").axes
    rings = rings_of(axis)
    dots = [line for line in lines_of(axis, "o") if line not in rings]
    # The stored square begins at (25, 5), 64 pixels for the frame's 100; joint 0 is missing.
    factor_x, factor_y = (loader.samples[0].crop.factor_x, loader.samples[0].crop.factor_y)
    joints = np.array(loader.samples[0].person.joints)
    expected = (joints - (24.5, 4.5)) * (factor_x, factor_y) - 0.5
    assert np.array([dot.get_xydata()[0] for dot in dots]) == pytest.approx(expected[1:])
    [ring] = rings
    assert ring.get_xydata()[0] == pytest.approx(expected[1])
    # Of 15 limbs one ends at the right ankle.
    assert len(lines_of(axis, "None")) == 14


def test_a_long_name_is_shortened_and_never_read_as_a_formula():
    [axis, *_] = overlay([pose(title="a" * 40 + "_$x_{_01")], MPII, "").axes
    assert axis.get_title() == "\u2026" + "a" * 23 + "_$x_{_01"
    assert not axis.title.get_parse_math()
    assert is_picture(axis.figure)


# Curves and bars


def test_curves_hold_loss_and_accuracy_by_epoch():
    history = {
        "train_loss": [(1, 3.0), (2, 0.5)],
        "val_loss": [(1, 4.0), (2, 2.5)],
        "pckh_0.5": [(1, 10.0), (2, 60.0)],
    }
    figure = curves(history, "pckh_0.5", "PCKh@0.5")
    losses, accuracy = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert drawn == {"train_loss": [[1, 3], [2, 0.5]], "val_loss": [[1, 4], [2, 2.5]]}
    assert losses.get_yscale() == "log"
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 10], [2, 60]]
    assert accuracy.get_ylabel() == "PCKh@0.5 (%)"
    assert accuracy.get_ylim() == (0, 100)
    assert all(float(place).is_integer() for axis in figure.axes for place in axis.get_xticks())
    assert is_picture(figure)


def test_losses_of_about_the_same_size_have_an_axis_with_plain_numbers():
    history = {"train_loss": [(1, 3.7), (2, 3.5)], "val_loss": [(1, 3.6), (2, 3.4)]}
    assert curves(history, "pckh_0.5", "PCKh@0.5").axes[0].get_yscale() == "linear"


def test_curves_of_a_single_epoch_and_no_accuracy_are_drawn_too():
    history = {"train_loss": [(1, 3.0)], "val_loss": [(1, 3.0)], "pckh_0.5": []}
    figure = curves(history, "pckh_0.5", "PCKh@0.5")
    assert figure.axes[1].lines[:] == []
    assert is_picture(figure)


def test_bars_are_as_long_as_the_joints_are_accurate():
    figure = joint_bars(made_scores())
    [axis] = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(MPII.joints)
    assert [bar.get_width() for bar in axis.patches] == [100.0] * 16
    assert axis.lines[0].get_xdata() == [100.0, 100.0]
    assert axis.get_xlabel() == "PCKh@0.5 (%)"
    # The first joint is on top.
    assert axis.yaxis_inverted()
    assert is_picture(figure)


def test_bars_of_joints_without_annotations_are_drawn_too():
    counts = JointCounts(
        correct=made_counts().correct * ([1] * 15 + [0]), annotated=np.array([20] * 15 + [0])
    )
    assert is_picture(joint_bars(scores(counts, MPII, MPII.measure("pckh"))))


def test_the_threshold_curve_is_pooled_over_the_joints_of_the_mean():
    figure = threshold_curve(made_counts(), made_scores())
    [axis] = figure.axes
    [line] = axis.lines
    assert line.get_xdata().tolist() == THRESHOLDS.tolist()
    # 0 to 15 without pelvis and thorax: 120 - 13 of 14 * 20.
    middle = 100 * 107 / 280
    assert line.get_ydata() == pytest.approx([0.0] * 10 + [middle] * 30 + [100.0] * 11)
    assert is_picture(figure)


def test_the_curve_of_similarities_falls_from_one_to_a_half():
    joint_set = replace(MPII, sigmas=(0.1,) * 16)
    figure = threshold_curve(made_counts(), scores(made_counts(), joint_set, OKS))
    [axis] = figure.axes
    [line] = axis.lines
    assert (line.get_xdata()[0], line.get_xdata()[-1], axis.get_xlim()) == (1.0, 0.5, (1.0, 0.5))
    assert line.get_ydata()[[0, -1]].tolist() == [0, 100]
    assert axis.get_xlabel() == "threshold (similarity of a joint)"
    bars = joint_bars(scores(made_counts(), joint_set, OKS)).axes[0]
    assert bars.get_xlabel() == "OKS@0.5 (%)"


def test_trials_are_joined_at_the_best_of_each_value():
    figure = trials_against("model.stacks", [2, 1, 2, 4], [50.0, 40.0, 55.0, 60.0], "PCKh@0.5")
    [axis] = figure.axes
    trials, best = axis.lines
    assert trials.get_xydata().tolist() == [[2, 50], [1, 40], [2, 55], [4, 60]]
    assert best.get_xydata().tolist() == [[1, 40], [2, 55], [4, 60]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("model.stacks", "best PCKh@0.5 (%)")
    assert axis.get_xscale() == "linear"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "4"]
    assert is_picture(figure)


def test_values_of_several_orders_are_drawn_on_a_logarithmic_axis():
    figure = trials_against("optim.learning_rate", [1e-4, 1e-3, 1e-2], [1.0, 2.0, 3.0], "PCKh@0.5")
    assert figure.axes[0].get_xscale() == "log"
    assert is_picture(figure)
    one = trials_against("optim.learning_rate", [1e-4], [1.0], "PCKh@0.5")
    assert one.axes[0].get_xscale() == "linear"
    assert is_picture(one)


def test_values_that_are_words_or_truths_lie_side_by_side():
    values = ["inside", "last-stack", "inside"]
    figure = trials_against("model.supervision", values, [1.0, 2.0, 3.0], "PCKh@0.5")
    [axis] = figure.axes
    trials, best = axis.lines
    assert trials.get_xydata().tolist() == [[0, 1], [1, 2], [0, 3]]
    assert best.get_xydata().tolist() == [[0, 3], [1, 2]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["inside", "last-stack"]
    truths = trials_against("optim.zero_heads", [True, False], [1.0, 2.0], "PCKh@0.5")
    labels = truths.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["True", "False"]
    assert is_picture(figure)
