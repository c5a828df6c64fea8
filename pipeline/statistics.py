"""BatchNorm's running statistics, and the way back to what they were before a step."""

import torch
from torch import Tensor, nn


class RunningStatistics:
    """The buffers of a network and a copy of them, each kept in one sweep over their memory.

    A forward pass moves them before anyone can know whether its step is a good
    one; with a NaN in it, for good.
    """

    def __init__(self, network: nn.Module) -> None:
        # Listed once: walking through the modules takes longer than copying. By
        # number format, of which one sweep takes one.
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._live = list(by_dtype.values())
        self._kept = [[torch.empty_like(buffer) for buffer in group] for group in self._live]

    def keep(self) -> None:
        """Copy them as they are."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def put_back(self) -> None:
        """Make them what they were when `keep` was called."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)
