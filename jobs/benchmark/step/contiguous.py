"""The layout that torch takes by itself, to measure ours against."""

import torch
from torch import Tensor, nn

from pipeline.model.network import Heatmaps, PoseNetwork


class Contiguous(nn.Module):
    """A network whose images and weights lie channel by channel, as torch lays them out itself."""

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        for parameter in network.parameters():
            # Not contiguous(): a 1x1 kernel counts as laid out already, but its strides would
            # turn what it is convolved with into channels_last.
            plain = torch.empty_like(parameter.data, memory_format=torch.contiguous_format)
            parameter.data = plain.copy_(parameter.data)
        self.network = network

    def forward(self, images: Tensor) -> Heatmaps:
        heatmaps: Heatmaps = self.network(images.contiguous())
        return heatmaps
