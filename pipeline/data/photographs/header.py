"""A photograph's header: its kind, size and EXIF orientation, read before its pixels."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import IO, cast

import cv2
from PIL import Image as PillowImage

# Pillow's names of the kinds that are read, with their suffixes. Others that it knows run programs
# (EPS), are documents, or hold no photographs.
_KINDS = {
    "AVIF": ".avif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "GIF": ".gif",
    "HEIF": ".heic .heif .hif",
    "JPEG": ".jpeg .jpg .jpe .jfif",
    "JPEG2000": ".jp2 .j2k .jpf .jpx",
    "MPO": ".mpo",
    "PNG": ".png .apng",
    "PPM": ".pbm .pgm .ppm .pnm",
    "QOI": ".qoi",
    "SUN": ".ras",
    "TGA": ".tga",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
}
SUFFIXES = tuple(sorted(suffix for kind in _KINDS.values() for suffix in kind.split()))
# EXIF tag.
_ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)
# Raised for damage by the parsers of Pillow and OpenCV, besides ValueError.
_DAMAGE = (
    *(OSError, SyntaxError, EOFError, LookupError, TypeError, struct.error, cv2.error),
    *(ArithmeticError, AssertionError, AttributeError, MemoryError, RuntimeError),
)
_PNG_START = b"\x89PNG\r\n\x1a\n"
# TIFF tags of the sides of tiles, which are decoded whole.
_TILE_SIDES = (322, 323)
# The start of a JPEG 2000 codestream, and its tiles: of 128 pixels a side the bound on pixels has
# some 5,000. Each takes 11 kB.
_SIZE_MARKER, _MOST_TILES = b"\xff\x4f\xff\x51", 2**13
# Brands of HEVC pictures in HEIF files (ISO/IEC 23008-12); AVIF has brands of its own.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Starts of other files that are given as photographs, and what these are.
_TIFF = (
    "a damaged TIFF, or one of values that are not read, such as a camera's raw file or three "
    "channels of floating point; convert it to 8 or 16 bits a channel"
)
_OTHERS = {
    b"#?R": "a Radiance HDR image; convert it to PNG",
    b"PF\n": "a PFM image in colour; convert it to PNG",
    b"v/1\x01": "an OpenEXR image; convert it to PNG",
    b"8BPS": "a Photoshop file; export it as PNG",
    b"\xff\x0a": "a JPEG XL image; convert it to PNG",
    b"\0\0\0\x0cJXL ": "a JPEG XL image; convert it to PNG",
    b"%PDF": "a PDF document; export its images",
    b"<": "a text such as SVG or a web page; export an image",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the image by git lfs pull",
    b"II*\0": _TIFF,
    b"MM\0*": _TIFF,
}

# `opened` bounds the pixels itself, by a setting. Pillow's own bound is one for all.
PillowImage.MAX_IMAGE_PIXELS = None


class TooManyPixelsError(ValueError):
    """A photograph above the bound, which may be an attack."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A photograph's size as stored, and its EXIF orientation: 1 for none, up to 8."""

    width: int
    height: int
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self.width, self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the photograph held upright, as viewers show it."""
        size = self.width, self.height
        return size[::-1] if self.orientation in QUARTER_TURNS else size


@contextmanager
def opened(file: io.BufferedIOBase, max_pixels: int) -> Iterator[tuple[PillowImage.Image, Header]]:
    """Open a photograph; its pixels are not decoded yet.

    Every size that a decoder would ask memory for is checked. Raises TooManyPixelsError, or
    ValueError if it is of no known kind or damaged.
    """
    _register_heic()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # Pillow's decoder of WebP asks for the canvas when it opens the file.
    check_pixels(*_webp_canvas(file.read(30)), max_pixels)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Pillow warns of damage that it ignores, and raises for the rest.
            warnings.simplefilter("ignore")
            with PillowImage.open(cast(IO[bytes], file), formats=list(_known_kinds())) as image:
                header = _header(image, file, max_pixels)
                yield image, header
    except _DAMAGE as error:
        raise ValueError(_unreadable(file, size)) from error


def read_header(file: io.BufferedIOBase, max_pixels: int) -> Header:
    """Read a photograph's header. Raises ValueError like `opened`."""
    with opened(file, max_pixels) as (_, header):
        return header


def check_pixels(width: int, height: int, max_pixels: int, what: str = "an image") -> None:
    """Raise TooManyPixelsError for a picture of more than `max_pixels`."""
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{what} of {width} x {height} pixels, expected at most {max_pixels:,} in all"
        )


def _header(image: PillowImage.Image, file: io.BufferedIOBase, max_pixels: int) -> Header:
    width, height = image.size
    check_pixels(width, height, max_pixels)
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        across, down = (int(tags.get(tag, 0)) for tag in _TILE_SIDES)
        check_pixels(across, down, max_pixels)
    if image.format == "JPEG2000":
        _check_jpeg2000(file, max_pixels)
    orientation = _orientation(image, file)
    if image.format == "TIFF" and orientation in QUARTER_TURNS:
        # Pillow gives the size that it will have upright.
        width, height = height, width
    return Header(width=width, height=height, orientation=orientation)


def _orientation(image: PillowImage.Image, file: io.BufferedIOBase) -> int:
    # Pillow would decode all pixels of a PNG to find what comes after them.
    exif = _png_exif(file) if image.format == "PNG" else image.getexif()
    orientation = exif.get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _png_exif(file: io.BufferedIOBase) -> PillowImage.Exif:
    """Read a PNG's eXIf chunk, which may come after its pixels; empty where there is none."""
    exif, position = PillowImage.Exif(), file.tell()
    try:
        file.seek(len(_PNG_START))
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                exif.load(file.read(length))
                break
            file.seek(length + 4, io.SEEK_CUR)
    finally:
        file.seek(position)
    return exif


def _check_jpeg2000(file: io.BufferedIOBase, max_pixels: int) -> None:
    """Check what the codestream of a JPEG 2000 file states (ISO/IEC 15444-1, annex A).

    Its decoder asks memory for every tile at once, however small. Raises ValueError.
    """
    position = file.tell()
    try:
        file.seek(_codestream(file))
        start, _, width, height, left, top, across, down, *first = struct.unpack(
            ">4sI8I", file.read(40)
        )
    finally:
        file.seek(position)
    if start != _SIZE_MARKER or 0 in (across, down):
        raise ValueError("not a readable image: its size is not where JPEG 2000 has it")
    check_pixels(width - left, height - top, max_pixels)
    tiles = -(-(width - first[0]) // across) * -(-(height - first[1]) // down)
    if tiles > _MOST_TILES:
        raise ValueError(f"an image of {tiles:,} tiles, expected at most {_MOST_TILES:,}")


def _codestream(file: io.BufferedIOBase) -> int:
    """Return where a JPEG 2000 file has its pixels: behind its boxes, or at once."""
    file.seek(0)
    if file.read(4) == _SIZE_MARKER:
        return 0
    at = 0
    while True:
        file.seek(at)
        length, kind, longer = struct.unpack(">I4sQ", file.read(16))
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)
        length = longer if length == 1 else length
        if length < 8:
            raise ValueError("not a readable image: JPEG 2000 without its pixels")
        at += length


def _webp_canvas(start: bytes) -> tuple[int, int]:
    """Return the size that the start of a WebP file states (RFC 9649); zeros for other files."""
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0, 0
    if start[12:16] == b"VP8X":
        sides = start[24:27], start[27:30]
        return 1 + int.from_bytes(sides[0], "little"), 1 + int.from_bytes(sides[1], "little")
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    sides = start[26:28], start[28:30]
    return int.from_bytes(sides[0], "little") & 0x3FFF, int.from_bytes(sides[1], "little") & 0x3FFF


def _unreadable(file: io.BufferedIOBase, size: int) -> str:
    file.seek(0)
    start = file.read(64)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        if find_spec("pillow_heif") is None:
            return "a HEIC image, which needs the extra heic: pip install 'hourglass-ray[heic]'"
        return f"not a readable HEIC image ({size:,} bytes)"
    found = next((what for begin, what in _OTHERS.items() if start.startswith(begin)), "")
    return f"not a readable image ({size:,} bytes)" + (f": {found}" if found else "")


@cache
def _register_heic() -> None:
    if find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()


@cache
def _known_kinds() -> tuple[str, ...]:
    """List the kinds that this installation reads."""
    _register_heic()
    PillowImage.init()
    return tuple(kind for kind in _KINDS if kind in PillowImage.OPEN)
