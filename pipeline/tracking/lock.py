"""One process of this machine at a time at a task that MLflow lets two do."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(task: str) -> Iterator[None]:
    """Hold other processes of this machine off the same task: MLflow lets two runs have one name.

    The trials of a sweep, whose drivers share a machine, all look for its run.
    """
    digest = hashlib.sha256(task.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hourglass-{os.getuid()}-{digest}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released as the file is closed
        yield
