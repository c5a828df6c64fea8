"""The way of a coordinate: original image, network input, heatmap, and back.

Everywhere the first pixel's centre is at 0, so an image of width W spans -0.5
to W - 0.5, and its mirror takes x to W - 1 - x. Transforms are 3x3 matrices of
homogeneous coordinates in float64.
"""

import math

import numpy as np

from pipeline.pose.shapes import Float

Matrix = Float[np.ndarray, "3 3"]

# A heatmap has a quarter of the input's resolution (Newell et al., section 3.1).
STRIDE = 4


def frame_box(box: tuple[float, float, float, float]) -> tuple[tuple[float, float], float]:
    """Centre and scale of the square a quarter wider than the longer side of a box (x, y, width, height)."""
    left, top, width, height = box
    # A box counts from the pixel's edge, a joint from its centre.
    return (left + width / 2 - 0.5, top + height / 2 - 0.5), 1.25 * max(width, height) / 200


def input_from_original(
    center: tuple[float, float],
    scale: float,
    input_px: int,
    *,
    zoom: float = 1.0,
    rotation_deg: float = 0.0,
    mirrored: bool = False,
) -> Matrix:
    """Frame the square of side 200 * scale * zoom pixels around `center` as a network input.

    A positive rotation turns the image clockwise as seen. Mirroring comes last.
    """
    # Single numbers: NumPy's small arrays would take five times as long, for every sample.
    factor, angle = input_px / (200 * scale * zoom), math.radians(rotation_deg)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    (x, y), middle = center, (input_px - 1) / 2
    side = -1 if mirrored else 1
    return np.array(
        [
            [side * cos, -side * sin, middle - side * (cos * x - sin * y)],
            [sin, cos, middle - (sin * x + cos * y)],
            [0, 0, 1],
        ]
    )


def crop_from_original(left: float, top: float, factor_x: float, factor_y: float) -> Matrix:
    """Resize by the factors what starts at pixel (left, top).

    A coordinate goes through (p - left + 0.5) * factor - 0.5: a pixel's area
    is scaled, not its centre.
    """
    return np.array(
        [
            [factor_x, 0, (0.5 - left) * factor_x - 0.5],
            [0, factor_y, (0.5 - top) * factor_y - 0.5],
            [0, 0, 1],
        ]
    )


def original_from_crop(left: float, top: float, factor_x: float, factor_y: float) -> Matrix:
    """The way back from `crop_from_original`: (p + 0.5) / factor - 0.5 + (left, top)."""
    return np.array(
        [
            [1 / factor_x, 0, 0.5 / factor_x - 0.5 + left],
            [0, 1 / factor_y, 0.5 / factor_y - 0.5 + top],
            [0, 0, 1],
        ]
    )


def heatmap_from_input() -> Matrix:
    """Take input pixels to heatmap pixels."""
    return crop_from_original(0, 0, 1 / STRIDE, 1 / STRIDE)


def transform(points: Float[np.ndarray, "*rest 2"], matrix: Matrix) -> Float[np.ndarray, "*rest 2"]:
    """Apply a matrix to points (x, y)."""
    moved: np.ndarray = points @ matrix[:2, :2].T + matrix[:2, 2]
    return moved
