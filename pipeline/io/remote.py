"""Reading shards from anywhere: what a pattern names, whole files and ranges of them, with patience."""

import glob
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import sleep
from typing import TypeVar

from pipeline.io import transport
from pipeline.io.atomic import naming_full_disk
from pipeline.io.location import has_wildcard, local_path, scheme_of, spell_out, split_pattern
from pipeline.io.redaction import redacted

Result = TypeVar("Result")

# Attempts that bring not one byte before a transfer is given up: 15.5 s of
# waiting, enough for a server to restart.
ATTEMPTS = 6
# Before the second attempt; doubled before each one after.
_FIRST_WAIT_SECONDS = 0.5


def expand(pattern: str) -> list[str]:
    """Every shard that comma-separated patterns name, sorted, each once.

    Local ones as absolute paths. Braces are spelt out everywhere; wildcards
    match on disks, s3 and gs. Raises ValueError for an unknown scheme, a
    wildcard over http, which can't list a folder, or a local shard that braces
    name and that is not there. What is remote and named without wildcards is
    not looked up.
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
        # Its question marks and brackets are a query's.
        if "*" in name:
            raise ValueError(
                f"{redacted(pattern)}: {scheme} can't list a folder, so '*' finds nothing; name the shards "
                "with braces, as in train-{000000..000009}.tar"
            )
        return [name]
    return _persist(name, lambda: transport.find(name)) if has_wildcard(name) else [name]


def size_of(location: str) -> int:
    """Bytes of a remote file. Raises ValueError if it can't be read, ConnectionError when given up."""
    return _persist(location, lambda: transport.size(location))


def read_all(location: str) -> bytes:
    """A remote file's content, such as an index. Raises like `size_of`."""
    return read_range(location, 0, size_of(location))


def read_range(location: str, start: int, size: int) -> bytes:
    """`size` bytes of a remote file from `start` on. Safe to call from several threads.

    Raises like `size_of`; also ValueError if an http server knows no ranges.
    """
    read = io.BytesIO()
    _pour(location, start, start + size, read, may_skip=False)
    return read.getvalue()


def fetch(location: str, target: Path, *, size: int, sha256: str | None) -> None:
    """Download a remote file of `size` bytes to `target`, which appears when it is complete.

    Until then it is `target` with `.part` appended, from where the next call
    goes on; only one process at a time may fetch a target. Raises ValueError if
    the size or checksum is another one, ConnectionError when given up.
    """
    found = size_of(location)
    if found != size:
        raise ValueError(f"{redacted(location)}: {found:,} bytes, expected {size:,}")
    part = target.with_name(f"{target.name}.part")
    is_resumed = part.exists()
    if is_resumed and part.stat().st_size > size:
        part.unlink()
    with naming_full_disk(part), part.open("ab") as file:
        _pour(location, file.tell(), size, file, may_skip=True)
        file.flush()
        # After a power failure a name without its bytes would look complete.
        os.fsync(file.fileno())
    got = _sha256(part) if sha256 else None
    if got == sha256:
        part.replace(target)
        return
    part.unlink()
    if not is_resumed:
        raise ValueError(f"{redacted(location)}: SHA-256 {got}, expected {sha256}")
    # The part may have been another file's, or damaged.
    fetch(location, target, size=size, sha256=sha256)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pour(location: str, start: int, end: int, file: io.BufferedIOBase, *, may_skip: bool) -> None:
    """Write bytes `start` to `end` at the end of `file`, going on from where a connection breaks off."""
    offset = start - file.tell()

    def go_on() -> None:
        if offset + file.tell() < end:
            transport.pour(location, offset + file.tell(), end, file, may_skip=may_skip)

    _persist(location, go_on, file.tell, end - offset)


def _persist(
    location: str,
    attempt: Callable[[], Result],
    progress: Callable[[], int] = lambda: 0,
    expected: int | None = None,
) -> Result:
    """Try until it works, or for ATTEMPTS times without progress, which is counted in bytes."""
    had, failures = progress(), 0
    while True:
        try:
            return attempt()
        except transport.TransferError as error:
            failures = failures + 1 if progress() == had else 0
            had = progress()
            if failures == ATTEMPTS:
                amount = "" if expected is None else f", with {had:,} of {expected:,} bytes"
                raise ConnectionError(
                    f"{redacted(location)}: given up after {ATTEMPTS} attempts without progress{amount}: "
                    f"{error}"
                ) from error
            sleep(_FIRST_WAIT_SECONDS * 2 ** max(failures - 1, 0))
