"""Untrusted MATLAB files, of version 5 to 7.2: numbers, texts, cells and structs.

scipy's reader, which is written in C, ends the process for one damaged file in forty. The format is
MathWorks' "MAT-File Format", version 5: elements of a type, a length and data.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.io.unfolding import UnfoldsError, bound_of

_HEAD_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
# Types of data: numbers, which NumPy reads, and texts.
_NUMBERS = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Classes of arrays.
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = frozenset((_CELL, _STRUCT, _CHAR, *range(6, 16)))
_IS_COMPLEX = 0x800
_DEEPEST = 32
_MOST_AXES = 32


class _OtherClassError(ValueError):
    """A variable of a class that no data set uses, such as a function or a sparse matrix."""


def matlab_variables(data: bytes, *, drops_axes: bool = False) -> dict[str, Any]:
    """Return the variables of a MATLAB file by name; those of other classes are left out.

    Numbers are arrays in the type in which they are stored, rows of text str or arrays of it, cells
    arrays of objects, and structs arrays of objects with attributes. With `drops_axes`, axes of
    length 1 are dropped, and a lone element is itself. Raises ValueError for damage, and
    UnfoldsError if the file would unfold beyond `bound_of` its size.
    """
    if not data.startswith(b"MATLAB 5.0") or len(data) < _HEAD_BYTES:
        raise ValueError(f"it begins with {data[:10]!r}, expected b'MATLAB 5.0', of -v7 or -v6")
    parser = _Parser("<" if data[126:128] == b"IM" else ">", drops_axes)
    found = {}
    left = bound_of(len(data))
    for kind, part in parser.elements(memoryview(data)[_HEAD_BYTES:]):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(part, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise UnfoldsError(
                    f"{len(data):,} bytes that unfold to more, expected at most "
                    f"{bound_of(len(data)):,}"
                )
            kind, part = next(parser.elements(memoryview(unpacked)), (0, memoryview(b"")))
        if kind == _MATRIX:
            try:
                name, value = parser.matrix(part)
            except _OtherClassError:
                continue
            found[name] = value
    return found


class _Parser:
    """Reader of elements in a byte order. Raises ValueError for damage."""

    def __init__(self, order: str, drops_axes: bool) -> None:
        self._order, self._drops_axes = order, drops_axes
        self._tag = struct.Struct(f"{order}II")
        self._dtypes = {kind: np.dtype(order + code) for kind, code in _NUMBERS.items()}

    def elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield type and data of each element."""
        at, size = 0, len(data)
        while at < size:
            if size - at < 8:
                raise ValueError(f"{size - at} bytes where an element should begin")
            kind, length = self._tag.unpack_from(data, at)
            if kind >> 16:
                # Up to four bytes are stored in place of their length.
                kind, length, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
                if length > 4:
                    raise ValueError(f"a short element of {length} bytes, expected at most 4")
            else:
                start = at + 8
                # Compressed elements alone are not filled up to a multiple of eight.
                after = start + length + (0 if kind == _COMPRESSED else -length % 8)
            if start + length > size:
                raise ValueError(f"an element of {length:,} bytes, but {size - start:,} are left")
            yield kind, data[start : start + length]
            at = after

    def matrix(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """Return name and value of an array."""
        if depth > _DEEPEST:
            raise ValueError(f"arrays within arrays, deeper than {_DEEPEST}")
        if not data:
            return "", self._shaped(np.zeros((0, 0)))
        parts = self.elements(data)
        flags = self._whole(parts, "flags", 6)
        kind = flags[0] & 0xFF if flags else 0
        if kind not in _CLASSES or flags[0] & _IS_COMPLEX:
            raise _OtherClassError(f"an array of class {kind} or of complex numbers")
        shape = self._whole(parts, "shape", 5)
        if not 2 <= len(shape) <= _MOST_AXES or min(shape) < 0:
            raise ValueError(f"an array of shape {shape!r:.80}")
        name = self._text(parts, "name")
        if kind == _CELL:
            value = self._cells(parts, math.prod(shape), len(data), depth)
        elif kind == _STRUCT:
            value = self._structs(parts, math.prod(shape), len(data), depth)
        elif kind == _CHAR:
            return name, self._rows(self._text(parts, "text"), shape)
        else:
            value = self._numbers(parts)
            if self._drops_axes and value.size == math.prod(shape) == 1:
                return name, value.item()
        if len(value) != math.prod(shape):
            raise ValueError(f"{len(value):,} values in an array of shape {shape!r:.80}")
        return name, self._shaped(value.reshape(shape, order="F"))

    def _structs(
        self, parts: Iterator[tuple[int, memoryview]], count: int, size: int, depth: int
    ) -> np.ndarray:
        widths = self._whole(parts, "length of names", 5)
        names = bytes(_next(parts, "names of fields")[1])
        if len(widths) != 1 or widths[0] < 1 or len(names) % widths[0]:
            raise ValueError(f"fields whose names have {len(names)} bytes")
        fields = [
            names[at : at + widths[0]].partition(b"\0")[0].decode("latin-1")
            for at in range(0, len(names), widths[0])
        ]
        # Each value has its own tag, and structs without fields would cost no byte.
        if count * max(len(fields), 1) * 8 > size:
            raise ValueError(f"{count:,} structs in {size:,} bytes")
        made = np.empty(count, object)
        for at in range(count):
            made[at] = SimpleNamespace(**{name: self._next(parts, depth) for name in fields})
        return made

    def _cells(
        self, parts: Iterator[tuple[int, memoryview]], count: int, size: int, depth: int
    ) -> np.ndarray:
        if count * 8 > size:
            raise ValueError(f"{count:,} cells in {size:,} bytes")
        made = np.empty(count, object)
        for at in range(count):
            made[at] = self._next(parts, depth)
        return made

    def _next(self, parts: Iterator[tuple[int, memoryview]], depth: int) -> Any:
        kind, data = _next(parts, "array")
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind}, expected an array")
        return self.matrix(data, depth + 1)[1]

    def _whole(
        self, parts: Iterator[tuple[int, memoryview]], what: str, expected: int
    ) -> tuple[int, ...]:
        """Read whole numbers of 32 bits, whose type is `expected`."""
        kind, data = _next(parts, what)
        if kind != expected or len(data) % 4:
            raise ValueError(
                f"{what} of type {kind} and {len(data)} bytes, expected type {expected}"
            )
        return struct.unpack(f"{self._order}{len(data) // 4}{'I' if kind == 6 else 'i'}", data)

    def _numbers(self, parts: Iterator[tuple[int, memoryview]]) -> np.ndarray:
        kind, data = _next(parts, "numbers")
        if kind not in self._dtypes:
            raise ValueError(f"numbers of type {kind}, expected {', '.join(map(str, _NUMBERS))}")
        dtype = self._dtypes[kind]
        if len(data) % dtype.itemsize:
            raise ValueError(f"numbers of type {kind} in {len(data)} bytes")
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))

    def _text(self, parts: Iterator[tuple[int, memoryview]], what: str) -> str:
        kind, data = _next(parts, what)
        if kind not in _TEXTS:
            raise ValueError(f"{what} of type {kind}, expected text")
        coding = _TEXTS[kind]
        if coding != "utf-8":
            coding += "-le" if self._order == "<" else "-be"
        return bytes(data).decode(coding, "replace")

    def _rows(self, text: str, shape: tuple[int, ...]) -> Any:
        """Return a row of text as str, several as an array; they are stored by column."""
        if len(shape) != 2 or shape[0] == 1 or not text:
            return text
        if len(text) != math.prod(shape):
            raise ValueError(f"a text of {len(text)} letters in an array of shape {shape}")
        return np.array([text[row :: shape[0]] for row in range(shape[0])])

    def _shaped(self, array: np.ndarray) -> Any:
        if not self._drops_axes:
            return array
        if array.size == 1:
            return array.item()
        return array.squeeze() if array.size else array


def _next(parts: Iterator[tuple[int, memoryview]], what: str) -> tuple[int, memoryview]:
    found = next(parts, None)
    if found is None:
        raise ValueError(f"an array without {what}")
    return found
