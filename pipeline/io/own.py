"""Files of this user at names that others foresee, in folders that others may write to.

Another user of the machine may have put a link, a FIFO or a file of theirs at such a name.
"""

import hashlib
import os
import stat
from io import BufferedRandom, BufferedReader
from pathlib import Path

# O_NONBLOCK: opening a FIFO would wait for its other end.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def create_own(path: Path) -> None:
    """Create an empty file in place of whatever stands at `path`, a link's target excepted.

    Raises OSError naming what can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _SAFELY, 0o666))
    except (IsADirectoryError, PermissionError, FileExistsError) as error:
        raise _not_own(path, str(error.strerror), error) from error


def open_own(path: Path) -> BufferedRandom:
    """Open this user's regular file for reading and appending, or create it.

    Raises OSError naming the path if something else stands there.
    """
    return os.fdopen(_opened(path, os.O_RDWR | os.O_CREAT), "a+b")


def read_own(path: Path) -> BufferedReader | None:
    """Open this user's regular file for reading; None if there is none at `path`."""
    try:
        return os.fdopen(_opened(path, os.O_RDONLY), "rb")
    except OSError:
        return None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BufferedRandom | BufferedReader) -> str:
    """Return the SHA-256 of an open file, and move to its start."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def _opened(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | _SAFELY, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_own(path, str(error.strerror), error) from error
    status = os.fstat(descriptor)
    # A second name may be one in a folder of the user.
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _not_own(path, f"of user {status.st_uid}, mode {stat.filemode(status.st_mode)}")


def _not_own(path: Path, found: str, error: OSError | None = None) -> OSError:
    return OSError(
        error.errno if error else 1,
        f"{path} is not a plain file of this user ({found}), and others may write to its folder; "
        "remove it, or give a folder of your own",
    )
