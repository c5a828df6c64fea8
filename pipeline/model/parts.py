"""Parts of a network: computed as they are, recomputed in the backward pass, or compiled."""

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


class CompiledParts:
    """A policy that trains parts through torch.compile, with its `options`.

    Parts of one kind and shape share their code, so that eight stacks compile no longer than two.
    Without gradients parts are computed as they are: evaluation has batches of other sizes.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._compiled: dict[Compute, Compute] = {}

    def __call__(self, module: nn.Module, compute: Compute, *inputs: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return compute(*inputs)
        if compute not in self._compiled:
            # Code for a shape alone is the fastest.
            faster = torch.compile(compute, dynamic=False, options=self._options)
            self._compiled[compute] = faster
        return self._compiled[compute](*inputs)


class InParts(nn.Module):
    """A module that computes in parts: runs of residuals with the few layers around them."""

    def __init__(self) -> None:
        super().__init__()
        self.policy: Policy = store

    def part(self, compute: Compute, *inputs: Tensor) -> Any:
        """Return the output of `compute`, which may use only this module's layers."""
        return self.policy(self, compute, *inputs)


def set_policy(network: nn.Module, policy: Policy) -> None:
    """Set the policy of every module of the network that computes in parts."""
    for module in network.modules():
        if isinstance(module, InParts):
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
