"""The loss of intermediate supervision, worked out by hand."""

import torch

from pipeline.network.loss import heatmap_mse

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


def test_half_precision_maps_are_compared_in_single_precision():
    # The difference is 2**-7, the step of bfloat16 above 1; its square is exact in float32 alone.
    target = torch.tensor([[[[1 + 2**-7, 3.0]]]], dtype=torch.bfloat16)
    predicted = torch.ones(1, 1, 1, 1, 2, dtype=torch.bfloat16)
    loss = heatmap_mse(predicted, target, torch.tensor([[True]]))
    assert loss.dtype == torch.float32
    assert loss.item() == (2**-14 + 4) / 2
