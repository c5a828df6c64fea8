"""Expansion of patterns, and reading and download of remote files with retries."""

import glob
import io
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

from pipeline.io import transport
from pipeline.io.atomic import naming_full_disk
from pipeline.io.location import has_wildcard, local_path, scheme_of, spell_out, split_pattern
from pipeline.io.own import open_own, sha256_of
from pipeline.io.redaction import redacted

Result = TypeVar("Result")

# Attempts in a row without a single byte before a transfer fails. They wait 15.5 s in total, in
# which a server can restart.
ATTEMPTS = 6
# Wait before the second attempt, doubled before each later one.
_FIRST_WAIT_SECONDS = 0.5
# Bytes of a remote file that are held in memory at once, a whole index or a sample.
_MOST_IN_MEMORY = 2**30
# A transfer has this time, and the time of its bytes at a rate below that of any network, so that
# it ends even if the server sends a byte now and then.
_PATIENCE_SECONDS = 600.0
_LEAST_BYTES_PER_SECOND = 2**13


def expand(pattern: str) -> list[str]:
    """Return the shards that comma-separated patterns match, sorted, without duplicates.

    Local shards become absolute paths. Braces work everywhere, wildcards on disks, s3 and gs.
    A remote name without wildcards is not looked up. Raises ValueError for an unknown scheme, a
    wildcard over http, which can't list a folder, or a missing local shard that braces name.
    """
    return sorted(
        {
            shard
            for part in split_pattern(pattern)
            for name in spell_out(part)
            for shard in _matches(name, part)
        }
    )


def _matches(name: str, pattern: str) -> Iterable[str]:
    scheme = scheme_of(name)
    if scheme == "file":
        found = glob.glob(local_path(name))
        if not found and name != pattern and not has_wildcard(name):
            raise ValueError(f"{name}: no such file, expected what {redacted(pattern)!r} names")
        return [str(Path(path).absolute()) for path in found]
    if scheme in ("http", "https"):
        # Question marks and brackets belong to the query.
        if "*" in name:
            raise ValueError(
                f"{redacted(pattern)}: {scheme} can't list a folder, so '*' finds nothing; name "
                "the shards with braces, as in train-{000000..000009}.tar"
            )
        return [name]
    return _persist(name, lambda: transport.find(name)) if has_wildcard(name) else [name]


def size_of(location: str) -> int:
    """Return a remote file's size in bytes.

    Raises ValueError if it can't be read, ConnectionError after the last attempt.
    """
    return _persist(location, lambda: transport.size(location))


def read_all(location: str) -> bytes:
    """Read a whole remote file, such as an index. Raises like `size_of`."""
    return read_range(location, 0, size_of(location))


def read_range(location: str, start: int, size: int) -> bytes:
    """Read `size` bytes of a remote file from `start`. Threads may call it concurrently.

    Raises like `size_of`, and ValueError if an http server ignores Range requests, or for more
    bytes than are held in memory.
    """
    if not 0 <= size <= _MOST_IN_MEMORY:
        raise ValueError(
            f"{redacted(location)}: {size:,} bytes, expected at most {_MOST_IN_MEMORY:,}"
        )
    read = io.BytesIO()
    _pour(location, start, start + size, read, may_skip=False)
    return read.getvalue()


def fetch(location: str, target: Path, *, size: int, sha256: str | None) -> None:
    """Download a remote file of `size` bytes atomically to `target`.

    An interrupted download leaves `target` with `.part` appended, from which the next call resumes.
    Only one process at a time may fetch a target. Raises ValueError on a size or checksum mismatch,
    ConnectionError after the last attempt.
    """
    found = size_of(location)
    if found != size:
        raise ValueError(f"{redacted(location)}: {found:,} bytes, expected {size:,}")
    part = target.with_name(f"{target.name}.part")
    with naming_full_disk(part), open_own(part) as file:
        is_resumed = file.tell() > 0
        if file.tell() > size:
            file.truncate(0)
            file.seek(0)
        _pour(location, file.tell(), size, file, may_skip=True)
        file.flush()
        # Otherwise a power failure could leave the final name without its bytes.
        os.fsync(file.fileno())
        got = sha256_of(file) if sha256 else None
    if got == sha256:
        part.replace(target)
        return
    part.unlink()
    if not is_resumed:
        raise ValueError(f"{redacted(location)}: SHA-256 {got}, expected {sha256}")
    # The part may have been damaged, or from another file: start over.
    fetch(location, target, size=size, sha256=sha256)


def _pour(location: str, start: int, end: int, file: io.BufferedIOBase, *, may_skip: bool) -> None:
    """Append bytes `start` to `end` to `file`, resuming where a connection breaks."""
    offset = start - file.tell()
    deadline = monotonic() + _PATIENCE_SECONDS + (end - start) / _LEAST_BYTES_PER_SECOND

    def resume() -> None:
        if offset + file.tell() < end:
            transport.pour(
                *(location, offset + file.tell(), end, file),
                may_skip=may_skip,
                seconds=max(deadline - monotonic(), 0.0),
            )

    _persist(location, resume, file.tell, end - offset, deadline)


def _persist(
    location: str,
    attempt: Callable[[], Result],
    progress: Callable[[], int] = lambda: 0,
    expected: int | None = None,
    deadline: float = math.inf,
) -> Result:
    """Retry until success, ATTEMPTS failures without progress (in bytes), or the deadline."""
    had, failures = progress(), 0
    while True:
        try:
            return attempt()
        except transport.TransferError as error:
            failures = failures + 1 if progress() == had else 0
            had = progress()
            amount = "" if expected is None else f", with {had:,} of {expected:,} bytes"
            if monotonic() >= deadline:
                raise ConnectionError(
                    f"{redacted(location)}: given up, since it takes too long{amount}: {error}"
                ) from error
            if failures == ATTEMPTS:
                raise ConnectionError(
                    f"{redacted(location)}: given up after {ATTEMPTS} attempts without "
                    f"progress{amount}: {error}"
                ) from error
            sleep(_FIRST_WAIT_SECONDS * 2 ** max(failures - 1, 0))
