"""The moving average of the weights: how fast it forgets, in samples."""

import math

import pytest
import torch
from torch import nn

from pipeline.training.ema import WeightAverage


def network_of(weight: float) -> nn.Module:
    """A scale and a BatchNorm, every number of them `weight`."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    fill(network, weight)
    return network


def fill(network: nn.Module, weight: float) -> None:
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(weight)


def values(network: nn.Module) -> list[float]:
    """Every number of a network but the count of batches."""
    return [
        float(tensor)
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]


def test_weights_one_time_constant_old_count_one_part_in_e():
    network = network_of(8.0)
    average = WeightAverage(network, 500)
    fill(network, 0.0)
    average.update(500, 1_000_000)
    # Weights and BatchNorm's statistics alike.
    assert values(average.network) == pytest.approx([8 / math.e] * 5)
    assert values(network) == [0.0] * 5


def test_the_average_depends_on_samples_and_not_on_steps():
    network = network_of(8.0)
    one, four = WeightAverage(network, 1000), WeightAverage(network, 1000)
    fill(network, 1.0)
    one.update(80, 1_000_000)
    for _ in range(4):
        four.update(20, 1_000_000)
    assert values(one.network) == pytest.approx(values(four.network))
    assert values(one.network) == pytest.approx([1 + 7 * math.exp(-0.08)] * 5)


def test_initial_weights_are_soon_forgotten():
    network = network_of(8.0)
    average = WeightAverage(network, 1_000_000)
    fill(network, 0.0)
    # The first step's samples are all there are: ten times a tenth of them.
    average.update(32, 32)
    assert values(average.network) == pytest.approx([8 * math.exp(-10)] * 5, rel=1e-3)
    fill(network, 1.0)
    average.update(32, 640)
    # By then the average reaches back over 64 samples.
    assert values(average.network) == pytest.approx([1 - math.exp(-0.5)] * 5, rel=1e-3)


def test_norms_that_are_synchronised_later_are_averaged_too():
    network = network_of(8.0)
    average = WeightAverage(network, 500)
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    fill(network, 0.0)
    average.update(500, 1_000_000)
    assert values(average.network) == pytest.approx([8 / math.e] * 5)


def test_the_average_does_not_affect_training():
    network = network_of(2.0)
    average = WeightAverage(network, 100)
    network(torch.tensor([[1.0], [2.0]])).sum().backward()
    average.update(2, 1000)
    assert network[0].weight.grad is not None
    assert all(weight.grad is None for weight in average.network.parameters())
    assert not any(weight.requires_grad for weight in average.network.parameters())
