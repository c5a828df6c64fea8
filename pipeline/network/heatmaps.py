"""Heatmaps: rendered from joints as targets, decoded to joints as predictions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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


def decode(
    heatmaps: Float[Tensor, "batch joint height width"],
) -> tuple[Float[Tensor, "batch joint 2"], Float[Tensor, "batch joint"]]:
    """Find each map's joint: coordinates (x, y) in heatmap pixels, and the map's height there.

    The highest pixel, moved a quarter of a pixel toward the higher neighbour in
    each direction (Newell et al.). Computed in float32.
    """
    maps = heatmaps.float()
    height, width = maps.shape[-2:]
    confidence, index = maps.flatten(2).max(dim=-1)
    x, y = index % width, index // width
    # Beyond the border a map counts as equal on both sides: nothing is moved there.
    step_x = _toward_higher(maps.flatten(2), index, 1, (x > 0) & (x < width - 1))
    step_y = _toward_higher(maps.flatten(2), index, width, (y > 0) & (y < height - 1))
    return torch.stack((x + step_x, y + step_y), dim=-1), confidence


def _toward_higher(flat: Tensor, index: Tensor, stride: int, inside: Tensor) -> Tensor:
    last = flat.shape[-1] - 1
    after = flat.gather(-1, (index + stride).clamp(max=last)[..., None])[..., 0]
    before = flat.gather(-1, (index - stride).clamp(min=0)[..., None])[..., 0]
    return 0.25 * torch.sign(after - before) * inside


def unmirror(
    heatmaps: Float[Tensor, "batch joint height width"], mirror: tuple[int, ...]
) -> Float[Tensor, "batch joint height width"]:
    """Turn the heatmaps of a mirrored image into those of the image.

    `mirror` gives each joint's counterpart. Exact: column x becomes W - 1 - x.
    """
    return heatmaps[:, list(mirror)].flip(-1)
