"""Untrusted HDF5 files: datasets of the file itself alone, of a bounded size."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.io.inside import check_plain
from pipeline.io.text import briefly

if TYPE_CHECKING:
    import h5py

HDF5_START = b"\x89HDF\r\n\x1a\n"
# All datasets of a file together, and a row of one. MPII's 29,116 people are 10 MB; a dataset may
# state any size in a few bytes.
_MOST_BYTES = 2**29
# Raised by h5py for damage, beside OSError.
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, MemoryError)


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """Read the datasets of an HDF5 file as arrays.

    Raises ValueError naming the file, and a dataset that is a link, that keeps its values in other
    files, or for which there is no room.
    """
    with Hdf5File(path) as file:
        for name in file.names():
            if file.is_link(name):
                raise ValueError(f"{path}: {name} is a link, expected a dataset in this file")
        return {name: file.array(name) for name in file.names()}


def as_text(value: object) -> str:
    """Return a text, which files hold as bytes too."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Hdf5File:
    """An open file. Raises ValueError naming it if it is damaged, and for links to other files."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        check_plain(path)
        try:
            self._file = h5py.File(path, "r")
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except _DAMAGE as error:
            raise ValueError(f"{path}: not readable as HDF5: {briefly(error)}") from error
        # Bytes for which there is room yet.
        self._left = _MOST_BYTES

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
            names = [] if found is None or hasattr(found, "shape") else list(found)
            # h5py gives names that are no UTF-8 as bytes, and finds nothing by them.
            return [name for name in names if isinstance(name, str)]
        except _DAMAGE as error:
            raise self._damaged(group, error) from error

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a dataset's shape; None if there is no such dataset."""
        try:
            found = self._own(name)
            return None if found is None else getattr(found, "shape", None)
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def is_link(self, name: str) -> bool:
        """Whether a name at the top is a link, not data of this file."""
        import h5py

        return not isinstance(self._file.get(name, getlink=True), h5py.HardLink)

    def array(self, name: str, row: int | None = None) -> np.ndarray:
        """Read a dataset, or one row of it."""
        try:
            found = self._own(name)
            if found is None or getattr(found, "shape", None) is None:
                raise ValueError("it is absent, expected a dataset")
            if found.is_virtual or found.external:
                raise ValueError(
                    f"the values of {name} are in other files, expected them in this one"
                )
            if row is not None and found.shape:
                size = _stated_bytes(found, found.shape[1:])
                if size > _MOST_BYTES:
                    raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
                return np.asarray(found[row])
            read = _whole(found, self._left, self.path)
            self._left -= _bytes_of(read)
            return read
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


def _stated_bytes(dataset: "h5py.Dataset", shape: tuple[int, ...]) -> int:
    # HDF5 reads whole chunks, which may be larger than the dataset.
    return max(math.prod(shape), math.prod(dataset.chunks or ())) * dataset.dtype.itemsize


def _whole(dataset: "h5py.Dataset", budget: int, path: Path) -> np.ndarray:
    """Read a dataset of at most `budget` bytes. Raises ValueError before it asks for memory."""
    import h5py

    # Fixed lengths are in the size, others lie elsewhere in the file.
    is_text = dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is not None
    if dataset.dtype.hasobject and not is_text:
        raise ValueError(f"{dataset.name} must hold numbers or text, got {dataset.dtype}")
    size = _stated_bytes(dataset, dataset.shape)
    if size <= budget and not is_text:
        return np.asarray(dataset)
    if size <= budget:
        # Texts of any length: none is longer than the file, but many may be one and the same.
        flat, rows = list[Any](), max(1, budget // max(path.stat().st_size, 1))
        for part in _parts(dataset, rows):
            flat.append(part)
            budget -= _bytes_of(part)
            if budget < 0:
                break
        else:
            return np.concatenate(flat) if flat else np.asarray(dataset)
    raise ValueError(
        f"{dataset.name} would take {size:,} bytes or more, expected all datasets together to have "
        f"at most {_MOST_BYTES:,}"
    )


def _parts(dataset: "h5py.Dataset", rows: int) -> Iterator[np.ndarray]:
    if not dataset.shape:
        yield np.asarray(dataset)
        return
    for start in range(0, len(dataset), rows):
        yield dataset[start : start + rows]


def _bytes_of(array: np.ndarray) -> int:
    texts = array.ravel().tolist() if array.dtype.hasobject else []
    return array.nbytes + sum(map(len, texts))
