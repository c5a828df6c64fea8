"""Where this code is: in a checkout, or installed below the package `hourglass_ray`.

In a checkout `pipeline`, `jobs` and `tune` are packages of their own. The wheel puts them below one
package, and its imports name them there, since other distributions have a `jobs` or `tune` too.
"""

import re
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
