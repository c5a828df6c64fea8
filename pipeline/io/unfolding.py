"""Compressed files, tars and arrays, read within bounds: a few bytes may state terabytes."""

import bz2
import gzip
import io
import lzma
import math
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Self, cast

import numpy as np

# Bytes that unfold without question, and how often larger files may hold themselves. Annotations
# in JSON hold themselves some ten times; zeros a thousand times.
_UNQUESTIONED = 2**26
_MOST_TIMES = 100
# Bytes of a tar's member that is read whole (stored crops have some 50 kB), and of a header that
# extends another.
MOST_MEMBER_BYTES = 2**28
_MOST_HEADER_BYTES = 2**20
_CHUNK = 2**16
# For the dictionary that an xz file may state.
_XZ_MEMORY = 2**28
# Headers that tarfile reads whole, as the rest of the header that follows.
_EXTENDING = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class UnfoldsError(ValueError):
    """Bytes that would unfold beyond the bounds."""


def bound_of(size: int) -> int:
    """Return the number of bytes that `size` compressed ones may unfold to."""
    return max(_UNQUESTIONED, _MOST_TIMES * size)


def unfolded(file: io.BufferedIOBase) -> io.BufferedIOBase:
    """Return the content of a file, decompressed if it starts as gzip, bzip2 or xz.

    Reading raises UnfoldsError past `bound_of` what was read of the file, or an error of the
    decompressor for damage. The decompressors are never more than a chunk ahead.
    """
    counted = _Counted(file)
    source = io.BufferedReader(counted, _CHUNK)
    start = source.peek(6)[:6]
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=source), counted), _CHUNK)
    if start.startswith(b"BZh"):
        return io.BufferedReader(_Bounded(bz2.BZ2File(source), counted), _CHUNK)
    if start.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(_Bounded(_Xz(source), counted), _CHUNK)
    return source


def tar_files(
    file: io.BufferedIOBase, is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of a tar, compressed or not, read front to back.

    Links, devices and folders are skipped. Raises UnfoldsError, tarfile.TarError, or an error of
    the decompressor.
    """
    content = cast(IO[bytes], unfolded(file))
    with tarfile.open(fileobj=content, mode="r|", tarinfo=BoundedInfo) as tar:
        for member in tar:
            check_member(member)
            if member.isreg() and is_wanted(member.name):
                opened = tar.extractfile(member)
                assert opened is not None, "it is a file"
                yield member.name, opened.read()
            # It would remember all of them.
            tar.members = []  # type: ignore[attr-defined]


class BoundedInfo(tarfile.TarInfo):
    """Header of a tar's member, which is refused where tarfile would read more than is there."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header. Raises UnfoldsError if the rest of it would be too large."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDING and not 0 <= found.size <= _MOST_HEADER_BYTES:
            raise UnfoldsError(
                f"a header of {found.size:,} bytes, expected at most {_MOST_HEADER_BYTES:,}"
            )
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise UnfoldsError(f"{found.name} is a sparse file, expected a plain one")
        return found


def check_member(member: tarfile.TarInfo) -> None:
    """Raise UnfoldsError for a member of a tar that is sparse or too large to be read whole."""
    if member.issparse():
        raise UnfoldsError(f"{member.name} is a sparse file, expected a plain one")
    if not 0 <= member.size <= MOST_MEMBER_BYTES:
        raise UnfoldsError(
            f"{member.name} has {member.size:,} bytes, expected at most {MOST_MEMBER_BYTES:,}"
        )


def load_npz(content: bytes) -> dict[str, Any]:
    """Return the arrays of an .npz file.

    Raises UnfoldsError if they would unfold beyond `bound_of` its size, or one states more bytes
    than the file has of it, and an error of any kind if it is no such file, or holds text that is
    no Unicode.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_zip(archive, len(content))
        for member in archive.infolist():
            with archive.open(member) as file:
                _check_array(member, cast(io.BufferedIOBase, file))
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, array in arrays.items():
        if array.dtype.kind == "U":
            _check_text(name, array)
    return arrays


def check_zip(archive: zipfile.ZipFile, size: int) -> None:
    """Raise UnfoldsError if a zip file of `size` bytes would unfold beyond `bound_of` these."""
    total = sum(member.file_size for member in archive.infolist())
    if total > bound_of(size):
        raise UnfoldsError(f"{size:,} bytes that unfold to {total:,}, {_expected(size)}")


class _Counted(io.RawIOBase):
    """A file, and the number of bytes that were read of it."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class _Bounded(io.RawIOBase):
    """The content of a compressed file, within bounds."""

    def __init__(self, content: Any, source: _Counted) -> None:
        self._content, self._source = content, source
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._content.read(min(len(buffer), _CHUNK))
        buffer[: len(data)] = data
        self._count += len(data)
        if self._count > bound_of(self._source.count):
            size = self._source.count
            raise UnfoldsError(f"{size:,} bytes unfold to more, {_expected(size)}")
        return len(data)


class _Xz:
    """The content of an .xz file; lzma.LZMAFile has no limit on memory."""

    def __init__(self, source: io.BufferedIOBase) -> None:
        self._source = source
        self._unpacker = self._fresh()

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes, none at the end. Raises EOFError or lzma.LZMAError."""
        while True:
            data = b""
            if self._unpacker.eof:
                data = self._unpacker.unused_data or self._source.read1(_CHUNK)
                if not data.strip(b"\0"):
                    return b""
                self._unpacker = self._fresh()
            elif self._unpacker.needs_input and not (data := self._source.read1(_CHUNK)):
                raise EOFError("ended before the end of the compressed stream")
            if content := self._unpacker.decompress(data, size):
                return content

    @staticmethod
    def _fresh() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _check_array(member: zipfile.ZipInfo, file: io.BufferedIOBase) -> None:
    """Raise UnfoldsError if an .npy file states more bytes than its member has."""
    major, _ = np.lib.format.read_magic(file)
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if major not in readers:
        raise ValueError(f"{member.filename} has format {major}, expected 1 or 2")
    shape, _, dtype = readers[major](file)
    size = math.prod(shape) * dtype.itemsize
    if size > member.file_size:
        raise UnfoldsError(
            f"{member.filename} states {size:,} bytes, expected at most {member.file_size:,}"
        )


def _check_text(name: str, array: np.ndarray) -> None:
    """Raise ValueError for numbers of no character.

    Those that stand for bytes of a file's name that is no UTF-8 are characters.
    """
    codes = np.frombuffer(array.tobytes(), array.dtype.byteorder + "u4")
    is_half = (codes >= 0xD800) & (codes <= 0xDFFF) & ((codes < 0xDC80) | (codes > 0xDCFF))
    if (is_half | (codes > sys.maxunicode)).any():
        raise ValueError(f"{name} holds what is no text")


def _expected(size: int) -> str:
    return f"expected at most {bound_of(size):,}"
