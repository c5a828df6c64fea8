"""The driver's lock file. An unlocked file without an end entry marks a run whose driver died."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.run.journal import Journal

_LOCK_NAME = "alive"
# Seconds that a worker may outlive its driver. Only one process may write to a journal.
_QUIET_S = 60.0


@contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder`, if its disk supports locks.

    The system releases it when the process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def end_abandoned(journal: Journal) -> bool:
    """Record the end of a run whose driver died, once its journal was quiet for a minute.

    Returns whether it did. Raises OSError, and ValueError if the journal is damaged.
    """
    starts_and_ends = [entry for entry in journal.entries() if entry.kind in ("run", "end")]
    if not starts_and_ends or starts_and_ends[-1].kind == "end":
        return False
    if time.time() - journal.path.stat().st_mtime < _QUIET_S:
        return False
    path = journal.root / _LOCK_NAME
    if not path.exists():
        return False
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # the driver is alive, or the disk has no locks
        journal.end("KILLED")
    return True
