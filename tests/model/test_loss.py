"""Losses of intermediate supervision, computed by hand."""

import subprocess
import sys
from math import exp, log, pi
from typing import get_args

import pytest
import torch

from pipeline.model.loss import (
    LOSSES,
    batch_loss,
    heatmap_cross_entropy,
    heatmap_mse,
    stack_weights,
    taught_target,
    to_heatmaps,
    trained_joints,
)
from pipeline.model.network import Heatmaps
from pipeline.settings import LAST_STACK, Loss, OptimSettings

# Two stacks, one sample, two joints, maps of 1 x 2 pixels.
TARGET = torch.tensor([[[[0.0, 0.0]], [[0.0, 2.0]]]])
PREDICTED = torch.tensor(
    [
        # squared errors 1, 9 (mean 5) and 4, 4 (mean 4)
        [[[[1.0, 3.0]], [[2.0, 0.0]]]],
        # squared errors 4, 0 (mean 2) and 1, 1 (mean 1)
        [[[[2.0, 0.0]], [[1.0, 1.0]]]],
    ]
)


def test_the_loss_is_summed_over_stacks_and_averaged_over_maps():
    loss = heatmap_mse(PREDICTED, TARGET, torch.tensor([[True, True]]))
    assert loss.item() == ((5 + 2) + (4 + 1)) / 2


def test_the_same_prediction_from_twice_the_stacks_costs_twice():
    both = torch.tensor([[True, True]])
    one = heatmap_mse(PREDICTED[:1], TARGET, both)
    two = heatmap_mse(PREDICTED[:1].repeat(2, 1, 1, 1, 1), TARGET, both)
    assert (one.item(), two.item()) == (4.5, 9.0)


def test_a_masked_joint_does_not_enter_the_mean():
    assert heatmap_mse(PREDICTED, TARGET, torch.tensor([[True, False]])).item() == 7
    assert heatmap_mse(PREDICTED, TARGET, torch.tensor([[False, True]])).item() == 5


def test_a_masked_joint_gets_no_gradient():
    predicted = PREDICTED.clone().requires_grad_()
    heatmap_mse(predicted, TARGET, torch.tensor([[True, False]])).backward()
    # d/dp of (p - t)^2 / 2 pixels / 1 map
    assert predicted.grad[:, 0, 0, 0].tolist() == [[1.0, 3.0], [2.0, 0.0]]
    assert not predicted.grad[:, 0, 1].any()


def test_nothing_to_train_costs_nothing():
    loss = heatmap_mse(PREDICTED, TARGET, torch.tensor([[False, False]]))
    assert loss.item() == 0


def test_losses_of_stacks_are_weighed():
    weights = torch.tensor([0.5, 1.5])
    both = torch.tensor([[True, True]])
    # Means over the maps of each stack: (5 + 4) / 2 and (2 + 1) / 2.
    assert heatmap_mse(PREDICTED, TARGET, both, weights).item() == 0.5 * 4.5 + 1.5 * 1.5


@pytest.mark.parametrize(
    ("ratio", "expected"), [(2.0, [3 / 7, 6 / 7, 12 / 7]), (0.5, [12 / 7, 6 / 7, 3 / 7])]
)
def test_weights_of_stacks_grow_by_the_ratio_and_add_up_to_their_number(ratio, expected):
    weights = stack_weights(3, ratio, torch.device("cpu"))
    assert weights is not None
    assert weights.tolist() == pytest.approx(expected)


def test_equal_weights_are_the_sum_of_the_paper():
    assert stack_weights(3, 1.0, torch.device("cpu")) is None


def test_the_loss_of_a_batch_weighs_its_stacks_by_the_setting():
    maps = torch.zeros(2, 1, 1, 4, 4)
    maps[1] = 3.0
    nothing = torch.zeros(1, 1, 2), torch.tensor([[False]])
    predicted = Heatmaps(stacks=maps, supervised=(maps,))
    # Against all-zero targets the first stack costs 0, the second 9.
    assert batch_loss(predicted, *nothing, OptimSettings()).item() == 9
    weighed = batch_loss(predicted, *nothing, OptimSettings(stack_ratio=3.0))
    assert weighed.item() == pytest.approx(9 * 1.5)


# Teachers: one sample, two joints of which the second has no label, maps of 1 x 2 pixels.
LABEL = torch.tensor([[[[0.0, 8.0]], [[0.0, 0.0]]]])
LABELLED = torch.tensor([[True, False]])
TAUGHT = torch.tensor([[[[4.0, 0.0]], [[2.0, 6.0]]]])


def optim(**changes) -> OptimSettings:
    return OptimSettings(**{"teacher": "a", "teacher_share": 0.25} | changes)


def test_the_target_is_the_label_mixed_with_the_teachers_heatmap():
    target = taught_target(LABEL, LABELLED, TAUGHT, 2, optim())
    # A quarter of the teacher: 0 + 4 / 4 and 8 - 8 / 4; a label says that the second is missing.
    assert target.tolist() == [[[[[1.0, 6.0]], [[0.5, 1.5]]]]] * 2


def test_a_joint_without_label_is_learned_from_the_teacher_alone():
    target = taught_target(LABEL, LABELLED, TAUGHT, 1, optim(missing_joints="mask"))
    assert target.tolist() == [[[[[1.0, 6.0]], [[2.0, 6.0]]]]]


def test_the_last_stack_teaches_the_others_and_not_itself():
    target = taught_target(LABEL, LABELLED, TAUGHT, 3, optim(teacher=LAST_STACK))
    assert target[:2].tolist() == [[[[[1.0, 6.0]], [[0.5, 1.5]]]]] * 2
    assert torch.equal(target[2], LABEL)


def test_distributions_are_mixed_where_the_loss_compares_distributions():
    probabilities = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])
    settings = optim(loss="cross-entropy", teacher_share=0.5)
    target = taught_target(SHARES, BOTH, probabilities, 1, settings)
    # SHARES are 1/4, 3/4 and 0, 1 as distributions.
    assert target.tolist() == [[[[[0.625, 0.375]], [[0.25, 0.75]]]]]


@pytest.mark.parametrize(
    ("teacher", "missing_joints", "expected"),
    [
        ("a", "mask", [True, True]),
        (LAST_STACK, "mask", [True, False]),
        ("", "mask", [True, False]),
        (LAST_STACK, "zero", [True, True]),
    ],
)
def test_trained_teachers_let_joints_without_label_enter_the_loss(
    teacher, missing_joints, expected
):
    settings = optim(teacher=teacher, missing_joints=missing_joints)
    joints = torch.zeros(1, 2, 2)
    assert trained_joints(joints, LABELLED, 4, settings, is_taught=True).tolist() == [expected]
    # Evaluation knows no teacher.
    alone = [True, missing_joints == "zero"]
    assert trained_joints(joints, LABELLED, 4, settings).tolist() == [alone]


def test_the_loss_of_a_batch_compares_with_what_is_taught():
    maps = torch.full((1, 1, 1, 4, 4), 2.0, requires_grad=True)
    predicted = Heatmaps(stacks=maps, supervised=(maps,))
    no_label = torch.zeros(1, 1, 2), torch.tensor([[False]])
    settings = optim(missing_joints="mask")
    loss = batch_loss(predicted, *no_label, settings, torch.full((1, 1, 4, 4), 5.0))
    assert loss.item() == 9
    assert batch_loss(predicted, *no_label, settings).item() == 0


def test_half_precision_maps_are_compared_in_single_precision():
    # The difference is 2**-7, the step of bfloat16 above 1; its square is exact in float32 alone.
    target = torch.tensor([[[[1 + 2**-7, 3.0]]]], dtype=torch.bfloat16)
    predicted = torch.ones(1, 1, 1, 1, 2, dtype=torch.bfloat16)
    loss = heatmap_mse(predicted, target, torch.tensor([[True]]))
    assert loss.dtype == torch.float32
    assert loss.item() == (2**-14 + 4) / 2


def test_all_zero_maps_of_every_resolution_cost_the_same():
    optim = OptimSettings(sigma_px=1.0, target_peak=10.0)
    maps = [torch.zeros(1, 1, 1, side, side) for side in (16, 32, 64)]
    middle = torch.tensor([[[31.5, 31.5]]])

    def cost(*supervised: torch.Tensor) -> float:
        predicted = Heatmaps(stacks=maps[-1], supervised=supervised)
        return batch_loss(predicted, middle, torch.tensor([[True]]), optim).item()

    # The integral of a squared Gaussian, pi * sigma ** 2, over the output's pixels.
    assert cost(maps[-1]) == pytest.approx(100 * pi / 64**2, rel=1e-3)
    assert cost(*maps) == pytest.approx(3 * cost(maps[-1]), rel=1e-3)


# Cross-entropy

# Two stacks, one sample, two joints, maps of 1 x 2 pixels: shares 1/4, 3/4 and 0, 1.
SHARES = torch.tensor([[[[0.5, 1.5]], [[0.0, 7.0]]]])
LOGITS = torch.tensor([[[[[0.0, 0.0]], [[log(3), 0.0]]]], [[[[0.0, log(3)]], [[0.0, 0.0]]]]])
BOTH = torch.tensor([[True, True]])


def test_cross_entropy_is_summed_over_stacks_and_averaged_over_maps():
    # Probabilities 1/2, 1/2 and 3/4, 1/4 in the first stack; 1/4, 3/4 and 1/2, 1/2 in the second.
    first = log(2) + log(4)
    second = -(log(1 / 4) + 3 * log(3 / 4)) / 4 + log(2)
    loss = heatmap_cross_entropy(LOGITS, SHARES, BOTH)
    assert loss.item() == pytest.approx((first + second) / 2)


def test_the_height_of_a_target_does_not_matter_to_cross_entropy():
    once = heatmap_cross_entropy(LOGITS, SHARES, BOTH)
    assert heatmap_cross_entropy(LOGITS, 50 * SHARES, BOTH).item() == pytest.approx(once.item())
    assert heatmap_cross_entropy(LOGITS + 9, SHARES, BOTH).item() == pytest.approx(once.item())


def test_cross_entropy_pulls_toward_the_targets_shares():
    predicted = LOGITS.clone().requires_grad_()
    heatmap_cross_entropy(predicted, SHARES, torch.tensor([[True, False]])).backward()
    # Probability less share; the masked joint gets none. Probabilities are exponentials in float32,
    # right to a few of its steps of 6e-8 below 1, and so are differences of them that should be 0.
    found = predicted.grad[:, 0, 0, 0].flatten().tolist()
    assert found == pytest.approx([0.25, -0.25, 0, 0], abs=1e-6)
    assert not predicted.grad[:, 0, 1].any()


def test_an_empty_target_asks_for_the_uniform_distribution():
    empty = torch.zeros(1, 1, 1, 4)
    one = torch.tensor([[True]])
    flat = torch.zeros(1, 1, 1, 1, 4, requires_grad=True)
    loss = heatmap_cross_entropy(flat, empty, one)
    loss.backward()
    assert loss.item() == pytest.approx(log(4))
    assert flat.grad.abs().max() < 1e-7
    certain = torch.tensor([[[[[20.0, 0, 0, 0]]]]])
    assert heatmap_cross_entropy(certain, empty, one) > 10


def test_cross_entropy_of_half_precision_maps_is_computed_in_single_precision():
    logits = torch.zeros(1, 1, 1, 1, 1000, dtype=torch.bfloat16)
    target = torch.zeros(1, 1, 1, 1000)
    target[..., 0] = 1.0
    loss = heatmap_cross_entropy(logits, target, torch.tensor([[True]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(log(1000), rel=1e-6)


def test_heatmaps_of_a_cross_entropy_network_are_probabilities():
    maps = to_heatmaps(
        torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]], dtype=torch.bfloat16), "cross-entropy"
    )
    assert maps.dtype == torch.float32
    assert maps.flatten().tolist() == pytest.approx(
        [exp(1) / (exp(1) + 3)] + [1 / (exp(1) + 3)] * 3
    )


def test_heatmaps_of_a_squared_error_network_are_its_output():
    predicted = torch.tensor([[[[1.5, -2.0]]]], dtype=torch.bfloat16)
    assert to_heatmaps(predicted, "mse").tolist() == [[[[1.5, -2.0]]]]
    assert to_heatmaps(predicted, "mse").dtype == torch.float32


# Another loss

# In a separate process without checks of annotations, which don't know the third value.
THIRD_LOSS = """
from dataclasses import replace
import torch
from pipeline.model.heatmaps import render
from pipeline.model.network import Heatmaps
from pipeline.model.loss import LOSSES, batch_loss, is_flat, to_heatmaps
from pipeline.settings import OptimSettings

optim = OptimSettings(loss="absolute", target_peak=2.0)
joints, annotated = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[True]])
output = torch.zeros(1, 1, 1, 4, 4)
predicted = Heatmaps(stacks=output, supervised=(output,))
try:
    batch_loss(predicted, joints, annotated, optim)
except KeyError as error:
    print("refused:", error)

def mean_absolute(predicted, target, trained, weights):
    return ((predicted.float() - target).abs().mean(dim=(-2, -1)) * trained).sum()

LOSSES["absolute"] = replace(
    LOSSES["mse"], loss=mean_absolute, to_heatmaps=lambda output: 3 * output
)
target = render(joints, annotated, 4, optim.sigma_px, 2.0)
print(float(batch_loss(predicted, joints, annotated, optim)) == float(target.mean()))
print(to_heatmaps(torch.ones(1, 2, 2), "absolute").tolist())
print(is_flat(torch.tensor([[0.1], [0.3]]), "absolute", 2.0, 16).tolist())
"""


def test_another_loss_is_one_entry_and_nothing_trains_without_one():
    done = subprocess.run(
        [sys.executable, "-c", THIRD_LOSS], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "refused: 'absolute'",
        "True",
        "[[[3.0, 3.0], [3.0, 3.0]]]",
        "[True, False]",
    ]


def test_every_value_of_the_setting_has_an_entry():
    assert tuple(LOSSES) == get_args(Loss)
