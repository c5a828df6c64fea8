"""Local copies of remote shards, in a folder that the processes of a node share."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from pipeline.io.location import name_of
from pipeline.io.redaction import redacted

# A copy's name is its checksum and its name, so equal names of two datasets
# don't meet; whatever else lies in the folder is left alone.
_COPY = re.compile(r"[0-9a-f]{64}-.*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardCache:
    """Copies of at most `max_bytes` in `folder`; the least recently used make room for the next.

    One process of the node downloads at a time, and those that miss wait.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes

    def path_of(self, location: str, size: int, sha256: str) -> Path:
        """A complete, verified copy of a remote shard of `size` bytes, downloaded if need be.

        Another process may remove it to make room: `open` is safe from that.
        Raises ValueError if the shard is larger than the cache or not what was
        expected, and ConnectionError if it can't be downloaded.
        """
        # It becomes part of a path, and an index may come from anywhere.
        if not _SHA256.fullmatch(sha256):
            raise ValueError(
                f"{redacted(location)}: expected a SHA-256 of 64 digits, got {sha256!r}"
            )
        if size > self.max_bytes:
            raise ValueError(
                f"{redacted(location)}: {size:,} bytes, expected at most the {self.max_bytes:,} of the cache"
            )
        # As in files: only where it is needed.
        from pipeline.io.remote import fetch

        path = self.folder / f"{sha256}-{name_of(location)}"
        if _use(path, size):
            return path
        with self._lock():
            # Another process may have downloaded it meanwhile.
            if not _use(path, size):
                path.unlink(missing_ok=True)
                self._make_room(path, size)
                fetch(location, path, size=size, sha256=sha256)
                _use(path, size)
        return path

    def open(self, location: str, size: int, sha256: str) -> BufferedReader:
        """Open a copy for reading or mapping. Raises like `path_of`.

        It stays readable as long as it is open or mapped: Linux keeps the bytes
        of a file that was removed until nobody uses them.
        """
        while True:
            # Removed by another process in between: it is downloaded once more.
            with suppress(FileNotFoundError):
                return self.path_of(location, size, sha256).open("rb")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel takes back from a process that dies."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, path: Path, size: int) -> None:
        """Remove copies until `path` fits, and what crashed downloads of others have left.

        Copies in use go too: whoever has them open or mapped keeps them.
        """
        copies = [copy for copy in self.folder.iterdir() if _COPY.fullmatch(copy.name)]
        own_part = f"{path.name}.part"
        total = size
        ages = []
        for copy in copies:
            if copy.name.endswith(".part"):
                if copy.name != own_part:
                    copy.unlink()
                continue
            status = copy.stat()
            total += status.st_size
            ages.append((status.st_mtime_ns, status.st_size, copy))
        for _, copy_size, copy in sorted(ages):
            if total <= self.max_bytes:
                break
            copy.unlink()
            total -= copy_size


def _use(path: Path, size: int) -> bool:
    """Whether a copy is there in full; if so it counts as just used."""
    now = time.time_ns()
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path, ns=(now, now))
    except FileNotFoundError:
        return False
    return True
