"""Photographs as RGB pixels held upright: the one reader of packing and prediction."""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image as PillowImage

from pipeline.data.photographs.header import QUARTER_TURNS, Header, opened
from pipeline.data.shards.crop import CropDecoder, Image, ImageRGBA
from pipeline.io.inside import read_whole
from pipeline.settings.packing import MAX_PIXELS

_JPEG_START = b"\xff\xd8"
# Depths of cameras and scanners; a picture has the least that holds its highest value.
_DEPTHS = (8, 10, 12, 14, 16)
# Rows that are scaled at once.
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph held upright, and its header.

    `image` is RGB; the fourth channel is all 255. `depth` is the number of bits a channel, or 0
    for floating point, from which values were scaled to 8.
    """

    image: ImageRGBA
    header: Header
    depth: int = 8

    @property
    def conversion(self) -> str:
        """Description of how the values were scaled; empty where they were not."""
        if self.depth == 8:
            return ""
        return f"{f'{self.depth} bits a channel' if self.depth else 'floating point'} scaled to 8"


def read_photograph(
    data: bytes, decoder: CropDecoder | None = None, max_pixels: int = MAX_PIXELS
) -> Photograph:
    """Decode a photograph of any kind, and turn it upright by its EXIF orientation.

    Values of more than 8 bits are scaled by the least of 10, 12, 14 or 16 bits that holds the
    highest one, transparency is ignored, and an animation is its first picture. With a `decoder`
    the image is valid until its next. Raises ValueError if the data are not an image, are damaged,
    or have more than `max_pixels`.
    """
    with opened(io.BytesIO(data), max_pixels) as (picture, header):
        depth = 8
        if data.startswith(_JPEG_START) and picture.mode in ("L", "RGB"):
            pixels = (decoder or CropDecoder(max_pixels)).decode(data)
        elif (deep := _deep_pixels(picture, data)) is not None:
            pixels, depth = _scaled(deep)
        else:
            # By way of RGBA, since a palette may have transparent colours.
            alpha = picture.mode in ("P", "PA", "LA")
            plain = picture.convert("RGBA").convert("RGB") if alpha else picture.convert("RGB")
            pixels = _opaque(np.asarray(plain))
        # Pillow and OpenCV turn TIFF upright themselves.
        is_turned = picture.format == "TIFF"
    image = pixels if is_turned else upright(pixels, header.orientation)
    return Photograph(image=image, header=header, depth=depth)


def open_photograph(path: Path, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Read a file like `read_photograph`. Raises OSError, or ValueError naming the file."""
    data = read_whole(path)
    try:
        return read_photograph(data, max_pixels=max_pixels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def rgb(photograph: Photograph) -> Image:
    """Return the image without its fourth channel."""
    return cv2.cvtColor(photograph.image, cv2.COLOR_RGBA2RGB)


def upright(
    image: ImageRGBA, orientation: int
) -> UInt8[np.ndarray, "upright_height upright_width 4"]:
    """Turn and mirror an image from one of the eight orientations of EXIF 2.3."""
    if orientation in QUARTER_TURNS:
        image = image.transpose(1, 0, 2)
    # Rows and columns are in place by now, and may still be reversed.
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::right])


def _deep_pixels(picture: PillowImage.Image, data: bytes) -> np.ndarray | None:
    """Decode a picture of more than 8 bits a channel, grey or RGB; None for any other."""
    if picture.mode.startswith(("I", "F")):
        return np.asarray(picture)
    # Pillow would keep the high byte of each value alone.
    arguments = str([tile[3] for tile in getattr(picture, "tile", [])])
    if picture.format == "JPEG2000" or ";16" in arguments or "65535" in arguments:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if found is None:
            raise ValueError(f"not a readable image ({len(data):,} bytes)")
        if found.dtype != np.uint8:
            return found if found.ndim == 2 else found[:, :, 2::-1]
    return None


def _scaled(deep: np.ndarray) -> tuple[ImageRGBA, int]:
    """Scale values to 8 bits; return them and their depth, 0 for floating point.

    Raises ValueError for values that no picture has.
    """
    least, most = (float(found) for found in (deep.min(), deep.max()))
    if not (least >= 0 and most < 2 ** _DEPTHS[-1]):
        raise ValueError(f"an image with values from {least:g} to {most:g}, expected 0 to 65,535")
    is_float = deep.dtype.kind == "f"
    depth = next(bits for bits in _DEPTHS if most < 2**bits)
    highest = 1 if is_float and most <= 1 else 2**depth - 1
    grey_or_rgb = np.empty(deep.shape, np.uint8)
    # By parts: floating point takes four times the room.
    for start in range(0, len(deep), _ROWS):
        rows = slice(start, start + _ROWS)
        grey_or_rgb[rows] = np.rint(deep[rows] * np.float32(255 / highest))
    rgb = grey_or_rgb if deep.ndim == 3 else np.repeat(grey_or_rgb[..., None], 3, axis=2)
    return _opaque(rgb), 0 if is_float else depth


def _opaque(rgb: Image) -> ImageRGBA:
    return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2RGBA)
