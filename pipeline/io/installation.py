"""Where this code is: in a checkout, or installed below the package `hourglass_ray`.

In a checkout `pipeline`, `jobs` and `tune` are packages of their own. The wheel puts them below one
package, and its imports name them there, since other distributions have a `jobs` or `tune` too.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# Package of the wheel, and of the command and the Python API in both.
PACKAGE = "hourglass_ray"
_FOLDERS = ("pipeline", "jobs", "tune")
# `hourglass_ray.` where it is installed, else empty.
_PREFIX = __name__.removesuffix("pipeline.io.installation")
_ROOT = Path(__file__).resolve().parents[2]
# The command of an installation. Its own name is the first word of what `sys.argv` begins with.
COMMAND = "hourglass"
# Where `hourglass` has another name for a command than its module has.
_OTHER_NAMES = {"tune.compare": "compare_sweeps"}
_NAMED = re.compile(r"(?:python -m )?(?<![\w.])((?:jobs|tune)\.[a-z_]+)\b")
_GIT_PATIENCE_S = 10.0


def is_installed() -> bool:
    """Whether this code comes from the wheel."""
    return bool(_PREFIX)


def module(name: str) -> str:
    """Return the name by which a module such as `jobs.train` is imported here."""
    return _PREFIX + name


def package_folders() -> list[Path]:
    """Return the folders of the packages that a process elsewhere needs to run this code."""
    return [_ROOT] if is_installed() else [_ROOT / name for name in _FOLDERS]


def import_path() -> Path:
    """Return the folder from which Python imports this code."""
    return _ROOT.parent if is_installed() else _ROOT


def python_path() -> str:
    """Return the PYTHONPATH with which another process imports this code, from any folder."""
    return os.pathsep.join(filter(None, (str(import_path()), os.environ.get("PYTHONPATH"))))


def is_by_name() -> bool:
    """Whether commands are called as `hourglass train` here rather than `python -m jobs.train`.

    That is so in an installation, and where the user has typed it so.
    """
    return is_installed() or sys.argv[0].partition(" ")[0] == COMMAND


def command(name: str) -> list[str]:
    """Return the words that begin a command such as `jobs.train`, as it is called here."""
    if not is_by_name():
        return ["python", "-m", name]
    return [COMMAND, _OTHER_NAMES.get(name) or name.partition(".")[2]]


def named(text: str) -> str:
    """Return a text that names commands as `jobs.pack`, with the names that they have here."""
    if not is_by_name():
        return text
    return _NAMED.sub(lambda found: " ".join(command(found[1])), text)


def copy_code(into: Path) -> None:
    """Copy the packages to a folder from which Python can import them, without ignored files."""
    root, names = import_path(), (PACKAGE,) if is_installed() else (*_FOLDERS, PACKAGE)
    listed = None
    if not is_installed():
        listed = git(root, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--", *names)
    if not listed:  # no checkout
        files = [file for name in names for file in (root / name).rglob("*") if file.is_file()]
        files = [file for file in files if "__pycache__" not in file.parts]
    else:
        # A file that was removed stays listed until that is committed.
        files = [root / name for name in listed.split("\0") if name and (root / name).is_file()]
    for file in files:
        copy = into / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def git(folder: Path, *words: str) -> str | None:
    """Return git's output, or None without git or if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            # Names of files may be no UTF-8.
            errors="surrogateescape",
            timeout=_GIT_PATIENCE_S,
            # `git status` must not write to the checkout.
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
