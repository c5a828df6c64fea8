"""The graph to export: from image bytes to heatmaps or joints."""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.model.decoding import decode
from pipeline.model.heatmaps import unmirror
from pipeline.model.loss import LOSSES, to_heatmaps
from pipeline.model.network import PoseNetwork
from pipeline.pose.geometry import heatmap_from_input
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import Float, UInt8
from pipeline.settings import Decoding, Settings

INPUT = "images"
HEATMAPS, JOINTS, CONFIDENCE = "heatmaps", "joints", "confidence"


@dataclass(frozen=True, kw_only=True)
class GraphSettings:
    """Settings of a graph besides the network.

    With `decode` it outputs joints by the method `decoding`, else heatmaps. With `flip_test` it
    averages the heatmaps with those of the mirrored images.
    """

    decode: bool = False
    decoding: Decoding = "quarter"
    flip_test: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return (JOINTS, CONFIDENCE) if self.decode else (HEATMAPS,)


class Graph(nn.Module):
    """The exported module, which takes RGB images of 0-255.

    It outputs the last stack's heatmaps (batch, joint, height, width) as `to_heatmaps` returns
    them. With `decode` it outputs joints (x, y) in input pixels, the first one's centre at 0, and
    confidences: the heatmap's maximum as a share of `HeatmapLoss.certain`.
    """

    def __init__(
        self,
        network: PoseNetwork,
        settings: Settings,
        joint_set: JointSet,
        chosen: GraphSettings,
    ) -> None:
        super().__init__()
        self.network = network
        self._optim, self._mirror, self.chosen = settings.optim, joint_set.mirror, chosen

    def forward(self, images: UInt8[Tensor, "batch input_px input_px 3"]) -> tuple[Tensor, ...]:
        scaled = images.permute(0, 3, 1, 2).float() / 255
        maps = self._heatmaps(scaled)
        if self.chosen.flip_test:
            maps = (maps + unmirror(self._heatmaps(scaled.flip(-1)), self._mirror)) / 2
        return self.joints(maps) if self.chosen.decode else (maps,)

    def joints(
        self, heatmaps: Float[Tensor, "batch joint height width"]
    ) -> tuple[Float[Tensor, "batch joint 2"], Float[Tensor, "batch joint"]]:
        """Decode joints in input pixels, and their confidences."""
        joints, heights = decode(heatmaps, self.chosen.decoding, self._optim.sigma_px)
        certain = LOSSES[self._optim.loss].certain(self._optim.target_peak)
        (scale, _, offset), *_ = heatmap_from_input().tolist()
        return (joints - offset) / scale, heights / certain

    def _heatmaps(self, scaled: Float[Tensor, "batch 3 input_px input_px"]) -> Tensor:
        return to_heatmaps(self.network(scaled).stacks[-1], self._optim.loss)
