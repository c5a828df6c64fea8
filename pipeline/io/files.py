"""Reading of shards, local or remote.

`remote` is imported only where it is needed: its HTTP client takes most of a second to load.
"""

import io
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import IO

from pipeline.io.inside import check_plain, read_whole
from pipeline.io.location import is_remote, local_path
from pipeline.io.redaction import redacted

# Files that a reader keeps open, more than a shuffle window of samples is spread over.
_OPEN = 16
# Bytes per request of a remote shard that is streamed.
_CHUNK = 2**23


class OpenFiles:
    """Reader of file ranges, which keeps the last files open. Threads may share it.

    It does not use mmap: mapped pages would count as the worker's memory, and a file that is
    truncated while mapped would kill the process.
    """

    def __init__(self, open_file: Callable[[str], IO[bytes]]) -> None:
        self._open_file = open_file
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = Lock()

    def read(self, location: str, start: int, size: int) -> bytes:
        """Read `size` bytes from `start`, fewer at the end. Raises like `open_file`."""
        return self._opened(location).read(start, size)

    def _opened(self, location: str) -> "_OpenFile":
        # The lock is held during the opening, so that no file is downloaded twice.
        with self._lock:
            file = self._open.pop(location, None) or _OpenFile(self._open_file(location))
            self._open[location] = file
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return file


class _OpenFile:
    """File that closes when the last thread drops its reference."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        weakref.finalize(self, file.close)

    def read(self, start: int, size: int) -> bytes:
        """Read like `OpenFiles.read`. A single `pread` may return fewer bytes."""
        parts = []
        while size > 0 and (part := os.pread(self._file.fileno(), size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)


def open_local(location: str) -> io.FileIO:
    """Open a local file for reading. Raises OSError, or ValueError for what is no plain file."""
    return _plain(location).open("rb", buffering=0)


def content_of(location: str) -> bytes:
    """Read a whole file, such as an index. Raises ValueError that names a missing file."""
    if is_remote(location):
        from pipeline.io.remote import read_all

        return read_all(location)
    try:
        return read_whole(_plain(location))
    except FileNotFoundError:
        raise ValueError(f"{redacted(location)}: no such file") from None


def size_in_bytes(location: str) -> int:
    """Return a file's size. Raises OSError, or ValueError if a remote file can't be read."""
    if is_remote(location):
        from pipeline.io.remote import size_of

        return size_of(location)
    return Path(local_path(location)).stat().st_size


def open_stream(location: str) -> io.BufferedReader:
    """Open a shard to read it from front to back. Raises like `size_in_bytes`."""
    if is_remote(location):
        return io.BufferedReader(_RemoteStream(location), _CHUNK)
    return _plain(location).open("rb")


def read_part(location: str, start: int, size: int) -> bytes:
    """Read `size` bytes of a remote file. Raises ConnectionError after the last retry."""
    from pipeline.io.remote import read_range

    return read_range(location, start, size)


def _plain(location: str) -> Path:
    path = Path(local_path(location))
    check_plain(path)
    return path


class _RemoteStream(io.RawIOBase):
    """Remote file as a stream, read in ranges with retries."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._size = size_in_bytes(location)
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self._size - self._done)
        if size:
            buffer[:size] = read_part(self._location, self._done, size)
        self._done += size
        return size
