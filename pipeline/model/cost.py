"""What a network costs, worked out without running it: parameters, operations, memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.hourglass import StackedHourglass
from pipeline.model.recompute import Compute, recompute, set_recompute
from pipeline.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`macs` are multiply-accumulates of the convolutions for one image, forward."""

    parameters: int
    macs: int

    @property
    def training_flops(self) -> int:
        """Floating-point operations of forward and backward for one image (2 a MAC, backward twice forward)."""
        return 6 * self.macs


def network_cost(settings: ModelSettings) -> Cost:
    """Measure the network of `settings` on the meta device, where nothing is computed or allocated."""
    network, images = _on_meta(settings, torch.float32)
    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d)
        macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, macs=macs // len(images))


def training_bytes(
    settings: ModelSettings, batch_size: int, dtype: torch.dtype, *, forgetful: bool
) -> int:
    """Estimate the memory of a training step: weights, gradients, two moments, activations.

    `dtype` is what convolutions compute in; `forgetful` as after
    `recompute_residuals`. What a process and its libraries take before a
    network comes on top.
    """
    network, _ = _on_meta(settings, dtype)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # The backward pass needs the weights in reduced precision too.
    copies = 0 if dtype is torch.float32 or forgetful else dtype.itemsize
    return (16 + copies) * parameters + batch_size * activation_bytes(
        settings, dtype, forgetful=forgetful
    )


def activation_bytes(settings: ModelSettings, dtype: torch.dtype, *, forgetful: bool) -> int:
    """Most bytes that autograd keeps at a time for one image, weights left out.

    Where parts are forgotten, each in turn is kept while its backward pass runs,
    beside the inputs of those before it.
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
            set_recompute(network, measure)
        network(images)
    return max(most, _bytes(kept)) // len(images)


def _on_meta(settings: ModelSettings, dtype: torch.dtype) -> tuple[StackedHourglass, Tensor]:
    with torch.device("meta"):
        network = StackedHourglass(settings).to(dtype)
        # Two: BatchNorm refuses one value a channel, which one image can come to.
        return network, torch.empty(2, 3, settings.input_px, settings.input_px, dtype=dtype)


@contextmanager
def _saved(network: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Collect what autograd saves meanwhile, a tensor for each storage, weights left out."""
    weights = {id(parameter) for parameter in network.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held on to, so that no freed storage's identity is given to another.
        if id(tensor) not in weights:
            saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _bytes(saved: Mapping[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
