"""Names from outside, such as those in an annotation file, a journal or MLflow, below a folder."""

import errno
import os
import stat
from pathlib import Path, PurePosixPath

_MOST_BYTES = 2**31


def checked_name(name: object) -> str:
    """Return a relative path, `figures/curves.png`, unchanged.

    Raises ValueError if it is no text, empty, absolute, or climbs with `..`.
    """
    if not isinstance(name, str):
        raise ValueError(f"expected the path of a file, got {name!r:.80}")
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} must be a path below a folder, relative and without '..'")
    return name


def path_inside(folder: Path, name: object) -> Path:
    """Return the path of `name` below `folder`, which may itself be reached by links.

    Raises ValueError as `checked_name`, and if a link leads out of the folder.
    """
    path = folder / checked_name(name)
    check_inside(folder, path)
    return path


def check_inside(folder: Path, path: Path) -> None:
    """Check a path that was found below `folder`, which may itself be reached by links.

    Raises ValueError if a link leads out of the folder.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        # What does not exist yet, is a link to nowhere, or has a name that no file can have.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise ValueError(f"{path}: can't be reached: {error.strerror}") from None
        real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} leads out of {folder} by a link, to {real}")


def is_inside(folder: Path, path: Path) -> bool:
    """Whether no link takes a path that was found below `folder` out of it."""
    try:
        check_inside(folder, path)
    except ValueError:
        return False
    return True


def is_file(path: Path) -> bool:
    """Whether a path is a file's; unlike the path's own method also for names that are too long."""
    return os.path.isfile(path)  # noqa: PTH113


def check_files_inside(folder: Path, path: Path) -> None:
    """Check a file, or all of a folder's, before they are sent: regular, and below `folder`.

    Raises ValueError naming a link that leads out of `folder`, or what is neither file nor folder.
    """
    check_inside(folder, path)
    if path.is_dir():
        for entry in list(path.iterdir()):
            check_files_inside(folder, entry)
    else:
        check_plain(path)


def check_plain(path: Path) -> None:
    """Raise ValueError for a FIFO, a device or a socket: reading it may wait, or never end.

    What is not there is left to the reader.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path} must be a file, got a device, a FIFO or a socket")


def check_whole(path: Path) -> None:
    """Check a file that is held in memory as a whole: plain, and of at most 2 GiB.

    A sparse file may have terabytes that take no room on a disk. Raises ValueError.
    """
    check_plain(path)
    if path.is_file() and (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, expected at most {_MOST_BYTES:,}")


def read_whole(path: Path) -> bytes:
    """Read a file. Raises OSError, or ValueError as `check_whole`."""
    check_whole(path)
    return path.read_bytes()
