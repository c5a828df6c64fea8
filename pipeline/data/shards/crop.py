"""The crop that a shard stores: one person with a margin, as far as the photograph has pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from pipeline.pose.geometry import Matrix, crop_from_original, original_from_crop
from pipeline.pose.person import Person
from pipeline.settings.packing import CropSettings

Image = UInt8[np.ndarray, "height width 3"]
ImageRGBA = UInt8[np.ndarray, "height width 4"]
_JPEG_START = b"\xff\xd8"


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A stored crop: JPEG bytes, and where it lies in the original image.

    The crop starts at the original's pixel (`left`, `top`). `factor_x` and `factor_y` are crop
    pixels an original pixel.
    """

    jpeg: bytes
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


def decode_image(data: bytes) -> Image:
    """Decode a stored image as RGB. Raises ValueError if it is not one."""
    buffer = np.frombuffer(data, np.uint8)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(buffer, flags) if len(buffer) else None
    if image is None:
        raise ValueError(f"not a readable image ({len(data):,} bytes)")
    return image


class CropDecoder:
    """A decoder of stored images into memory that it reuses; each thread needs its own.

    Fresh pages for every image would cost a tenth of the time. The fourth channel is all 255: four
    are warped in half the time of three. Unlike OpenCV, simplejpeg refuses damage that a JPEG
    decoder could paint over.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def decode(self, data: bytes) -> ImageRGBA:
        """Decode an image, valid until the next call. Raises ValueError if it is damaged."""
        if not data.startswith(_JPEG_START):
            return cv2.cvtColor(decode_image(data), cv2.COLOR_RGB2RGBA)
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if self._memory.size < 4 * height * width:
                self._memory = np.empty(4 * height * width, np.uint8)
            return simplejpeg.decode_jpeg(data, "RGBA", buffer=self._memory)
        except ValueError as error:
            raise ValueError(f"damaged JPEG of {len(data):,} bytes: {error}") from None


def warp(
    image: ImageRGBA,
    matrix: Matrix,
    scratch: UInt8[np.ndarray, "px px 4"],
    out: UInt8[np.ndarray, "px px 3"],
) -> None:
    """Warp an image by the matrix into `out`, black outside the image. `scratch` is overwritten."""
    cv2.warpAffine(image, matrix[:2], out.shape[:2], dst=scratch, flags=cv2.INTER_LINEAR)
    cv2.cvtColor(scratch, cv2.COLOR_RGBA2RGB, dst=out)


def cut_crop(image: Image, person: Person, settings: CropSettings) -> Crop:
    """Cut the person out of a photograph. Raises ValueError if the frame misses the photograph."""
    height, width = image.shape[:2]
    frame = 200 * person.scale
    reach = settings.margin * frame / 2
    x, y = person.center
    left, top = max(0, round(x - reach)), max(0, round(y - reach))
    right, bottom = min(width, round(x + reach) + 1), min(height, round(y + reach) + 1)
    if right - left < 2 or bottom - top < 2:
        raise ValueError(
            f"{person.image}: person {person.person} at {person.center} lies outside "
            f"the image of {width}x{height} pixels"
        )
    factor = min(1.0, settings.person_px / frame)
    size = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    pixels = image[top:bottom, left:right]
    if factor < 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return Crop(
        jpeg=_encode(pixels, settings.jpeg_quality),
        left=left,
        top=top,
        factor_x=size[0] / (right - left),
        factor_y=size[1] / (bottom - top),
    )


def _encode(pixels: Image, quality: int) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV encodes any array of bytes"
    return data.tobytes()
