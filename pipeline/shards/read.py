"""Exact, fast reading of shards: every sample by its number, from where members.npz says it is."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.shards.files import LocalFiles
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
        self._paths = list(paths)
        self._members = _members_of([Path(path) for path in paths])
        self._files = LocalFiles()
        self.bounds = np.cumsum([0] + [len(members) for members in self._members])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sample:
        position = range(len(self))[position]
        shard = int(np.searchsorted(self.bounds, position, side="right")) - 1
        members, row = self._members[shard], position - int(self.bounds[shard])
        path = self._paths[shard]
        # The two lie side by side, so they come by one read.
        begin = int(members.starts[row].min())
        end = int((members.starts[row] + members.sizes[row]).max())
        content = self._files.read(path, begin, end - begin)
        place = f"{Path(path).name}: {members.keys[row]}"
        image, record = (
            _sound_bytes(content, begin, members, (row, column), f"{place}.{suffix}")
            for column, suffix in enumerate((IMAGE_SUFFIX, RECORD_SUFFIX))
        )
        return sample_from(image, record, place)


def _sound_bytes(
    content: bytes, begin: int, members: Members, at: tuple[int, int], place: str
) -> bytes:
    """A member's bytes, of a shard's from `begin` on.

    Raises BadSampleError if they are not those that its checksum stands for.
    """
    start, size = int(members.starts[at]) - begin, int(members.sizes[at])
    member = content[start : start + size]
    if len(member) < size:
        raise BadSampleError(f"{place}: cut off, {size - len(member):,} of its bytes are missing")
    checksum, expected = zlib.crc32(member), int(members.crc32[at])
    if checksum != expected:
        raise BadSampleError(f"{place}: checksum {checksum:08x}, expected {expected:08x}")
    return member


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
