"""Names from outside, such as those in an annotation file, a journal or MLflow, below a folder."""

import os
from pathlib import Path, PurePosixPath


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
    _check(folder, path)
    return path


def check_files_inside(folder: Path, path: Path) -> None:
    """Check a file, or all of a folder's, before they are sent: regular, and below `folder`.

    Raises ValueError naming a link that leads out of `folder`, or what is neither file nor folder.
    """
    _check(folder, path)
    if path.is_dir():
        for entry in list(path.iterdir()):
            check_files_inside(folder, entry)
    elif path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file or a folder")


def _check(folder: Path, path: Path) -> None:
    try:
        real = Path(os.path.realpath(path, strict=True))
    except (FileNotFoundError, NotADirectoryError):
        # What does not exist yet, or is a link to nowhere.
        real = path.resolve()
    except OSError as error:
        raise ValueError(f"{path}: can't be reached: {error.strerror}") from None
    if not real.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} leads out of {folder} by a link, to {real}")
