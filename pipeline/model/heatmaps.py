"""Heatmaps: targets rendered from joints, and those of mirrored images turned back."""

import torch
from torch import Tensor

from pipeline.pose.geometry import crop_from_original
from pipeline.pose.shapes import Bool, Float

# Pixels outside the map up to which a joint is drawn, as far as its Gaussian reaches into the map:
# half of the 7 x 7 pixels of `drawGaussian` in the paper's code (pose-hg-train).
_OUTSIDE_PX = 3


def render(
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    size: int,
    sigma_px: float,
    peak: float,
    target_px: int = 0,
) -> Float[Tensor, "batch joint size size"]:
    """Render a Gaussian around each joint, given in fractions of heatmap pixels.

    With `target_px` it is zero outside the square of that side around the joint's pixel. Joints
    that are not drawn (see `is_drawn`) get an all-zero map.
    """
    grid = torch.arange(size, device=joints.device, dtype=joints.dtype)
    # The Gaussian is separable: two vectors instead of one exponential per pixel.
    along = torch.exp(-((grid - joints[..., None]) ** 2) / (2 * sigma_px**2))
    if target_px:
        nearest = torch.floor(joints[..., None] + 0.5)
        along = along * ((grid - nearest).abs() <= target_px // 2)
    weight = peak * is_drawn(joints, annotated, size)
    columns = along[..., 0, :] * weight[..., None]
    return along[..., 1, :, None] * columns[..., None, :]


def is_drawn(
    joints: Float[Tensor, "batch joint 2"],
    annotated: Bool[Tensor, "batch joint"],
    size: int,
) -> Bool[Tensor, "batch joint"]:
    """Return which joints are annotated and lie within a map of `size` pixels, or nearly."""
    edge = 0.5 + _OUTSIDE_PX
    within = (joints >= -edge) & (joints < size - 1 + edge)
    return annotated & within.all(dim=-1)


def rescale(
    joints: Float[Tensor, "batch joint 2"], factor: float
) -> Float[Tensor, "batch joint 2"]:
    """Convert heatmap pixels to those of a heatmap whose sides are `factor` times as long."""
    (scale, _, offset), *_ = crop_from_original(0, 0, factor, factor).tolist()
    return joints * scale + offset


def unmirror(
    heatmaps: Float[Tensor, "*batch joint height width"], mirror: tuple[int, ...]
) -> Float[Tensor, "*batch joint height width"]:
    """Turn heatmaps of a mirrored image into those of the image, exactly: column x to W - 1 - x.

    `mirror` has each joint's counterpart.
    """
    if heatmaps.is_cuda:
        # A list as an index would be copied to the GPU by a host that waits for it.
        order = torch.tensor(mirror).to(heatmaps.device, non_blocking=True)
        return heatmaps.index_select(-3, order).flip(-1)
    return heatmaps[..., list(mirror), :, :].flip(-1)
