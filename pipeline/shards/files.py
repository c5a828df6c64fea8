"""Bytes of shards."""

import os
import weakref
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import BinaryIO

# Files kept open, by each reader: more than a window of samples is spread over.
_OPEN = 16


class LocalFiles:
    """Reads parts of local files and keeps the last few open; safe to share between threads.

    Not by mmap, whose pages would count as the worker's memory, and which
    ends the process if a file is cut short while it is mapped.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = Lock()

    def read(self, path: str, start: int, size: int) -> bytes:
        """Read `size` bytes from `start` on, fewer where the file ends. Raises OSError."""
        return self._opened(path).read(start, size)

    def _opened(self, path: str) -> "_OpenFile":
        with self._lock:
            file = self._open.pop(path, None) or _OpenFile(path)
            self._open[path] = file
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return file


class _OpenFile:
    """A file that closes when the last thread that reads from it has let it go."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, size: int) -> bytes:
        """Read like LocalFiles; the system may give a part at a time."""
        parts = []
        while size > 0 and (part := os.pread(self._descriptor, size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)


def open_stream(location: str) -> BinaryIO:
    """Open a shard to read it from front to back. Raises OSError."""
    return Path(location).open("rb")
