"""The moving average of the weights: how fast it forgets, in samples."""

import math

import pytest
import torch
from factories import pack_samples, samples
from torch import nn
from trainers import alone, task_of

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


def test_the_average_that_is_evaluated_is_that_of_the_weights_of_the_steps(tmp_path):
    train = pack_samples(tmp_path / "train", [samples(8)])
    val = pack_samples(tmp_path / "val", [samples(5, first=20)], split="val")
    trainer = alone(task_of(train, val, **{"optim.ema_samples": 8, "optim.learning_rate": 0.05}))
    live = trainer.state.network.state_dict()
    names = [name for name, tensor in live.items() if tensor.is_floating_point()]
    average = {name: live[name].double() for name in names}
    for epoch in range(3):
        for report in trainer.train_epoch(every_s=0.0):
            reach = min(8, 0.1 * 2 * (4 * epoch + report.step))
            for name in names:
                average[name].lerp_(live[name].double(), 1 - math.exp(-2 / reach))
    averaged, raw = trainer.evaluate_people("ema")[0], trainer.evaluate_people("raw")[0]
    trainer.state.network.load_state_dict(average, strict=False)
    expected = trainer.evaluate_people("raw")[0]
    assert averaged.loss_sum == pytest.approx(expected.loss_sum, rel=1e-4)
    assert abs(raw.loss_sum - expected.loss_sum) > 0.01 * expected.loss_sum
    assert averaged.people == raw.people == 5
