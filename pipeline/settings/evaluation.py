"""Settings of the evaluation."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require_at_least

Decoding = Literal["argmax", "quarter", "dark"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Measurement of accuracy on the validation samples."""

    measure: str = "auto"
    """Measure that selects the best checkpoint: pckh, pck_torso, pck_segment, pck_box, or oks for
    COCO's average precision (coco_ap). auto: the first measure of the joint set."""
    flip_test: bool = True
    """Average the heatmaps with those of the mirrored image, as the paper does."""
    decoding: Decoding = "quarter"
    """Conversion of a heatmap to a joint. argmax: the highest pixel.
    quarter: the highest pixel, moved 0.25 px toward its higher neighbours, as in the paper.
    dark: the maximum of a Gaussian fitted around the highest pixel, for precision."""
    batch_size: int = 32
    """Samples per forward pass."""
    precision: Literal["fp32", "tf32"] = "fp32"
    """Arithmetic on GPUs. fp32: IEEE, so that counts are those of a CPU. tf32: factors of 10 bits,
    faster."""
    every_stack: bool = False
    """Measure the heatmaps of the stacks before the last too, after every epoch, as if the network
    ended there, and keep the best checkpoint of each. Not with model.supervision=last-stack."""
    overlays: int = 12
    """Validation people in the picture of predictions."""

    def __post_init__(self) -> None:
        require_at_least(self, "evaluation", 1, "batch_size", "overlays")
