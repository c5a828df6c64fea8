"""Pictures of a few hundred bytes that state far more pixels than a machine has memory for."""

import io
import struct
import zlib

from PIL import Image


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    return file.getvalue()


def _jpeg(side: int) -> bytes:
    data = bytearray(_encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">2H", side, side)
    return bytes(data)


def _tiff_of_a_tile() -> bytes:
    """Make a TIFF of 16 pixels a side in one tile of 65,520 a side, by the tags of TIFF 6.0."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 65520, 323: 65520}
    tags |= {324: 8, 325: 64}
    held = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + held + bytes(68)


def _webp(kind: bytes, side: int) -> bytes:
    if kind == b"VP8X":
        data = bytes(4) + 2 * (side - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        data = b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little") + bytes(16)
    else:
        data = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<2H", side, side) + bytes(16)
    chunk = kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    # A frame's chunk, for the form that needs one.
    chunk += b"VP8L" + struct.pack("<I", 10) + b"\x2f" + bytes(9) if kind == b"VP8X" else b""
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _jpeg2000() -> bytes:
    """Make a JPEG 2000 whose codestream is far larger than its boxes say."""
    data = bytearray(_encoded("JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    sides = struct.pack(">2I", 60000, 60000)
    # The tiles become as large, so that the data stay one tile.
    data[at : at + 8] = data[at + 16 : at + 24] = sides
    return bytes(data)


def _jpeg2000_of_tiles(side: int, tile: int, *, in_boxes: bool = True) -> bytes:
    """Make a JPEG 2000 of many tiles, each of which its decoder has a structure for."""
    data = bytearray(_encoded("JPEG2000"))
    header = data.index(b"ihdr") + 4
    data[header : header + 8] = struct.pack(">2I", side, side)
    start = data.index(b"\xff\x4f\xff\x51")
    at = start + 8
    data[at : at + 8] = struct.pack(">2I", side, side)
    data[at + 16 : at + 24] = struct.pack(">2I", tile, tile)
    # The box may state its length in eight bytes, or none.
    longer = struct.pack(">I4sQ", 1, b"jp2c", len(data) - start + 16)
    return bytes(data[: start - 8] + longer + data[start:] if in_boxes else data[start:])


def _gif() -> bytes:
    data = bytearray(_encoded("GIF"))
    at = data.index(b",\0\0\0\0")
    data[at + 5 : at + 9] = struct.pack("<2H", 65000, 65000)
    return bytes(data)


def _png(side: int) -> bytes:
    header = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10**6))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def _bmp(width: int, height: int) -> bytes:
    sizes = struct.pack("<IiiHHI", 40, width, height, 1, 24, 0)
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + sizes + bytes(20) + bytes(900)


HOSTILE = {
    "jpeg": _jpeg(65500),
    "bmp": _bmp(1_572_864, 1_572_908),
    "bmp upside down": _bmp(60_000, -60_000),
    "gif": _gif(),
    "jpeg2000": _jpeg2000(),
    "jpeg2000 of tiles": _jpeg2000_of_tiles(255, 1),
    "jpeg2000 of tiles, bare": _jpeg2000_of_tiles(8000, 32, in_boxes=False),
    "pgm": b"P5 65000 65000 255\n" + bytes(64),
    "pgm 16": b"P5 65000 65000 65535\n" + bytes(64),
    "ppm": b"P6 2147483647 2147483647 255\n" + bytes(64),
    "png": _png(60_000),
    "qoi": b"qoif" + struct.pack(">2I", 60_000, 60_000) + bytes(22),
    "ras": struct.pack(">8I", 0x59A66A95, 60_000, 60_000, 24, 0, 1, 0, 0) + bytes(64),
    "tga": b"\0\0\2" + bytes(9) + struct.pack("<2H", 60_000, 60_000) + b"\x18\x20" + bytes(64),
    "tiff of a tile": _tiff_of_a_tile(),
    "webp": _webp(b"VP8 ", 16383),
    "webp lossless": _webp(b"VP8L", 16384),
    "webp extended": _webp(b"VP8X", 65_000),
}
