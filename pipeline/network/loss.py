"""The losses of intermediate supervision: many predictions of the same target."""

from torch import Tensor

from pipeline.pose.shapes import Bool, Float


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
    return _mean(squared.mean(dim=(-2, -1)), trained)


def heatmap_cross_entropy(
    predicted: Float[Tensor, "stack batch joint height width"],
    target: Float[Tensor, "batch joint height width"],
    trained: Bool[Tensor, "batch joint"],
) -> Float[Tensor, ""]:
    """Cross-entropy in nats of the softmax over each map with its target, summed over stacks.

    The target is a distribution: its map divided by the map's sum. An
    all-zero one asks for the uniform distribution, which the softmax makes of
    an all-zero prediction: nowhere more than anywhere else. Only the maps of
    `trained` joints enter the mean. Computed in float32 whatever the network's
    precision.
    """
    flat = target.float().flatten(-2)
    total = flat.sum(dim=-1, keepdim=True)
    share = (flat / total).where(total > 0, 1 / flat.shape[-1])
    log = predicted.float().flatten(-2).log_softmax(dim=-1)
    return _mean(-(share * log).sum(dim=-1), trained)


def _mean(
    by_map: Float[Tensor, "stack batch joint"], trained: Bool[Tensor, "batch joint"]
) -> Float[Tensor, ""]:
    return (by_map.sum(dim=0) * trained).sum() / trained.sum().clamp(min=1)
