"""Samples on their way from the loader to the network."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.pose.shapes import Bool, Float, Positions, UInt8


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples on their way to the training device, where they become floats and heatmaps.

    `joints` are heatmap pixels. `gains` multiply the colour channels.
    """

    images: UInt8[Tensor, "batch input_px input_px 3"]
    joints: Float[Tensor, "batch joint 2"]
    annotated: Bool[Tensor, "batch joint"]
    gains: Float[Tensor, "batch 3"]
    positions: Positions

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, rows: slice | Positions) -> "Batch":
        """Select some of the samples."""
        return replace(self.changed(lambda tensor: tensor[rows]), positions=self.positions[rows])

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Change every tensor, such as move it."""
        return replace(
            self,
            images=change(self.images),
            joints=change(self.joints),
            annotated=change(self.annotated),
            gains=change(self.gains),
        )


def network_input(batch: Batch, device: torch.device) -> Float[Tensor, "batch 3 input_px input_px"]:
    """Make a batch's network input on the device: floats 0-1, multiplied by its gains."""
    return scaled(batch.images, batch.gains, device)


def scaled(
    images: UInt8[Tensor, "batch input_px input_px 3"],
    gains: Float[Tensor, "batch 3"],
    device: torch.device,
) -> Float[Tensor, "batch 3 input_px input_px"]:
    """Move images to the device, and make them floats 0-1 multiplied by the gains there."""
    # channels_last convolutions read height, width, channel in memory.
    floats = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    factors = (gains / 255).to(device, non_blocking=True)[:, :, None, None]
    return (floats * factors).clamp_(0, 1)
