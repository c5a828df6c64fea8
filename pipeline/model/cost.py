"""Cost of a network, computed without running it: parameters, operations, memory."""

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
    """Measure a network on the meta device, which neither computes nor allocates."""
    network, images = _on_meta(settings, torch.float32)
    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d)
        macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    # On the meta device BatchNorm takes most of the time, and less in eval mode.
    network.eval()(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, macs=macs // len(images))


def training_bytes(
    settings: ModelSettings, batch_size: int, dtype: torch.dtype, *, forgetful: bool
) -> int:
    """Estimate the memory of a training step: weights, gradients, two moments, activations.

    Convolutions compute in `dtype`; `forgetful` networks have had `recompute_residuals` called.
    The memory of the process and its libraries comes on top.
    """
    network, _ = _on_meta(settings, dtype)
    parameters = sum(parameter.numel() for parameter in network.parameters())
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
    network, images = _on_meta(settings, dtype)
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
    return max(most, _bytes(kept)) // len(images)


def _on_meta(settings: ModelSettings, dtype: torch.dtype) -> tuple[PoseNetwork, Tensor]:
    meta, side = torch.device("meta"), settings.input_px
    network = build_network(settings, 0, meta, zero_heads=False).to(dtype)
    # Two: BatchNorm refuses one value per channel, which one image can come to.
    return network, torch.empty(2, 3, side, side, dtype=dtype, device=meta)


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
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
