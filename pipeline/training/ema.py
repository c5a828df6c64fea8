"""An exponential moving average of a network's weights, over samples."""

import copy
import math

import torch
from torch import Tensor, nn

from pipeline.pose.shapes import Bool

# Early in training the average reaches back over this share of the samples seen, so that it soon
# forgets the random initial weights.
_REACH = 0.1


class WeightAverage:
    """The moving average of a network, as a separate network that training does not touch.

    `time_constant` is in samples, so that it does not depend on the batch size: weights that old
    count 1/e as much as new ones. BatchNorm's running statistics are averaged too, because the
    current ones belong to the current weights and fit averaged weights worse.
    """

    def __init__(self, network: nn.Module, time_constant: int) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._time_constant = time_constant
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        # Without BatchNorm's counts of batches, the only integers, which evaluation ignores.
        self._pairs = [(average, live) for average, live in pairs if live.is_floating_point()]

    def update(self, batch: int, samples: int, is_good: Bool[Tensor, ""] | None = None) -> None:
        """Update the average after a step of `batch` samples, the last of `samples` in all.

        Given `is_good`, only if the device finds it; the host does not wait for that.
        """
        reach = min(self._time_constant, _REACH * samples)
        weight = -math.expm1(-batch / reach)
        averages, live = map(list, zip(*self._pairs, strict=True))
        if is_good is None:
            torch._foreach_lerp_(averages, live, weight)
            return
        moves = torch._foreach_sub(live, averages)
        torch._foreach_mul_(moves, is_good * weight)
        torch._foreach_add_(averages, moves)
