"""Settings of the network's shape."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require

Supervision = Literal["every-stack", "last-stack", "inside"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Shape of the stacked hourglass network."""

    stacks: int = 8
    """Hourglasses one after another (the paper's nStack)."""
    modules: int = 1
    """Residual modules at each location of an hourglass (nModules)."""
    order: int = 4
    """Times an hourglass halves its input (numReductions)."""
    features: int = 256
    """Channels inside an hourglass (nChannels), a multiple of 4."""
    stem_features: int = 0
    """Channels before the stem's last residual, even; 0: half of model.features, the paper's 128 of 256. In pytorch-pose they are 256."""
    joints: int = 0
    """Heatmaps that the network predicts (nJoints); 0: as many as the data's joint set has."""
    input_px: int = 256
    """Side of the square input in pixels; heatmaps have a quarter of it."""
    supervision: Supervision = "every-stack"
    """Which heatmaps are compared with the target: every-stack: every stack's (the paper's); last-stack: the last stack's alone; inside: besides a single stack's output, those predicted within the hourglass at half and a quarter of the output's resolution."""

    def __post_init__(self) -> None:
        for name, least in (("stacks", 1), ("modules", 1), ("order", 1), ("joints", 0)):
            value = getattr(self, name)
            require(value >= least, f"model.{name}", f"at least {least}", value)
        require(
            self.features >= 4 and self.features % 4 == 0,
            "model.features",
            "a positive multiple of 4",
            self.features,
        )
        require(
            self.stem_features >= 0 and self.stem_features % 2 == 0,
            "model.stem_features",
            "0 or a positive multiple of 2",
            self.stem_features,
        )
        step = 4 * 2**self.order
        require(
            self.input_px >= step and self.input_px % step == 0,
            "model.input_px",
            f"a positive multiple of {step} (4 * 2**model.order)",
            self.input_px,
        )
        if self.supervision == "inside":
            require(
                self.stacks == 1, "model.stacks", "1 with model.supervision=inside", self.stacks
            )
            require(
                self.order >= 3,
                "model.order",
                "at least 3 with model.supervision=inside, to have two resolutions between the "
                "lowest and the output's",
                self.order,
            )

    @property
    def heatmap_px(self) -> int:
        """Side of a heatmap in pixels."""
        return self.input_px // 4
