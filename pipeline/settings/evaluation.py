"""Settings of measuring accuracy."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require

Decoding = Literal["argmax", "quarter", "dark"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How accuracy is measured."""

    measure: str = "auto"
    """Measure that picks the best checkpoint: pckh, pck_torso, pck_box; auto: the joint set's own."""
    flip_test: bool = True
    """Average the heatmaps with those of the mirrored image, as the paper does."""
    decoding: Decoding = "quarter"
    """How a heatmap becomes a joint: argmax: its highest pixel; quarter: moved 0.25 px toward the higher neighbours (the paper's); dark: moved to the top of the Gaussian fitted around it, for precision."""
    batch_size: int = 32
    """Samples a forward pass."""
    overlays: int = 12
    """Validation people in the picture of predictions."""

    def __post_init__(self) -> None:
        require(
            self.batch_size >= 1,
            "evaluation.batch_size",
            "at least 1",
            self.batch_size,
        )
        require(self.overlays >= 1, "evaluation.overlays", "at least 1", self.overlays)
