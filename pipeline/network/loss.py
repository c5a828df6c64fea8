"""The loss of intermediate supervision."""

from jaxtyping import Bool, Float
from torch import Tensor


def heatmap_mse(
    predicted: Float[Tensor, "stack batch joint height width"],
    target: Float[Tensor, "batch joint height width"],
    trained: Bool[Tensor, "batch joint"],
) -> Float[Tensor, ""]:
    """Mean squared error of every stack's heatmaps against the same target, summed over stacks.

    Only the maps of `trained` joints enter the mean. Computed in float32
    whatever the network's precision (Newell et al., section 3.2).
    """
    squared = (predicted.float() - target) ** 2
    by_map = squared.mean(dim=(-2, -1)).sum(dim=0)
    return (by_map * trained).sum() / trained.sum().clamp(min=1)
