"""Heatmaps: rendered from joints as targets, and turned back from a mirrored image."""

import torch
from torch import Tensor

from pipeline.pose.geometry import crop_from_original
from pipeline.pose.shapes import Bool, Float
from pipeline.settings import Loss

# Of the target's peak, and of the uniform distribution: heatmaps below are flat.
_FLAT_SHARE, _FLAT_RATIO = 0.1, 2.0


def render(
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    size: int,
    sigma_px: float,
    peak: float,
) -> Float[Tensor, "batch joint size size"]:
    """Draw a Gaussian around each joint, in heatmap pixels and not rounded to them.

    A joint that is not annotated gets an all-zero map; so does one that lies
    outside the map (see `is_drawn`).
    """
    grid = torch.arange(size, device=joints.device, dtype=joints.dtype)
    # The Gaussian is separable: two short vectors instead of an exponential a pixel.
    along = torch.exp(-((grid - joints[..., None]) ** 2) / (2 * sigma_px**2))
    weight = peak * is_drawn(joints, annotated, size)
    columns = along[..., 0, :] * weight[..., None]
    return along[..., 1, :, None] * columns[..., None, :]


def is_drawn(
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    size: int,
) -> Bool[Tensor, "batch joint"]:
    """Whether a joint is annotated and lies within a map of `size` pixels."""
    within = (joints >= -0.5) & (joints < size - 0.5)
    return annotated & within.all(dim=-1)


def rescale(
    joints: Float[Tensor, "batch joint 2"], factor: float
) -> Float[Tensor, "batch joint 2"]:
    """Take heatmap pixels to those of a heatmap whose sides are `factor` times as long."""
    (scale, _, offset), *_ = crop_from_original(0, 0, factor, factor).tolist()
    return joints * scale + offset


def readable(
    predicted: Float[Tensor, "*rest height width"], loss: Loss
) -> Float[Tensor, "*rest height width"]:
    """Turn what a network trained with `loss` says into heatmaps, in float32 whatever its precision.

    With cross-entropy they are each pixel's probability, the softmax over the
    map; with mean squared error the prediction is the heatmap.
    """
    maps = predicted.float()
    if loss == "cross-entropy":
        return maps.flatten(-2).softmax(dim=-1).view(maps.shape)
    return maps


def is_flat(
    heights: Float[Tensor, "batch joint"], loss: Loss, target_peak: float, pixels: int
) -> Bool[Tensor, " batch"]:
    """Whether a person's readable heatmaps say nothing of where joints are, going by their highest pixels.

    With mean squared error these are on average below a tenth of the target's
    peak: such a network says how seldom a joint is at any place, not where this
    one is. With cross-entropy they are on average below twice the share that
    each of a map's `pixels` has in the uniform distribution.
    """
    mean = heights.mean(dim=1)
    if loss == "cross-entropy":
        return mean < _FLAT_RATIO / pixels
    return mean < _FLAT_SHARE * target_peak


def unmirror(
    heatmaps: Float[Tensor, "*batch joint height width"], mirror: tuple[int, ...]
) -> Float[Tensor, "*batch joint height width"]:
    """Turn the heatmaps of a mirrored image into those of the image.

    `mirror` gives each joint's counterpart. Exact: column x becomes W - 1 - x.
    """
    return heatmaps[..., list(mirror), :, :].flip(-1)
