"""Losses for intermediate supervision, which compares several predictions with one target.

A loss is one entry of `LOSSES`: the function, and how to read the maps of a network that it
trained. No other module branches on a loss's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from pipeline.model.heatmaps import is_drawn, render, rescale
from pipeline.model.network import Heatmaps
from pipeline.pose.shapes import Bool, Float
from pipeline.settings import LAST_STACK, Loss, OptimSettings


def heatmap_mse(
    predicted: Float[Tensor, "stack batch joint height width"],
    target: Float[Tensor, "*each batch joint height width"],
    trained: Bool[Tensor, "batch joint"],
    weights: Float[Tensor, " stack"] | None = None,
) -> Float[Tensor, ""]:
    """Return the heatmaps' mean squared error, summed over stacks (Newell et al., section 3.2).

    The mean is over the maps of `trained` joints, in float32. The target may differ between stacks,
    and `weights` weigh their losses.
    """
    squared = (predicted.float() - target) ** 2
    return _mean(squared.mean(dim=(-2, -1)), trained, weights)


def heatmap_cross_entropy(
    predicted: Float[Tensor, "stack batch joint height width"],
    target: Float[Tensor, "*each batch joint height width"],
    trained: Bool[Tensor, "batch joint"],
    weights: Float[Tensor, " stack"] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy in nats of each map's softmax with its target, summed over stacks.

    The target is a distribution, its map divided by the map's sum. An all-zero target stands for
    the uniform distribution, which is the softmax of an all-zero prediction. The mean is over the
    maps of `trained` joints, in float32. The target may differ between stacks, and `weights` weigh
    their losses.
    """
    share = _distribution(target).flatten(-2)
    log = predicted.float().flatten(-2).log_softmax(dim=-1)
    return _mean(-(share * log).sum(dim=-1), trained, weights)


def _distribution(maps: Float[Tensor, "*rest height width"]) -> Float[Tensor, "*rest height width"]:
    flat = maps.float().flatten(-2)
    total = flat.sum(dim=-1, keepdim=True)
    return (flat / total).where(total > 0, 1 / flat.shape[-1]).view(maps.shape)


def _mean(
    by_map: Float[Tensor, "stack batch joint"],
    trained: Bool[Tensor, "batch joint"],
    weights: Float[Tensor, " stack"] | None,
) -> Float[Tensor, ""]:
    if weights is not None:
        by_map = by_map * weights[:, None, None]
    return (by_map.sum(dim=0) * trained).sum() / trained.sum().clamp(min=1)


def _softmax(maps: Float[Tensor, "*rest height width"]) -> Float[Tensor, "*rest height width"]:
    return maps.flatten(-2).softmax(dim=-1).view(maps.shape)


@dataclass(frozen=True, kw_only=True)
class HeatmapLoss:
    """A loss, and how to read the output of a network that it trained.

    - `loss(predicted, target, trained, weights)` is a scalar; see `heatmap_mse` for the shapes.
    - `to_target(rendered)` turns a rendered target into the heatmaps that the network is to have.
    - `to_heatmaps(output)` turns the network's output, in float32, into heatmaps.
    - `certain(peak)` is a heatmap's height at a joint that is certain, if targets have the height
      `peak`: the unit of confidence.
    - `flat_below(peak, pixels)` is a person's mean height of the joints below which heatmaps of
      `pixels` pixels do not locate them.
    - `height` and `confidence` describe a heatmap and a confidence in an exported file.
    """

    loss: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    to_target: Callable[[Tensor], Tensor]
    to_heatmaps: Callable[[Tensor], Tensor]
    certain: Callable[[float], float]
    flat_below: Callable[[float, int], float]
    height: str
    confidence: str


LOSSES: dict[Loss, HeatmapLoss] = {
    "mse": HeatmapLoss(
        loss=heatmap_mse,
        to_target=lambda rendered: rendered,
        to_heatmaps=lambda output: output,
        certain=lambda peak: peak,
        # Below, a network predicts where the joint usually is, not where this one is.
        flat_below=lambda peak, pixels: 0.1 * peak,
        height="height of the heatmap; the training target's peak is target_peak",
        confidence="the heatmap's highest pixel as a share of target_peak",
    ),
    "cross-entropy": HeatmapLoss(
        loss=heatmap_cross_entropy,
        to_target=_distribution,
        to_heatmaps=_softmax,
        certain=lambda peak: 1.0,
        # Twice a pixel's share of the uniform distribution.
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
    """Return which people have heatmaps too flat to locate their joints.

    `heights` are the maxima of each person's heatmaps, `pixels` the pixels of one heatmap.
    """
    return heights.mean(dim=1) < LOSSES[loss].flat_below(target_peak, pixels)


def batch_loss(
    heatmaps: Heatmaps,
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    settings: OptimSettings,
    taught: Float[Tensor, "batch joint height width"] | None = None,
) -> Float[Tensor, ""]:
    """Return the sum of the losses of a batch's supervised heatmaps.

    Targets are rendered on the heatmaps' device. Their Gaussians have the same width in pixels at
    every resolution: narrower ones would fall between the pixels of the smaller maps. The heatmaps
    `taught` by the teacher of the settings are part of the targets.
    """
    device, size = heatmaps.stacks.device, heatmaps.stacks.shape[-1]
    joints = joints.to(device, non_blocking=True)
    annotated = annotated.to(device, non_blocking=True)
    trained = trained_joints(joints, annotated, size, settings, is_taught=taught is not None)
    loss = LOSSES[settings.loss].loss
    losses = []
    for maps in heatmaps.supervised:
        side = maps.shape[-1]
        points = rescale(joints, side / size)
        target = render(
            points, annotated, side, settings.sigma_px, settings.target_peak, settings.target_px
        )
        if taught is not None:
            drawn = is_drawn(joints, annotated, size)
            target = taught_target(target, drawn, taught, len(maps), settings)
        weights = stack_weights(len(maps), settings.stack_ratio, device)
        losses.append(scale_weight(side / size) * loss(maps, target, trained, weights))
    return torch.stack(losses).sum()


def stack_weights(
    stacks: int, ratio: float, device: torch.device
) -> Float[Tensor, " stack"] | None:
    """Return the weights of the stacks' losses, which add up to their number; None if all are 1."""
    if ratio == 1.0:
        return None
    weights = ratio ** torch.arange(stacks, device=device)
    return stacks * weights / weights.sum()


def taught_target(
    rendered: Float[Tensor, "batch joint height width"],
    drawn: Bool[Tensor, "batch joint"],
    taught: Float[Tensor, "batch joint height width"],
    stacks: int,
    settings: OptimSettings,
) -> Float[Tensor, "stack batch joint height width"]:
    """Return the target of each stack: the rendered one mixed with the teacher's heatmaps.

    Joints that are not `drawn` have no label, unless it says that they are missing: without one the
    teacher's heatmap is the whole target. The last stack does not learn from itself.
    """
    label = LOSSES[settings.loss].to_target(rendered)
    share = torch.full_like(taught[..., :1, :1], settings.teacher_share)
    if settings.missing_joints == "mask":
        share = share.where(drawn[..., None, None], 1.0)
    mixed = label + share * (taught - label)
    if settings.teacher != LAST_STACK:
        return mixed.expand(stacks, *mixed.shape)
    return torch.cat([mixed.expand(stacks - 1, *mixed.shape), label.unsqueeze(0)])


def scale_weight(scale: float) -> float:
    """Return the weight of the loss of heatmaps whose sides are `scale` times the output's."""
    return scale**2


def trained_joints(
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    size: int,
    settings: OptimSettings,
    *,
    is_taught: bool = False,
) -> Bool[Tensor, "batch joint"]:
    """Return which joints enter the loss, over heatmaps of `size` pixels.

    With trained teachers, if the loss `is_taught`, they are all: the teachers locate those that are
    not annotated.
    """
    drawn = is_drawn(joints, annotated, size)
    is_masked = settings.missing_joints == "mask" and not (is_taught and settings.teachers)
    return drawn if is_masked else torch.ones_like(drawn)
