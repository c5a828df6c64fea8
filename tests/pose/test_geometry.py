"""Transforms between image, input and heatmap, with values worked out by hand."""

import numpy as np
import pytest

from pipeline.pose.geometry import (
    crop_from_original,
    heatmap_from_input,
    input_from_original,
    original_from_crop,
    transform,
)

# A frame of 200 * 0.64 = 128 pixels around (100, 60): two input pixels to an original one.
CENTER, SCALE, INPUT_PX = (100.0, 60.0), 0.64, 256


def moved(matrix: np.ndarray, *point: float) -> list[float]:
    return transform(np.array(point), matrix).tolist()


def test_the_centre_of_the_frame_comes_to_the_middle_of_the_input():
    matrix = input_from_original(CENTER, SCALE, INPUT_PX)
    assert moved(matrix, 100.0, 60.0) == [127.5, 127.5]
    assert moved(matrix, 110.0, 55.0) == [147.5, 117.5]


def test_the_edge_of_the_frame_comes_to_the_edge_of_the_first_pixel():
    matrix = input_from_original(CENTER, SCALE, INPUT_PX)
    assert moved(matrix, 100.0 - 64, 60.0 + 64) == [-0.5, 255.5]


def test_zoom_enlarges_the_frame():
    matrix = input_from_original(CENTER, SCALE, INPUT_PX, zoom=2.0)
    assert moved(matrix, 110.0, 55.0) == [137.5, 122.5]


def test_a_positive_rotation_turns_clockwise_as_seen():
    matrix = input_from_original(CENTER, SCALE, INPUT_PX, rotation_deg=90.0)
    # A point right of the centre moves below it, one above the centre to the right.
    assert moved(matrix, 110.0, 60.0) == pytest.approx([127.5, 147.5])
    assert moved(matrix, 100.0, 55.0) == pytest.approx([137.5, 127.5])


def test_a_mirror_takes_x_to_width_minus_one_minus_x():
    matrix = input_from_original(CENTER, SCALE, INPUT_PX, mirrored=True)
    assert moved(matrix, 110.0, 55.0) == [255 - 147.5, 117.5]


def test_mirroring_comes_after_the_rotation():
    turned = input_from_original(CENTER, SCALE, INPUT_PX, zoom=0.9, rotation_deg=25.0)
    both = input_from_original(CENTER, SCALE, INPUT_PX, zoom=0.9, rotation_deg=25.0, mirrored=True)
    x, y = moved(turned, 83.0, 71.0)
    assert moved(both, 83.0, 71.0) == pytest.approx([255 - x, y])


def test_the_mirror_of_an_input_is_the_mirror_of_its_heatmap():
    to_heatmap = heatmap_from_input()
    x, y = moved(to_heatmap, 100.0, 40.0)
    assert moved(to_heatmap, 255.0 - 100.0, 40.0) == [63 - x, y]


def test_a_heatmap_pixel_lies_in_the_middle_of_four_input_pixels():
    assert moved(heatmap_from_input(), 1.5, 5.5) == [0.0, 1.0]
    assert moved(heatmap_from_input(), -0.5, 255.5) == [-0.5, 63.5]


def test_a_crop_scales_the_area_of_a_pixel_rather_than_its_centre():
    matrix = crop_from_original(10, 20, 0.5, 0.25)
    # Columns 10 and 11 become the first one, rows 20 to 23 the first one.
    assert moved(matrix, 10.5, 21.5) == [0.0, 0.0]
    assert moved(matrix, 9.5, 19.5) == [-0.5, -0.5]


def test_a_crop_that_is_not_resized_only_moves():
    assert moved(crop_from_original(10, 20, 1.0, 1.0), 13.0, 27.0) == [3.0, 7.0]


def test_the_way_back_from_a_crop_is_the_inverse():
    way = 10, 20, 0.5, 0.25
    assert moved(original_from_crop(*way), *moved(crop_from_original(*way), 13.0, 27.0)) == [13, 27]


@pytest.mark.parametrize("seed", range(20))
def test_a_point_comes_back_from_the_heatmap(seed):
    random = np.random.default_rng(seed)
    matrix = heatmap_from_input() @ input_from_original(
        tuple(random.uniform(0, 500, 2).tolist()),
        float(random.uniform(0.3, 5)),
        INPUT_PX,
        zoom=float(random.uniform(0.7, 1.4)),
        rotation_deg=float(random.uniform(-60, 60)),
        mirrored=bool(random.integers(2)),
    )
    points = random.uniform(-100, 800, (4, 16, 2))
    back = transform(transform(points, matrix), np.linalg.inv(matrix))
    assert np.abs(back - points).max() < 1e-9
    if seed == 0:
        assert np.abs(transform(points, matrix) - points).max() > 1
