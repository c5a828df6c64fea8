"""The interface of a pose network: what training, evaluation and export need of one."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from pipeline.model.parts import CompiledParts, InParts, recompute, set_policy
from pipeline.pose.shapes import Float


class Heatmaps(NamedTuple):
    """A network's prediction: `stacks` is the output of every stack, first to last.

    Training compares `supervised` with the target. Each group holds heatmaps of one resolution.
    """

    stacks: Float[Tensor, "stack batch joint heatmap_px heatmap_px"]
    supervised: tuple[Float[Tensor, "map batch joint _ _"], ...]

    def first(self, stacks: int) -> "Heatmaps":
        """Return the prediction of the network's first `stacks` stacks, each supervised."""
        if stacks == len(self.stacks):
            return self
        return Heatmaps(stacks=self.stacks[:stacks], supervised=(self.stacks[:stacks],))


class PoseNetwork(InParts, ABC):
    """A network that predicts one heatmap per joint; `build_network` creates it.

    Its modules compute by `InParts.part` what may be recomputed or compiled by itself.
    """

    @abstractmethod
    def forward(self, images: Float[Tensor, "batch 3 input_px input_px"]) -> Heatmaps: ...

    @abstractmethod
    def start_heads_at_zero(self) -> None:
        """Make every head predict all-zero heatmaps, which nearly all of a target is."""

    @abstractmethod
    def output_head(self) -> nn.Conv2d:
        """Return the convolution that predicts the last stack's heatmaps."""

    def recompute_residuals(self) -> None:
        """Store only the inputs of each part; the backward pass recomputes its activations."""
        set_policy(self, recompute)

    def compile_parts(self, options: dict[str, Any]) -> None:
        """Train each part through torch.compile, with its `options`."""
        set_policy(self, CompiledParts(options))
