"""What a network costs, worked out without running it: parameters, operations, memory."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.network.hourglass import StackedHourglass
from pipeline.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`macs` are multiply-accumulates of the convolutions for one image, forward.

    `activation_bytes` are what autograd keeps for one image in float32.
    """

    parameters: int
    macs: int
    activation_bytes: int

    @property
    def training_flops(self) -> int:
        """Floating-point operations of forward and backward for one image (2 a MAC, backward twice forward)."""
        return 6 * self.macs

    def training_bytes(self, batch_size: int, bytes_per_activation: int) -> int:
        """Estimate the memory of a training step: weights, gradients, two moments, activations."""
        return 16 * self.parameters + (
            self.activation_bytes * bytes_per_activation // 4 * batch_size
        )


def network_cost(settings: ModelSettings) -> Cost:
    """Measure the network of `settings` on the meta device, where nothing is computed or allocated."""
    with torch.device("meta"):
        network = StackedHourglass(settings)
        # Two: BatchNorm refuses one value a channel, which one image can come to.
        images = torch.empty(2, 3, settings.input_px, settings.input_px)
    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d)
        macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    activation_bytes = _saved_bytes(network, images) // 2
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, macs=macs // 2, activation_bytes=activation_bytes)


def _saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that autograd saves in one forward pass, weights left out, each storage once."""
    weights = {id(parameter) for parameter in network.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held on to, so that no freed storage's identity is given to another.
        if id(tensor) not in weights:
            saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
