"""Recognition of annotations by their content, where their format is not named."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.data.formats.annotations import in_folder, read_json, read_mat
from pipeline.io.hdf5 import HDF5_START, Hdf5File
from pipeline.io.inside import check_plain, is_inside

_START_BYTES = 65_536
# Files of annotations that a folder is searched for.
_SUFFIXES = (".json", ".gz", ".csv", ".parquet", ".mat", ".h5", ".slp", ".xml", ".yaml", ".yml")


@dataclass(frozen=True)
class Peek:
    """A file or folder, and the parts of its content by which formats are recognised."""

    path: Path

    @cached_property
    def start(self) -> bytes:
        """Its first bytes; none of a folder."""
        if self.path.is_dir():
            return b""
        check_plain(self.path)
        with self.path.open("rb") as file:
            return file.read(_START_BYTES)

    @cached_property
    def json(self) -> Any:
        """Its content if it is JSON, else None."""
        is_json = self.start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
        if not (is_json or self.path.suffix == ".gz"):
            return None
        return read_json(self.path)

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The first object of a JSON list; empty for anything else."""
        content = self.json
        first = content[0] if isinstance(content, list) and content else None
        return first if isinstance(first, dict) else {}

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of a JSON object; none of anything else."""
        return frozenset(self.json) if isinstance(self.json, dict) else frozenset()

    @cached_property
    def mat(self) -> Mapping[str, Any]:
        """The variables of a MATLAB file; none of anything else."""
        return read_mat(self.path) if self.start.startswith(b"MATLAB 5.0") else {}

    @cached_property
    def h5(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of an HDF5 file's datasets, () for its groups; none of anything else."""
        if not self.start.startswith(HDF5_START):
            return {}
        with Hdf5File(self.path) as file:
            return {name: file.shape(name) or () for name in file.names()}

    @cached_property
    def cells(self) -> list[str]:
        """The first row of a CSV file; none of anything else."""
        return self.row(",")

    def row(self, delimiter: str) -> list[str]:
        """Return the first row of a table with this delimiter; of anything else nothing."""
        try:
            first = self.start.decode("utf-8-sig", "ignore").splitlines()[:1]
            reader = csv.reader(first, delimiter=delimiter, strict=True)
            return [cell.strip() for cell in next(reader, [])]
        except csv.Error:
            return []


Recognise = Callable[[Peek], str]


def nothing(_: Peek) -> str:
    """Recognise no file."""
    return ""


def recognised(path: Path, formats: Mapping[str, Recognise]) -> tuple[str, Path, str]:
    """Return the format of a file or folder, the file itself, and the reason.

    `formats` return the reason to take a file for theirs, or nothing. A folder of no format is
    searched for its only annotations, and what a link takes out of it is not read. Raises
    ValueError if there are none, or several.
    """
    if not path.exists():
        known = ", ".join(formats)
        raise ValueError(
            f"{path}: no such file or folder, nor a format by name; formats are {known}"
        )
    if found := _format_of(path, formats):
        return found[0], path, found[1]
    if path.is_dir():
        files = _files(path)
        inside = {
            file: found
            for file in files
            if is_inside(path, file) and (found := _format_of(file, formats)) is not None
        }
        if len(inside) == 1:
            [(file, (name, reason))] = inside.items()
            return name, file, reason
        if inside:
            several = ", ".join(
                f"{file.relative_to(path)} ({name})" for file, (name, _) in list(inside.items())[:4]
            )
            raise ValueError(
                f"{path} has {len(inside)} files of annotations, expected one or its path: "
                f"{several}"
            )
        for file in files:
            in_folder(path, file)
    raise ValueError(
        f"{path}: no known format by its content; name the format and give --annotations FILE: "
        f"{', '.join(formats)}"
    )


def _files(folder: Path) -> list[Path]:
    """List files of annotations in a folder and those in it."""
    return sorted(
        path
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )


def _format_of(path: Path, formats: Mapping[str, Recognise]) -> tuple[str, str] | None:
    peek = Peek(path)
    for name, recognise in formats.items():
        if reason := recognise(peek):
            return name, reason
    return None
