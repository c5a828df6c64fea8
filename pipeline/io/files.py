"""Bytes of shards, wherever they lie.

What reads other machines is imported where it is needed: it loads an HTTP
client, in most of a second.
"""

import io
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import IO

from pipeline.io.location import is_remote, local_path
from pipeline.io.redaction import redacted

# Files kept open, by each reader: more than a window of samples is spread over.
_OPEN = 16
# Bytes that a remote shard is streamed in at a time.
_CHUNK = 2**23


class OpenFiles:
    """Reads parts of files that `open_file` opens, and keeps the last few open; safe to share between threads.

    Not by mmap, whose pages would count as the worker's memory, and which
    ends the process if a file is cut short while it is mapped.
    """

    def __init__(self, open_file: Callable[[str], IO[bytes]]) -> None:
        self._open_file = open_file
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = Lock()

    def read(self, location: str, start: int, size: int) -> bytes:
        """Read `size` bytes from `start` on, fewer where the file ends. Raises what `open_file` does."""
        return self._opened(location).read(start, size)

    def _opened(self, location: str) -> "_OpenFile":
        # Held while a file is opened, so that none is downloaded twice.
        with self._lock:
            file = self._open.pop(location, None) or _OpenFile(self._open_file(location))
            self._open[location] = file
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return file


class _OpenFile:
    """A file that closes when the last thread that reads from it has let it go."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        weakref.finalize(self, file.close)

    def read(self, start: int, size: int) -> bytes:
        """Read like OpenFiles; the system may give a part at a time."""
        parts = []
        while size > 0 and (part := os.pread(self._file.fileno(), size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)


def open_local(location: str) -> io.FileIO:
    """Open a local file for reading. Raises OSError."""
    return Path(local_path(location)).open("rb", buffering=0)


def content_of(location: str) -> bytes:
    """A whole file, such as an index. Raises ValueError naming one that is not there."""
    if is_remote(location):
        from pipeline.io.remote import read_all

        return read_all(location)
    try:
        return Path(local_path(location)).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{redacted(location)}: no such file") from None


def size_in_bytes(location: str) -> int:
    """Length of a file. Raises OSError, or ValueError for a remote one that can't be read."""
    if is_remote(location):
        from pipeline.io.remote import size_of

        return size_of(location)
    return Path(local_path(location)).stat().st_size


def open_stream(location: str) -> io.BufferedReader:
    """Open a shard to read it from front to back. Raises OSError, or ValueError like `size_in_bytes`."""
    if is_remote(location):
        return io.BufferedReader(_RemoteStream(location), _CHUNK)
    return Path(local_path(location)).open("rb")


def read_part(location: str, start: int, size: int) -> bytes:
    """Part of a remote file. Raises ConnectionError when given up."""
    from pipeline.io.remote import read_range

    return read_range(location, start, size)


class _RemoteStream(io.RawIOBase):
    """A remote file from front to back, in ranges, each of which is retried where it breaks."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._size = size_in_bytes(location)
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self._size - self._done)
        if size:
            buffer[:size] = read_part(self._location, self._done, size)
        self._done += size
        return size
