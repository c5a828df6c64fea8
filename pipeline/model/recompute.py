"""Parts of a network that are kept for the backward pass, or forgotten and computed again in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Compute = Callable[..., Any]
# Given the module, what computes the part, and its inputs.
Way = Callable[..., Any]


def store(module: nn.Module, compute: Compute, *inputs: Tensor) -> Any:
    """Compute a part as it stands."""
    return compute(*inputs)


def recompute(module: nn.Module, compute: Compute, *inputs: Tensor) -> Any:
    """Compute a part and keep its inputs alone; the backward pass computes it again, to save memory."""
    if not torch.is_grad_enabled():
        return compute(*inputs)
    return checkpoint(
        compute,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing within is random
        context_fn=lambda: (nullcontext(), _statistics_kept(module)),
    )


class Recomputable(nn.Module):
    """A module that computes in parts, runs of residuals with the few layers around them, in some way."""

    def __init__(self) -> None:
        super().__init__()
        self.way: Way = store

    def part(self, compute: Compute, *inputs: Tensor) -> Any:
        """Return what `compute`, which uses this module's layers alone, makes of the inputs."""
        return self.way(self, compute, *inputs)


def set_recompute(network: nn.Module, way: Way) -> None:
    """Set the way in which every module of the network computes its parts."""
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.way = way


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm's running statistics be: the first computation has moved them already."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Without its statistics a norm would save other tensors than it did at first.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
