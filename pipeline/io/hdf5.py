"""Untrusted HDF5 files: datasets of the file itself alone, of a bounded size."""

import math
from pathlib import Path
from typing import Any, Self

import numpy as np

HDF5_START = b"\x89HDF\r\n\x1a\n"
# More than any annotations; a dataset may state any size in a few bytes.
_MOST_BYTES = 2**29
# Raised by h5py for damage, beside OSError.
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, MemoryError)


class Hdf5File:
    """An open file. Raises ValueError naming it if it is damaged, and for links to other files."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except _DAMAGE as error:
            raise ValueError(f"{path}: not readable as HDF5: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def names(self, group: str = "/") -> list[str]:
        """List what is in a group; nothing if there is no such group."""
        try:
            found = self._own(group)
            return [] if found is None or hasattr(found, "shape") else list(found)
        except _DAMAGE as error:
            raise self._damaged(group, error) from error

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a dataset's shape; None if there is no such dataset."""
        try:
            found = self._own(name)
            return None if found is None else getattr(found, "shape", None)
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def array(self, name: str, row: int | None = None) -> np.ndarray:
        """Read a dataset, or one row of it."""
        try:
            found = self._own(name)
            if found is None or getattr(found, "shape", None) is None:
                raise ValueError("it is absent, expected a dataset")
            if found.is_virtual or found.external:
                raise ValueError("its data lie in other files, expected them in this one")
            count = 1 if row is not None and found.shape else 0
            # HDF5 reads whole chunks, which may be larger than the dataset.
            values = max(math.prod(found.shape[count:]), math.prod(found.chunks or ()))
            size = values * found.dtype.itemsize
            if size > _MOST_BYTES:
                raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
            return np.asarray(found[()] if row is None else found[row])
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def attribute(self, group: str, name: str) -> Any:
        """Read an attribute of a group or dataset; None if there is none."""
        try:
            found = self._own(group)
            return None if found is None else found.attrs.get(name)
        except _DAMAGE as error:
            raise self._damaged(f"{group}, attribute {name}", error) from error

    def _own(self, name: str) -> Any:
        """Return a group or dataset, None if it is absent. Raises ValueError if it is elsewhere."""
        import h5py

        found: Any = self._file
        for part in filter(None, name.split("/")):
            link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise ValueError("it is a link to elsewhere, expected data of this file")
            found = found[part]
        return found

    def _damaged(self, name: str, error: Exception) -> ValueError:
        return ValueError(f"{self.path}: {name}: {str(error) or repr(error)}")
