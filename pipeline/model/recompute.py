"""Activation checkpointing: parts store activations for the backward pass or recompute them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Compute = Callable[..., Any]
# Takes the module, the function that computes the part, and its inputs.
Policy = Callable[..., Any]


def store(module: nn.Module, compute: Compute, *inputs: Tensor) -> Any:
    """Compute a part; autograd stores all that its backward pass needs."""
    return compute(*inputs)


def recompute(module: nn.Module, compute: Compute, *inputs: Tensor) -> Any:
    """Compute a part and store only its inputs; the backward pass computes it again."""
    if not torch.is_grad_enabled():
        return compute(*inputs)
    return checkpoint(
        compute,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,  # parts draw no random numbers
        context_fn=lambda: (nullcontext(), _frozen_statistics(module)),
    )


class Recomputable(nn.Module):
    """A module that computes in parts: runs of residuals with the few layers around them."""

    def __init__(self) -> None:
        super().__init__()
        self.policy: Policy = store

    def part(self, compute: Compute, *inputs: Tensor) -> Any:
        """Return the output of `compute`, which may use only this module's layers."""
        return self.policy(self, compute, *inputs)


def set_recompute(network: nn.Module, policy: Policy) -> None:
    """Set the policy of every module of the network that computes in parts."""
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.policy = policy


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics, which the first computation has updated already."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        # Without its statistics a norm would save other tensors than it did at first. A
        # SyncBatchNorm needs a count to add to; others skip an absent one.
        norm.momentum, norm.num_batches_tracked = 0.0, None
        if isinstance(norm, nn.SyncBatchNorm) and count is not None:
            norm.num_batches_tracked = count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
