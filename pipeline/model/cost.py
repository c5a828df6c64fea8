"""Cost of a network, computed from the shapes of an empty batch: parameters, operations, memory.

The meta device would do as well, but its shapes come from torch's compiler, which takes two seconds
to load.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.build import build_network
from pipeline.model.network import PoseNetwork
from pipeline.model.parts import Compute, recompute, set_policy
from pipeline.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and `macs`: multiply-accumulates of the convolutions for one image, forward."""

    parameters: int
    macs: int

    @property
    def training_flops(self) -> int:
        """Floating-point operations of one image: 2 per MAC, backward twice as many as forward."""
        return 6 * self.macs


@cache
def network_cost(settings: ModelSettings) -> Cost:
    """Count a network's parameters and multiply-accumulates."""
    network, images = _empty(settings, torch.float32)
    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d)
        macs += output.shape[1:].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, macs=macs)


def training_bytes(
    settings: ModelSettings, batch_size: int, dtype: torch.dtype, *, forgetful: bool
) -> int:
    """Estimate the memory of a training step: weights, gradients, two moments, activations.

    Convolutions compute in `dtype`; `forgetful` networks have had `recompute_residuals` called.
    The memory of the process and its libraries comes on top.
    """
    parameters = network_cost(settings).parameters
    # The backward pass needs the weights in reduced precision too.
    copies = 0 if dtype is torch.float32 or forgetful else dtype.itemsize
    return (16 + copies) * parameters + batch_size * activation_bytes(
        settings, dtype, forgetful=forgetful
    )


def activation_bytes(settings: ModelSettings, dtype: torch.dtype, *, forgetful: bool) -> int:
    """Return the peak number of bytes that autograd stores for one image, without weights.

    A `forgetful` network stores one part's activations at a time, during its backward pass, and
    the inputs of all parts before it.
    """
    network, images = _empty(settings, dtype)
    most = 0
    with _saved(network) as kept:

        def measure(module: nn.Module, compute: Compute, *inputs: Tensor) -> Any:
            nonlocal most
            with _saved(network) as within:
                compute(*inputs)
            most = max(most, _bytes(kept | within))
            return recompute(module, compute, *inputs)

        if forgetful:
            set_policy(network, measure)
        network(images)
    return max(most, _bytes(kept))


class _Norm(torch.autograd.Function):
    """Stores its input as BatchNorm does, which stores more of an empty batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.empty_like(x)


def _empty(settings: ModelSettings, dtype: torch.dtype) -> tuple[PoseNetwork, Tensor]:
    """Return a network whose weights have no values, and a batch of no images."""
    network = build_network(settings, 0, torch.device("meta"), zero_heads=False)
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(weight.shape, dtype=dtype)))
        if isinstance(module, nn.BatchNorm2d):
            module.forward = _Norm.apply  # type: ignore[method-assign]
    side = settings.input_px
    return network, torch.empty(0, 3, side, side, dtype=dtype)


@contextmanager
def _saved(network: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Collect the tensors that autograd saves in the block, one per storage, without weights."""
    weights = {id(parameter) for parameter in network.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Kept alive, so that no other storage gets the identity of a freed one.
        if id(tensor) not in weights:
            saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _bytes(saved: Mapping[int, Tensor]) -> int:
    """Return the bytes of one image's part of the tensors."""
    return sum(tensor.shape[1:].numel() * tensor.itemsize for tensor in saved.values())
