"""Where this code is: in a checkout, or installed below the package `hourglass_ray`.

In a checkout `pipeline`, `jobs` and `tune` are packages of their own. The wheel puts them below one
package, and its imports name them there, since other distributions have a `jobs` or `tune` too.
"""

from pathlib import Path

# Package of the wheel, and of the command and the Python API in both.
PACKAGE = "hourglass_ray"
_FOLDERS = ("pipeline", "jobs", "tune")
# `hourglass_ray.` where it is installed, else empty.
_PREFIX = __name__.removesuffix("pipeline.io.installation")
_ROOT = Path(__file__).resolve().parents[2]


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


def command(name: str) -> list[str]:
    """Return the words that begin a command such as `jobs.train`, as it is called here."""
    return ["hourglass", name.partition(".")[2]] if is_installed() else ["python", "-m", name]
