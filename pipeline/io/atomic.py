"""Atomic writes, and the error for a full disk."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.io.own import create_own

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` at the end.

    If the block raises, the temporary file is removed and `path` is unchanged. Raises OSError that
    names the folder if its disk is full.
    """
    temporary = path.with_name(f"{path.name}.part")
    with naming_full_disk(temporary):
        create_own(temporary)
    try:
        with naming_full_disk(temporary):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Add to the error of a full disk which folder it is, and the bytes that `path` could have."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        written = path.stat().st_size if path.exists() else 0
        room = written + shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"the disk of {path.parent} is full: {path.name.removesuffix('.part')} needs more than "
            f"the {room:,} bytes available",
        ) from error
