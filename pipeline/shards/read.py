"""Exact, fast reading of shards: every sample by its number, through an index and mmap."""

import mmap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.shards.members import MEMBERS_NAME, Members, members_from
from pipeline.shards.sample import IMAGE_SUFFIX, RECORD_SUFFIX, BadSampleError, Sample, sample_from


class ShardReader:
    """The samples of several uncompressed tars as one sequence, in the order of the tars.

    `bounds` are the positions where shards begin, and the total. Safe to share
    between threads. Where members.npz lies beside the shards they are not
    read before a sample is; else they are scanned, and ValueError names what
    is truncated. A sample whose bytes are not those that were packed raises
    BadSampleError naming shard and key.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._names = [Path(path).name for path in paths]
        self._members = _members_of([Path(path) for path in paths])
        self._maps = [_map_file(path) for path in paths]
        self.bounds = np.cumsum([0] + [len(members) for members in self._members])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sample:
        position = range(len(self))[position]
        shard = int(np.searchsorted(self.bounds, position, side="right")) - 1
        members, row = self._members[shard], position - int(self.bounds[shard])
        place = f"{self._names[shard]}: {members.keys[row]}"
        image, record = (
            _sound_bytes(self._maps[shard], members, row, column, f"{place}.{suffix}")
            for column, suffix in enumerate((IMAGE_SUFFIX, RECORD_SUFFIX))
        )
        return sample_from(image, record, place)


def _sound_bytes(
    shard: mmap.mmap | bytes, members: Members, row: int, column: int, place: str
) -> bytes:
    """A member's bytes. Raises BadSampleError if they are not those that its checksum stands for."""
    start, size = int(members.starts[row, column]), int(members.sizes[row, column])
    content = shard[start : start + size]
    if len(content) < size:
        raise BadSampleError(f"{place}: cut off, as the shard ends after {len(shard):,} bytes")
    checksum, expected = zlib.crc32(content), int(members.crc32[row, column])
    if checksum != expected:
        raise BadSampleError(f"{place}: checksum {checksum:08x}, expected {expected:08x}")
    return content


def _map_file(path: str) -> mmap.mmap | bytes:
    with Path(path).open("rb") as file:
        # What is empty cannot be mapped.
        is_empty = not file.seek(0, 2)
        return b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _members_of(paths: Sequence[Path]) -> list[Members]:
    """The members of each shard, from members.npz or, where there is none, from the tars."""
    stored = {folder: _stored_members(folder) for folder in {path.parent for path in paths}}
    return [_members(path, stored[path.parent]) for path in paths]


def _members(path: Path, stored: dict[str, Members] | None) -> Members:
    if stored is None:
        return Members.scan(path)
    if path.name not in stored:
        raise ValueError(f"{path}: not in {path.parent / MEMBERS_NAME}")
    return stored[path.name]


def _stored_members(folder: Path) -> dict[str, Members] | None:
    path = folder / MEMBERS_NAME
    return members_from(path.read_bytes(), str(path)) if path.exists() else None
