"""Whether a run's driver is alive: while it lives it holds a lock in the run's folder. One that was killed leaves a run that nobody has ended."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.run.journal import Journal

_LOCK_NAME = "alive"
# A worker may outlive its driver for so many seconds, and only one process may add to a journal.
_QUIET_S = 60.0


@contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Hold the run in `folder` for this process's own, where the disk knows locks; the system lets go when it dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def end_abandoned(journal: Journal) -> bool:
    """Record that a run was killed, if its driver is gone without a word, and nothing has been recorded for a minute.

    Returns whether it was so. Raises OSError and what `Journal` raises.
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
            return False  # it lives, or nobody can know
        journal.end("KILLED")
    return True
