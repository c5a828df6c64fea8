"""An exponential moving average of a network's weights, over samples."""

import copy
import math

import torch
from torch import nn

# Early in training the average reaches back over this share of the samples seen,
# so that the random weights of the start are soon forgotten.
_REACH = 0.1


class WeightAverage:
    """The moving average of a network, as a network of its own; the first one trains on unaware.

    `time_constant` is in samples, so that a recipe's average is the same for
    any batch: what lies that far back counts 1/e as much as what is new.
    BatchNorm's running statistics are averaged with the weights: the
    statistics of the moment belong to the weights of the moment, and would
    fit averaged ones worse.
    """

    def __init__(self, network: nn.Module, time_constant: int) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._time_constant = time_constant
        # BatchNorm's counts of batches, the only whole numbers, are of no use in evaluation.
        self._pairs = [
            (ours, theirs)
            for ours, theirs in zip(
                self.network.state_dict().values(), network.state_dict().values(), strict=True
            )
            if ours.is_floating_point()
        ]

    def update(self, batch: int, samples: int) -> None:
        """Follow the network after a step of `batch` samples, the last of `samples` seen in all."""
        reach = min(self._time_constant, _REACH * samples)
        ours, theirs = map(list, zip(*self._pairs, strict=True))
        torch._foreach_lerp_(ours, theirs, -math.expm1(-batch / reach))
