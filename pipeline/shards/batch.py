"""Samples on their way from the loader to the network."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from pipeline.pose.shapes import Bool, Float, Positions, UInt8


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples as they travel to the training device; heatmaps and floats are made there.

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
        """Some of the samples."""
        return replace(self.changed(lambda tensor: tensor[rows]), positions=self.positions[rows])

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same samples with every tensor changed, such as moved."""
        return replace(
            self,
            images=change(self.images),
            joints=change(self.joints),
            annotated=change(self.annotated),
            gains=change(self.gains),
        )
