"""Results that go to a bucket by way of a folder on this machine."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pipeline.io.atomic import atomic_write
from pipeline.io.inside import path_inside
from pipeline.io.objects import AbsentError, Found, Objects
from pipeline.io.output import Output


class Uploads(Output):
    """The results at a location in a bucket. Methods raise StoreError if it does not answer."""

    def __init__(self, location: str, folder: Path) -> None:
        super().__init__(location, folder)
        self._objects = Objects(location)
        # Versions of the files that the bucket has.
        self._sent: dict[str, tuple[int, int, int]] = {}

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, None if there is none."""
        try:
            return self._objects.head(name).size
        except AbsentError:
            return None

    def fetch(self, name: str) -> None:
        """Download a file that is not here, if there is one."""
        if not (self.folder / name).exists():
            with suppress(AbsentError):
                self._bring(self._objects.head(name))

    def fetch_all(self, folder: str) -> None:
        """Download all files of a folder that others have sent."""
        for found in list(self._objects.found(folder)):
            if found.name not in self._sent:
                self._bring(found)

    def send(self, last: Collection[str] = ()) -> None:
        """Upload the files that were written since the last time, those called `last` last."""
        files = {str(p.relative_to(self.folder)): p for p in self.folder.rglob("*") if p.is_file()}
        for name, path in sorted(files.items(), key=lambda item: (item[0] in last, item[0])):
            version = _version(path)
            if self._sent.get(name) != version and not name.endswith(".part"):
                with path.open("rb") as file:
                    self._objects.put(name, file)
                self._sent[name] = version

    def remove(self, names: Collection[str]) -> None:
        """Remove files here and in the bucket, those that are there."""
        super().remove(names)
        self._objects.delete(names)

    def _bring(self, found: Found) -> None:
        path = path_inside(self.folder, found.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as aside:
            self._objects.read_to(found, aside)
        self._sent[found.name] = _version(path)


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
