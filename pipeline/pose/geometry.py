"""Coordinate transforms between original image, network input and heatmap.

The first pixel's centre is at 0, so an image of width W spans -0.5 to W - 0.5, and its mirror maps
x to W - 1 - x. Transforms are 3x3 matrices of homogeneous coordinates in float64.
"""

import math

import numpy as np

from pipeline.pose.shapes import Float

Matrix = Float[np.ndarray, "3 3"]

# A heatmap has a quarter of the input's resolution (Newell et al., section 3.1).
STRIDE = 4


def frame_box(box: tuple[float, float, float, float]) -> tuple[tuple[float, float], float]:
    """Return centre and scale of the frame of a box (x, y, width, height).

    The frame is the square a quarter wider than the box's longer side.
    """
    left, top, width, height = box
    # Boxes start at a pixel's edge, joints count from its centre.
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
    """Map the square of side 200 * scale * zoom pixels around `center` to a network input.

    A positive rotation turns the visible image clockwise. Mirroring comes last.
    """
    # Plain numbers: for each sample, small NumPy arrays would take five times as long.
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
    """Map an image to its crop that starts at pixel (left, top) and is resized by the factors.

    A coordinate becomes (p - left + 0.5) * factor - 0.5, which scales pixel areas, not centres.
    """
    return np.array(
        [
            [factor_x, 0, (0.5 - left) * factor_x - 0.5],
            [0, factor_y, (0.5 - top) * factor_y - 0.5],
            [0, 0, 1],
        ]
    )


def original_from_crop(left: float, top: float, factor_x: float, factor_y: float) -> Matrix:
    """Invert `crop_from_original`: (p + 0.5) / factor - 0.5 + (left, top)."""
    return np.array(
        [
            [1 / factor_x, 0, 0.5 / factor_x - 0.5 + left],
            [0, 1 / factor_y, 0.5 / factor_y - 0.5 + top],
            [0, 0, 1],
        ]
    )


def heatmap_from_input() -> Matrix:
    """Map input pixels to heatmap pixels."""
    return crop_from_original(0, 0, 1 / STRIDE, 1 / STRIDE)


def transform(points: Float[np.ndarray, "*rest 2"], matrix: Matrix) -> Float[np.ndarray, "*rest 2"]:
    """Apply a matrix to points (x, y)."""
    moved: np.ndarray = points @ matrix[:2, :2].T + matrix[:2, 2]
    return moved
