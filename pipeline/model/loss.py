"""The losses of intermediate supervision: many predictions of the same target."""

import torch
from torch import Tensor

from pipeline.model.heatmaps import is_drawn, render, rescale
from pipeline.model.hourglass import Heatmaps
from pipeline.pose.shapes import Bool, Float
from pipeline.settings import OptimSettings


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


def batch_loss(
    heatmaps: Heatmaps,
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    settings: OptimSettings,
) -> Float[Tensor, ""]:
    """Loss of a batch's supervised heatmaps, summed, against targets rendered on their device.

    A Gaussian is as wide in pixels on a smaller heatmap as on the output: any
    narrower it would fall between the pixels.
    """
    device, size = heatmaps.stacks.device, heatmaps.stacks.shape[-1]
    joints = joints.to(device, non_blocking=True)
    annotated = annotated.to(device, non_blocking=True)
    drawn = is_drawn(joints, annotated, size)
    trained = drawn if settings.missing_joints == "mask" else torch.ones_like(drawn)
    loss = heatmap_cross_entropy if settings.loss == "cross-entropy" else heatmap_mse
    losses = []
    for maps in heatmaps.supervised:
        side = maps.shape[-1]
        points = rescale(joints, side / size)
        target = render(points, annotated, side, settings.sigma_px, settings.target_peak)
        losses.append(loss(maps, target, trained))
    return torch.stack(losses).sum()
