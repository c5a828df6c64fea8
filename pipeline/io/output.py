"""Where a command writes its results: a folder, or one in a bucket by way of a temporary folder."""

from collections.abc import Collection
from pathlib import Path


class Output:
    """The results at `location`, which are written to `folder` and then sent.

    Here the location is the folder itself, so there is nothing to bring or to send.
    """

    def __init__(self, location: str, folder: Path) -> None:
        self.location, self.folder = location.rstrip("/"), folder

    def at(self, name: str) -> str:
        """Return where users find a file."""
        return f"{self.location}/{name}"

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None if there is none."""
        path = self.folder / name
        return path.stat().st_size if path.exists() else None

    def fetch(self, name: str) -> None:
        """Bring a file here that an earlier command has sent, if there is one."""

    def fetch_all(self, folder: str) -> None:
        """Bring all files of a folder here that others have sent."""

    def send(self, last: Collection[str] = ()) -> None:
        """Send the files that were written since the last time, those called `last` last."""

    def remove(self, names: Collection[str]) -> None:
        """Remove files, those that are there."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
