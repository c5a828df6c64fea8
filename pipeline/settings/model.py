"""Settings of the network's shape."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require, require_at_least

Supervision = Literal["every-stack", "last-stack", "inside"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Shape of the stacked hourglass network."""

    stacks: int = 8
    """Hourglasses in sequence (the paper's nStack)."""
    modules: int = 1
    """Residual modules at each location of an hourglass (nModules)."""
    order: int = 4
    """Number of times that an hourglass halves its input (numReductions)."""
    features: int = 256
    """Channels inside an hourglass (nChannels), a multiple of 4."""
    stem_features: int = 0
    """Channels before the stem's last residual, even. 0: half of model.features, the paper's 128
    of 256. In pytorch-pose they are 256."""
    joints: int = 0
    """Heatmaps that the network predicts (nJoints); 0: the number of joints of the data."""
    input_px: int = 256
    """Side of the square input in pixels. Heatmaps have a quarter of it."""
    supervision: Supervision = "every-stack"
    """Heatmaps that the loss compares with the target. every-stack: of each stack, as in the paper.
    last-stack: of the last stack only. inside: of a single stack, its output and the heatmaps that
    it predicts inside the hourglass, at half and a quarter of the output's resolution."""

    start: str = ""
    """Trained weights to start from: a checkpoint's folder, a run's folder or name (its best
    checkpoint), one converted by jobs.convert, models:/NAME@ALIAS, or with tracking.uri a run in
    MLflow. All that fits by name and shape is taken, and heads of joints of equal name."""

    def __post_init__(self) -> None:
        require_at_least(self, "model", 1, "stacks", "modules", "order")
        require_at_least(self, "model", 0, "joints")
        features, stem, order, side = self.features, self.stem_features, self.order, self.input_px
        fits = features >= 4 and features % 4 == 0
        require(fits, "model.features", "a positive multiple of 4", features)
        fits = stem >= 0 and stem % 2 == 0
        require(fits, "model.stem_features", "0 or a positive multiple of 2", stem)
        step = 4 * 2**order
        expected = f"a positive multiple of {step} (4 * 2**model.order)"
        require(side >= step and side % step == 0, "model.input_px", expected, side)
        if self.supervision == "inside":
            expected = "1 with model.supervision=inside"
            require(self.stacks == 1, "model.stacks", expected, self.stacks)
            expected = (
                "at least 3 with model.supervision=inside, to have two resolutions between the "
                "lowest and the output's"
            )
            require(order >= 3, "model.order", expected, order)

    @property
    def heatmap_px(self) -> int:
        return self.input_px // 4
