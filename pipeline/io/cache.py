"""Local copies of remote shards, in a folder that all processes of a node share."""

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

# A copy's file name begins with the checksum, so that shards of two datasets can have equal names.
# Other files in the folder are left alone.
_COPY = re.compile(r"[0-9a-f]{64}-.*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardCache:
    """Cache in `folder` of at most `max_bytes`, which evicts the least recently used copies.

    One process of the node downloads at a time. Others that miss wait for it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes

    def path_of(self, location: str, size: int, sha256: str) -> Path:
        """Return the path of a complete, verified copy of a remote shard of `size` bytes.

        Downloads it if needed. Another process may evict it at any time; `open` is safe from that.
        Raises ValueError if the shard is larger than the cache or differs in size or checksum, and
        ConnectionError if the download fails.
        """
        shown = redacted(location)
        # The checksum becomes part of a path, and an index may come from anywhere.
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{shown}: expected a SHA-256 of 64 digits, got {sha256!r}")
        if size > self.max_bytes:
            raise ValueError(
                f"{shown}: {size:,} bytes, expected at most the {self.max_bytes:,} of the cache"
            )
        # Imported late, as in files.py.
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

        It stays readable after an eviction: Linux keeps a removed file until its last user closes
        it.
        """
        while True:
            # Another process may evict the copy before it is opened; then download it again.
            with suppress(FileNotFoundError):
                return self.path_of(location, size, sha256).open("rb")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel releases when a process dies."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, path: Path, size: int) -> None:
        """Evict copies until `path` fits, and remove the parts that crashed downloads left.

        Copies in use are evicted too; processes that have them open or mapped can still read them.
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
    """Whether a copy is complete. If so, mark it as just used."""
    now = time.time_ns()
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path, ns=(now, now))
    except FileNotFoundError:
        return False
    return True
