"""The way of a coordinate: original image, network input, heatmap, and back.

Everywhere the first pixel's centre is at 0, so an image of width W spans -0.5
to W - 0.5, and its mirror takes x to W - 1 - x. Transforms are 3x3 matrices of
homogeneous coordinates in float64.
"""

import numpy as np
from jaxtyping import Float

Matrix = Float[np.ndarray, "3 3"]

# A heatmap has a quarter of the input's resolution (Newell et al., section 3.1).
STRIDE = 4


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
    factor = input_px / (200 * scale * zoom)
    angle = np.deg2rad(rotation_deg)
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    middle = (input_px - 1) / 2
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    matrix[:2, 2] = middle - matrix[:2, :2] @ np.asarray(center)
    if mirrored:
        matrix[0] = -matrix[0]
        matrix[0, 2] += input_px - 1
    return matrix


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


def heatmap_from_input() -> Matrix:
    """Take input pixels to heatmap pixels."""
    return crop_from_original(0, 0, 1 / STRIDE, 1 / STRIDE)


def transform(points: Float[np.ndarray, "*rest 2"], matrix: Matrix) -> Float[np.ndarray, "*rest 2"]:
    """Apply a matrix to points (x, y)."""
    moved: np.ndarray = points @ matrix[:2, :2].T + matrix[:2, 2]
    return moved
