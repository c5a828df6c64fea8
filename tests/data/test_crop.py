"""The stored crop: pixels land where its matrix maps them, and nothing is enlarged."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from factories import person, photograph

from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import cut_crop, cut_frame, decode_image, pixel_view, warp
from pipeline.data.shards.sample import Sample
from pipeline.data.synthetic.scene import render_scene
from pipeline.pose.geometry import input_from_original, transform
from pipeline.pose.joint_sets import MPII
from pipeline.settings.packing import CropSettings


def dotted(width: int, height: int, x: float, y: float, radius: float = 6.0) -> np.ndarray:
    """A black photograph with a white disc, its centre at (x, y)."""
    image = np.zeros((height, width, 3), np.uint8)
    center = round(x * 256), round(y * 256)
    cv2.circle(image, center, round(radius * 256), (255,) * 3, -1, cv2.LINE_AA, shift=8)
    return image


def centroid(image: np.ndarray) -> np.ndarray:
    """The centre (x, y) of what is bright."""
    weight = image.astype(float).mean(axis=2)
    weight[weight < 32] = 0
    ys, xs = np.indices(weight.shape)
    return np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(
    ("center", "scale", "person_px"),
    [
        ((150.0, 120.0), 0.5, 64),
        ((150.0, 120.0), 0.5, 256),
        ((143.3, 128.6), 0.77, 50),
        ((12.0, 200.0), 2.0, 97),
        ((290.0, 5.0), 1.5, 33),
    ],
)
def test_a_dot_is_found_where_the_crops_matrix_maps_it(center, scale, person_px):
    image = dotted(300, 240, 131.4, 117.8, radius=12)
    crop = cut_crop(image, person(center=center, scale=scale), CropSettings(person_px=person_px))
    found = centroid(decode_image(crop.jpeg))
    expected = transform(np.array([131.4, 117.8]), crop.from_original)
    assert np.abs(found - expected).max() < 0.1


def test_a_crop_holds_the_frame_with_its_margin():
    # The frame is 100 px wide; with half as much again 75 px on each side of the centre.
    crop = cut_crop(
        photograph(400, 300), person(center=(200.0, 150.0)), CropSettings(person_px=50, margin=1.5)
    )
    assert (crop.left, crop.top) == (125, 75)
    assert decode_image(crop.jpeg).shape == (76, 76, 3)
    assert crop.factor_x == crop.factor_y == 76 / 151


def test_a_crop_ends_where_the_photograph_does():
    crop = cut_crop(photograph(400, 300), person(center=(10.0, 290.0)), CropSettings(margin=1.5))
    assert (crop.left, crop.top) == (0, 215)
    assert decode_image(crop.jpeg).shape == (85, 86, 3)


def test_a_small_photograph_is_never_enlarged():
    image = photograph(400, 300)
    crop = cut_crop(image, person(center=(200.0, 150.0)), CropSettings(person_px=101, margin=1.5))
    assert (crop.factor_x, crop.factor_y) == (1.0, 1.0)
    stored = decode_image(crop.jpeg)
    assert np.abs(stored.astype(int) - image[75:226, 125:276]).mean() < 2


@pytest.mark.parametrize("center", [(-90.0, 100.0), (500.0, 100.0), (200.0, -80.0)])
def test_a_frame_outside_the_photograph_is_refused(center):
    outside = person(center=center, person=3)
    message = f"photo-000.jpg: person 3 at {center} lies outside the image of 400x300 pixels"
    with pytest.raises(ValueError, match=re.escape(message)):
        cut_crop(photograph(400, 300), outside, CropSettings(margin=1.5))


def test_colours_stay_in_order():
    image = np.zeros((160, 200, 3), np.uint8)
    image[:] = (200, 100, 30)
    crop = cut_crop(image, person(), CropSettings())
    assert np.abs(decode_image(crop.jpeg)[40, 40].astype(int) - (200, 100, 30)).max() <= 3


# The view of a person


@pytest.mark.parametrize("stored", [CropSettings(person_px=64, jpeg_quality=70), CropSettings()])
@pytest.mark.parametrize("scale", [0.5, 0.83, 1.0, 1.1, 1.3, 1.7, 2.0, 3.3, 4.0, 8.0])
def test_prediction_sees_what_a_packed_crop_shows(scale, stored):
    scene, (made, *_) = render_scene(0, 3)
    factor = scale * 64 / (200 * made.scale)
    height, width = scene.shape[:2]
    size = round(factor * width), round(factor * height)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_LINEAR)
    # A pattern as fine as the photograph's pixels, as sharp photographs have.
    image[::2, ::2] = 255 - image[::2, ::2] // 2
    x, y = made.center
    framed = replace(made, center=(factor * x, factor * y), scale=factor * made.scale)
    crop = cut_crop(image, framed, stored)
    loader = SampleLoader([Sample(person=framed, crop=crop)], MPII, 64)
    [packed] = loader.batch(np.array([0])).images.numpy()
    opaque = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    assert np.array_equal(packed, pixel_view(opaque, framed.center, framed.scale, 64, stored))


def test_a_person_is_cut_as_for_storing_and_warped_once():
    image = cv2.cvtColor(photograph(900, 700), cv2.COLOR_RGB2RGBA)
    center, scale, stored = (431.7, 322.2), 2.3, CropSettings(person_px=64, jpeg_quality=100)
    cut = cut_frame(image, center, scale, stored)
    assert (cut.left, cut.top) == (0, 0)
    # 892 of 900 columns and 700 rows, at 64 pixels for a frame of 460.
    assert cut.pixels.shape == (97, 124, 4)
    expected = np.empty((64, 64, 3), np.uint8)
    matrix = input_from_original(center, scale, 64) @ cut.to_original
    warp(cut.pixels, matrix, np.empty((64, 64, 4), np.uint8), expected)
    found = pixel_view(image, center, scale, 64, stored)
    # The best JPEG rounds its colours and their frequencies.
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_a_frame_beside_the_photograph_is_black():
    white = np.full((50, 60, 4), 255, np.uint8)
    assert not pixel_view(white, (500.0, 20.0), 0.1, 64, CropSettings()).any()


def test_a_stored_crop_keeps_fine_colours():
    # Columns of red and green in turn, of equal grey.
    image = np.zeros((160, 200, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (200, 0, 0), (0, 102, 0)
    crop = cut_crop(image, person(), CropSettings())
    stored = decode_image(crop.jpeg)[40:80, 40:80].astype(int)
    found = np.abs(np.diff(stored[:, :, 0], axis=1)).mean()
    assert found > 120
