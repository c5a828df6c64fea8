"""Local copies of remote shards, in a folder that all processes of a node share."""

import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from pipeline.io.console import say
from pipeline.io.location import name_of
from pipeline.io.own import open_own, read_own, sha256_of
from pipeline.io.redaction import redacted

# A copy's file name begins with the checksum, so that shards of two datasets can have equal names.
# Other files in the folder are left alone.
_COPY = re.compile(r"[0-9a-f]{64}-.*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardCache:
    """Cache in `folder` of at most `max_bytes`, which evicts the least recently used copies.

    One process of the node downloads at a time. Others that miss wait for it. A new folder is this
    user's alone; of one to which others may write, a line is printed. Only this user's files are
    read, after their checksum has matched once in this process.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes
        # Device and inode of each copy whose checksum has matched.
        self._matched: dict[Path, tuple[int, int]] = {}
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            say(
                f"data.cache={str(folder)!r} is not this user's alone: others may remove copies "
                f"or fill the disk; to end that: chmod 700 {shlex.quote(str(folder))}, or give "
                "a folder of your own"
            )

    def open(self, location: str, size: int, sha256: str) -> BufferedReader:
        """Open a verified copy of a remote shard of `size` bytes, downloaded if needed.

        It stays readable after an eviction: Linux keeps a removed file until its last user closes
        it. Raises ValueError if the shard is larger than the cache or differs in size or checksum,
        ConnectionError if the download fails, and OSError if others hold the folder's names.
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
        found = self._verified(path, size, sha256)
        if found is None:
            with self._lock():
                # Another process may have downloaded it meanwhile.
                found = self._verified(path, size, sha256)
                if found is None:
                    path.unlink(missing_ok=True)
                    self._make_room(path, size)
                    fetch(location, path, size=size, sha256=sha256)
                    found = self._verified(path, size, sha256)
        if found is None:
            raise ConnectionError(f"{path}: others have changed it since it was downloaded")
        return found

    def _verified(self, path: Path, size: int, sha256: str) -> BufferedReader | None:
        """Open a copy that is whole, and mark it as just used; None if there is none."""
        file = read_own(path)
        if file is None:
            return None
        status = os.fstat(file.fileno())
        identity = status.st_dev, status.st_ino
        if status.st_size != size or (
            self._matched.get(path) != identity and sha256_of(file) != sha256
        ):
            file.close()
            return None
        self._matched[path] = identity
        now = time.time_ns()
        os.utime(file.fileno(), ns=(now, now))
        return file

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel releases when a process dies."""
        with open_own(self.folder / ".lock") as file:
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
                    with suppress(PermissionError):
                        copy.unlink()
                continue
            status = copy.lstat()
            if status.st_uid != os.geteuid():
                continue
            total += status.st_size
            ages.append((status.st_mtime_ns, status.st_size, copy))
        for _, copy_size, copy in sorted(ages):
            if total <= self.max_bytes:
                break
            copy.unlink()
            total -= copy_size
