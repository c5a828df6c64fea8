"""Losses of intermediate supervision, which compares many predictions with the same target.

A loss is one entry of `LOSSES`: the function, and how to read the maps of a
network that it trained. Nothing else in the package branches on a loss's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from pipeline.model.heatmaps import is_drawn, render, rescale
from pipeline.model.network import Heatmaps
from pipeline.pose.shapes import Bool, Float
from pipeline.settings import Loss, OptimSettings


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


def _softmax(maps: Float[Tensor, "*rest height width"]) -> Float[Tensor, "*rest height width"]:
    return maps.flatten(-2).softmax(dim=-1).view(maps.shape)


@dataclass(frozen=True, kw_only=True)
class HeatmapLoss:
    """A loss, and how to read the output of a network that it trained.

    - `loss(predicted, target, trained)` is a scalar; see `heatmap_mse` for the shapes.
    - `to_heatmaps(output)` turns the network's output, in float32, into heatmaps.
    - `certain(peak)` is the height of a heatmap at a joint that is certain, for
      targets of the height `peak`: the unit of confidence.
    - `flat_below(peak, pixels)` is the mean height of a person's joints below which
      heatmaps of so many pixels tell nothing about places.
    - `height` and `confidence` describe a heatmap and a confidence in an exported file.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    to_heatmaps: Callable[[Tensor], Tensor]
    certain: Callable[[float], float]
    flat_below: Callable[[float, int], float]
    height: str
    confidence: str


LOSSES: dict[Loss, HeatmapLoss] = {
    "mse": HeatmapLoss(
        loss=heatmap_mse,
        to_heatmaps=lambda output: output,
        certain=lambda peak: peak,
        # Such a network predicts how often a joint is at each place, not where this one is.
        flat_below=lambda peak, pixels: 0.1 * peak,
        height="height of the heatmap, of which the training target's peak is target_peak",
        confidence="the heatmap's highest pixel as a share of target_peak",
    ),
    "cross-entropy": HeatmapLoss(
        loss=heatmap_cross_entropy,
        to_heatmaps=_softmax,
        certain=lambda peak: 1.0,
        # Twice the share that each pixel has in the uniform distribution.
        flat_below=lambda peak, pixels: 2.0 / pixels,
        height="probability that the joint is at this pixel",
        confidence="the heatmap's highest pixel: its probability",
    ),
}
assert set(LOSSES) == set(get_args(Loss)), "every value of optim.loss has its entry"


def to_heatmaps(
    output: Float[Tensor, "*rest height width"], loss: Loss
) -> Float[Tensor, "*rest height width"]:
    """Turn the output of a network trained with `loss` into heatmaps, in float32."""
    return LOSSES[loss].to_heatmaps(output.float())


def is_flat(
    heights: Float[Tensor, "batch joint"], loss: Loss, target_peak: float, pixels: int
) -> Bool[Tensor, " batch"]:
    """Tell which people have heatmaps that say nothing about where their joints are.

    `heights` are the highest values of each person's heatmaps, `pixels` the
    number of pixels of a heatmap.
    """
    return heights.mean(dim=1) < LOSSES[loss].flat_below(target_peak, pixels)


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
    loss = LOSSES[settings.loss].loss
    losses = []
    for maps in heatmaps.supervised:
        side = maps.shape[-1]
        points = rescale(joints, side / size)
        target = render(points, annotated, side, settings.sigma_px, settings.target_peak)
        losses.append(loss(maps, target, trained))
    return torch.stack(losses).sum()
