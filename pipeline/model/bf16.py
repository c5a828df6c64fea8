"""A network that predicts in bf16, for processors that multiply it: less exact, and faster."""

import torch
from torch import Tensor, nn

from pipeline.model.build import training_dtype
from pipeline.model.hourglass import Heatmaps, Stack, StackedHourglass
from pipeline.settings import OptimSettings


class Bf16Network(nn.Module):
    """A network in evaluation mode whose convolutions compute in bf16, all but the one that says the heatmaps.

    That one would round neighbouring pixels to the same height, of which the
    first would be taken for the highest. Norms keep their statistics in fp32.
    The network given is changed: it serves this one from now on.
    """

    def __init__(self, network: StackedHourglass) -> None:
        super().__init__()
        last = network.stacks[-1]
        assert isinstance(last, Stack)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module is not last.head:
                module.to(torch.bfloat16)
        last.head = _Widened(last.head)  # type: ignore[assignment]
        self.network = network.eval()

    def forward(self, images: Tensor) -> Heatmaps:
        heatmaps: Heatmaps = self.network(images.bfloat16())
        return heatmaps


class _Widened(nn.Module):
    """A layer in fp32 among others in bf16."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.float())
        return y


def fastest(network: StackedHourglass, device: torch.device) -> nn.Module:
    """The network as it predicts fastest on the device: `jobs.benchmark predict` has measured it on CPUs.

    The one given is changed, and is not to be used beside it.
    """
    dtype = training_dtype(OptimSettings(precision="auto"), device)
    if device.type == "cpu" and dtype is torch.bfloat16:
        return Bf16Network(network)
    return network
