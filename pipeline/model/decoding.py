"""Joints decoded from heatmaps: the highest pixel, refined by its neighbourhood."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.heatmaps import unmirror
from pipeline.model.loss import to_heatmaps
from pipeline.model.network import Heatmaps
from pipeline.pose.shapes import Float
from pipeline.settings import Decoding, Loss

# Standard deviations to which a Gaussian kernel reaches; 6e-5 of it lies beyond.
_REACH = 4.0
# A longer step leaves the pixel's neighbours, from which it is computed.
_FURTHEST_PX = 1.0


def decode(
    heatmaps: Float[Tensor, "batch joint height width"], decoding: Decoding, sigma_px: float
) -> tuple[Float[Tensor, "batch joint 2"], Float[Tensor, "batch joint"]]:
    """Return each map's joint (x, y) in heatmap pixels, and the map's maximum.

    - `argmax`: the highest pixel.
    - `quarter`: moved 0.25 pixels toward the higher neighbour in each direction (Newell et al.).
    - `dark`: moved to the top of a Gaussian fitted to the smoothed map (DARK: Zhang et al., CVPR
      2020), see `_gaussian_step`. Only this one needs `sigma_px`, the targets' standard deviation.

    Computes in float32. NaN counts as the lowest value.
    """
    maps = heatmaps.float()
    maps = maps.masked_fill(maps.isnan(), -torch.inf)
    width = maps.shape[-1]
    top, index = maps.flatten(2).max(dim=-1)
    pixel = torch.stack((index % width, index // width), dim=-1)
    if decoding == "quarter":
        return pixel + _quarter_step(maps, pixel), top
    if decoding == "dark":
        return pixel + _gaussian_step(maps, pixel, sigma_px), top
    return pixel.float(), top


def _quarter_step(maps: Tensor, pixel: Tensor) -> Tensor:
    around = _neighbours(F.pad(maps, (1, 1, 1, 1)), pixel)
    ahead = torch.stack((around[..., 1, 2], around[..., 2, 1]), dim=-1)
    behind = torch.stack((around[..., 1, 0], around[..., 0, 1]), dim=-1)
    # At the border, where one neighbour is missing, no step is taken in that direction.
    below = [pixel[..., axis] < maps.shape[-1 - axis] - 1 for axis in (0, 1)]
    inside = (pixel > 0) & torch.stack(below, dim=-1)
    return 0.25 * torch.sign(ahead - behind) * inside


def _gaussian_step(maps: Tensor, pixel: Tensor, sigma_px: float) -> Tensor:
    """Return the step (x, y) in pixels from the highest pixel to the top of its Gaussian.

    The logarithm of a Gaussian is a paraboloid, whose slope and curvature at one point determine
    its top. They are measured on the map smoothed by the targets' sigma, as a prediction has
    several maxima. Smoothing needs values beyond the border; the map is extrapolated as a Gaussian
    there, where the published method loses half a pixel. The step is zero where the map is not
    concave or the top is further than a pixel.
    """
    reach = math.ceil(_REACH * sigma_px)
    hills = maps.clamp(min=0)
    # Relative to the maximum, so that the map's scale does not matter.
    hills = hills / hills.amax(dim=(-2, -1), keepdim=True)
    for _ in range(2):
        # Each pass smooths one axis.
        hills = _smooth_rows(_continue_rows(hills, reach + 1, sigma_px), reach, sigma_px).mT
    log = _neighbours(hills, pixel).log()
    slope_x = (log[..., 1, 2] - log[..., 1, 0]) / 2
    slope_y = (log[..., 2, 1] - log[..., 0, 1]) / 2
    curve_x = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
    curve_y = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
    twist = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    determinant = curve_x * curve_y - twist**2
    step = -torch.stack(
        (curve_y * slope_x - twist * slope_y, curve_x * slope_y - twist * slope_x), dim=-1
    ) / determinant.unsqueeze(-1)
    is_hill = (curve_x < 0) & (determinant > 0)
    # False for NaN, as an empty map gives.
    is_near = (step.abs() <= _FURTHEST_PX).all(dim=-1)
    return torch.where((is_hill & is_near).unsqueeze(-1), step, 0.0)


def _continue_rows(maps: Tensor, beyond: int, sigma_px: float) -> Tensor:
    """Extrapolate rows by `beyond` columns on both sides, as Gaussians of width `sigma_px`.

    Each has the slope of the two pixels at the border.
    """
    steps = torch.arange(1, beyond + 1, device=maps.device, dtype=maps.dtype)

    def after(edge: Tensor, within: Tensor) -> Tensor:
        # A joint lies within the map, so a row peaks at the border at the latest.
        slope = (edge / within).log().clamp(max=sigma_px**-2).unsqueeze(-1)
        curve = steps * (steps + 1) / (2 * sigma_px**2)
        beyond_edge = edge.unsqueeze(-1) * torch.exp(slope * steps - curve)
        return beyond_edge.nan_to_num(nan=0.0)

    left = after(maps[..., 0], maps[..., 1]).flip(-1)
    right = after(maps[..., -1], maps[..., -2])
    return torch.cat((left, maps, right), dim=-1)


def _smooth_rows(maps: Tensor, reach: int, sigma_px: float) -> Tensor:
    """Convolve rows with a Gaussian; each end becomes `reach` columns shorter."""
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_px**2))
    rows = F.conv1d(maps.flatten(0, -2).unsqueeze(1), kernel[None, None])
    return rows.view(*maps.shape[:-1], rows.shape[-1])


def _neighbours(padded: Tensor, pixel: Tensor) -> Tensor:
    """Return the 3 x 3 values around `pixel`, rows first; `padded` has a border of one pixel."""
    width = padded.shape[-1]
    around = torch.arange(3, device=padded.device)
    rows = pixel[..., 1, None, None] + around[:, None]
    columns = pixel[..., 0, None, None] + around
    index = (rows * width + columns).flatten(-2)
    return padded.flatten(2).gather(-1, index).unflatten(-1, (3, 3))


def predicted_heatmaps(
    network: nn.Module,
    images: Float[Tensor, "batch 3 input_px input_px"],
    predicted: Heatmaps,
    loss: Loss,
    mirror: tuple[int, ...] | None,
) -> Float[Tensor, "stack batch joint height width"]:
    """Return every stack's heatmaps; `predicted` is the output of `network` for `images`.

    With `mirror`, each joint's counterpart, mirrored images are averaged in (flip test).
    """
    stacks = to_heatmaps(predicted.stacks, loss)
    if mirror is None:
        return stacks
    mirrored = to_heatmaps(network(images.flip(-1)).stacks, loss)
    return (stacks + unmirror(mirrored, mirror)) / 2
