"""A person's view from pixels: cut out with a margin, reduced by area, warped to network inputs.

Packing stores the cut as JPEG, which the loader decodes and warps. Prediction does all at once
(`pixel_view`), so that its network sees what it was trained and evaluated on.
"""

import io
import math
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from pipeline.data.photographs.header import TooManyPixelsError, check_pixels, opened
from pipeline.io.text import briefly
from pipeline.pose.geometry import (
    Matrix,
    crop_from_original,
    input_from_original,
    original_from_crop,
)
from pipeline.pose.person import Person
from pipeline.settings.packing import MAX_PIXELS, CropSettings

Image = UInt8[np.ndarray, "height width 3"]
ImageRGBA = UInt8[np.ndarray, "height width 4"]
_JPEG_START = b"\xff\xd8"
# Image pixels a pixel of the input from which a bilinear warp alone would alias. The default
# augmentation of crops as large as the input exceeds it in one of seven samples.
_REDUCED_FROM = 1.2
# By the number of channels, of which a fourth is ignored.
_TO_BGR = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGR}
# OpenCV warps images with shorter sides only.
_WARPED_BELOW = 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of an original image, reduced.

    It starts at the original's pixel (`left`, `top`). `factor_x` and `factor_y` are its pixels an
    original pixel.
    """

    left: int
    top: int
    factor_x: float
    factor_y: float

    @property
    def from_original(self) -> Matrix:
        """Matrix from original pixels to crop pixels."""
        return crop_from_original(self.left, self.top, self.factor_x, self.factor_y)

    @property
    def to_original(self) -> Matrix:
        """Matrix from crop pixels to original pixels."""
        return original_from_crop(self.left, self.top, self.factor_x, self.factor_y)


@dataclass(frozen=True, kw_only=True)
class Crop(_Part):
    """A stored crop: JPEG bytes, and where it lies in the original image."""

    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class Cut(_Part):
    """A crop before it is stored."""

    pixels: UInt8[np.ndarray, "height width channels"]


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a stored image of any kind as RGB.

    Raises ValueError if it is not one, or has more than `max_pixels`.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    with opened(io.BytesIO(data), max_pixels):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError(f"not a readable image ({len(data):,} bytes)")
    return image


class CropDecoder:
    """A decoder of stored images into memory that it reuses; each thread needs its own.

    The header is read first, and images of more than `max_pixels` are refused before memory is
    asked for. Fresh pages for every image would cost a tenth of the time. The fourth channel is all
    255: four are warped in half the time of three. Unlike OpenCV, simplejpeg refuses damage that a
    JPEG decoder could paint over.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._memory = np.empty(0, np.uint8)

    def decode(self, data: bytes) -> ImageRGBA:
        """Decode an image, valid until the next call.

        Raises ValueError if it is damaged or too large.
        """
        if not data.startswith(_JPEG_START):
            return cv2.cvtColor(decode_image(data, self._max_pixels), cv2.COLOR_RGB2RGBA)
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            check_pixels(width, height, self._max_pixels)
            if self._memory.size < 4 * height * width:
                self._memory = np.empty(4 * height * width, np.uint8)
            return simplejpeg.decode_jpeg(data, "RGBA", buffer=self._memory)
        except TooManyPixelsError:
            raise
        except ValueError as error:
            raise ValueError(f"damaged JPEG of {len(data):,} bytes: {briefly(error)}") from None


def warp(
    image: ImageRGBA,
    matrix: Matrix,
    scratch: UInt8[np.ndarray, "px px 4"],
    out: UInt8[np.ndarray, "px px 3"],
) -> None:
    """Warp an image by the matrix into `out`, black outside the image. `scratch` is overwritten.

    An image of many pixels a pixel of `out` is first reduced by area. Raises ValueError for a
    longer side than OpenCV warps.
    """
    pixels = 1 / math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    if pixels > _REDUCED_FROM:
        image, factor_x, factor_y = _reduced(image, 1 / pixels)
        matrix = matrix @ original_from_crop(0, 0, factor_x, factor_y)
    if max(image.shape) >= _WARPED_BELOW:
        height, width = image.shape[:2]
        raise ValueError(
            f"an image of {width} x {height} pixels, expected sides below {_WARPED_BELOW:,}"
        )
    cv2.warpAffine(image, matrix[:2], out.shape[:2], dst=scratch, flags=cv2.INTER_LINEAR)
    cv2.cvtColor(scratch, cv2.COLOR_RGBA2RGB, dst=out)


def pixel_view(
    image: ImageRGBA,
    center: tuple[float, float],
    scale: float,
    input_px: int,
    stored: CropSettings,
) -> UInt8[np.ndarray, "input_px input_px 3"]:
    """Return the network input of a person's frame straight from a photograph.

    It is the input that a crop `stored` with these settings gives, to the last bit. Black if the
    frame misses the photograph.
    """
    seen = np.zeros((input_px, input_px, 3), np.uint8)
    cut = cut_frame(image, center, scale, stored)
    if cut is not None:
        jpeg = _encode(cut.pixels, stored.jpeg_quality)
        matrix = input_from_original(center, scale, input_px) @ cut.to_original
        scratch = np.empty((input_px, input_px, 4), np.uint8)
        warp(CropDecoder().decode(jpeg), matrix, scratch, seen)
    return seen


def cut_crop(image: Image, person: Person, settings: CropSettings) -> Crop:
    """Cut the person out of a photograph. Raises ValueError if the frame misses the photograph."""
    cut = cut_frame(image, person.center, person.scale, settings)
    if cut is None:
        height, width = image.shape[:2]
        raise ValueError(
            f"{person.image}: person {person.person} at {person.center} lies outside "
            f"the image of {width}x{height} pixels"
        )
    return Crop(
        jpeg=_encode(cut.pixels, settings.jpeg_quality),
        left=cut.left,
        top=cut.top,
        factor_x=cut.factor_x,
        factor_y=cut.factor_y,
    )


def cut_frame(
    image: UInt8[np.ndarray, "height width channels"],
    center: tuple[float, float],
    scale: float,
    settings: CropSettings,
) -> Cut | None:
    """Cut a person's frame with its margin out of a photograph, reduced by area to the stored size.

    None if the photograph has fewer than two rows or columns of it.
    """
    height, width = image.shape[:2]
    frame = 200 * scale
    reach = settings.margin * frame / 2
    x, y = center
    left, top = max(0, round(x - reach)), max(0, round(y - reach))
    right, bottom = min(width, round(x + reach) + 1), min(height, round(y + reach) + 1)
    if right - left < 2 or bottom - top < 2:
        return None
    pixels, factor_x, factor_y = image[top:bottom, left:right], 1.0, 1.0
    if frame > settings.person_px:
        pixels, factor_x, factor_y = _reduced(pixels, settings.person_px / frame)
    return Cut(pixels=pixels, left=left, top=top, factor_x=factor_x, factor_y=factor_y)


def _reduced(
    image: UInt8[np.ndarray, "height width channels"], factor: float
) -> tuple[UInt8[np.ndarray, "rows columns channels"], float, float]:
    """Reduce an image by area; return it and the factors of whole pixels, near `factor`."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return reduced, size[0] / width, size[1] / height


def _encode(pixels: UInt8[np.ndarray, "height width channels"], quality: int) -> bytes:
    bgr = cv2.cvtColor(pixels, _TO_BGR[pixels.shape[2]])
    # Colours in full resolution cost fewer bytes than the same accuracy by the quality.
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])
    assert done, "OpenCV encodes any array of bytes"
    return data.tobytes()
