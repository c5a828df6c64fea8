"""Files that appear whole or not at all, and what is said when the disk is full."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path aside to write to; at the end what is there takes the place of `path`.

    Where writing fails nothing of it remains, and what `path` was before is
    untouched. Raises OSError that names the folder if its disk is full.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        with naming_full_disk(aside):
            yield aside
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Where a disk is full while `path` is written, say which, and how much there was room for."""
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
            f"the {room:,} bytes that there was room for",
        ) from error
