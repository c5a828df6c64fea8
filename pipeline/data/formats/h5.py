"""HDF5 files as arrays, without following them to other files or out of memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.formats.annotations import reading

if TYPE_CHECKING:
    import h5py

# All datasets of a file together. MPII's 29,116 people are 10 MB.
_MOST_BYTES = 2**29


def read_h5(path: Path) -> dict[str, Any]:
    """Read the datasets of an HDF5 file as arrays.

    Raises ValueError naming the file, and a dataset that is a link, that keeps its values in other
    files, or for which there is no room: a file of a kilobyte may state a terabyte of zeros.
    """
    import h5py

    with reading(path, "HDF5", OSError, TypeError, RuntimeError, KeyError), h5py.File(path) as file:
        found, budget = {}, _MOST_BYTES
        for name in file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{path}: {name} is a link, expected a dataset in this file")
            dataset = file[name]
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(
                    f"{path}: {name} must be a dataset, got a {type(dataset).__name__}"
                )
            if dataset.is_virtual or dataset.external:
                raise ValueError(
                    f"{path}: the values of {name} are in other files, expected them in this one"
                )
            found[name] = _read(dataset, budget, path)
            budget -= _bytes_of(found[name])
        return found


def _read(dataset: "h5py.Dataset", budget: int, path: Path) -> np.ndarray:
    """Read a dataset of at most `budget` bytes. Raises ValueError before it asks for memory."""
    import h5py

    # Fixed lengths are in the size, others lie elsewhere in the file.
    is_text = dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is not None
    if dataset.dtype.hasobject and not is_text:
        raise ValueError(f"{path}: {dataset.name} must hold numbers or text, got {dataset.dtype}")
    # HDF5 reads whole chunks, which may be larger than the dataset.
    size = max(dataset.size or 0, math.prod(dataset.chunks or ())) * dataset.dtype.itemsize
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
        f"{path}: {dataset.name} would take {size:,} bytes or more, expected all datasets together "
        f"to have at most {_MOST_BYTES:,}"
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
