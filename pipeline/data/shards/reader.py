"""Exact, fast reading of shards: every sample by its number, from where members.npz says it is."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.shards.index import INDEX_NAME, Index, ShardEntry
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_from
from pipeline.data.shards.sample import (
    IMAGE_SUFFIX,
    RECORD_SUFFIX,
    BadSampleError,
    Sample,
    sample_from,
)
from pipeline.io.cache import ShardCache
from pipeline.io.files import OpenFiles, content_of, open_local, read_part
from pipeline.io.location import is_remote, local_path, name_of, sibling
from pipeline.io.redaction import redacted

_SUFFIXES = (IMAGE_SUFFIX, RECORD_SUFFIX)


class ShardReader:
    """The samples of several uncompressed tars as one sequence, in the order of the tars.

    `bounds` are the positions where shards begin, and the total. Safe to share
    between threads. Where members.npz lies beside the shards they are not
    read before a sample is; else they are scanned, and ValueError names what
    is truncated. A sample whose bytes are not those that were packed raises
    BadSampleError naming shard and key. Remote shards are read sample by
    sample, or through a `cache`.
    """

    def __init__(self, locations: Sequence[str], cache: ShardCache | None = None) -> None:
        self._locations = list(locations)
        self._names = [name_of(location) for location in locations]
        self._members = _members_of(self._locations)
        self._files = _Files(self._locations, cache)
        self.bounds = np.cumsum([0] + [len(members) for members in self._members])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def place(self, position: int) -> tuple[str, str]:
        """Name of the shard that a sample lies in, and the sample's key there."""
        shard, row = self._at(position)
        return self._names[shard], self._members[shard].keys[row]

    @property
    def keys(self) -> list[str]:
        """The samples' keys, in order."""
        return [key for members in self._members for key in members.keys]

    def _at(self, position: int) -> tuple[int, int]:
        """Number of a sample's shard, and its row there."""
        position = range(len(self))[position]
        shard = int(np.searchsorted(self.bounds, position, side="right")) - 1
        return shard, position - int(self.bounds[shard])

    def __getitem__(self, position: int) -> Sample:
        shard, row = self._at(position)
        members = self._members[shard]
        starts, sizes = members.starts[row].tolist(), members.sizes[row].tolist()
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        # The two lie side by side, so they come by one read.
        begin = min(starts)
        content = self._files.read(self._locations[shard], begin, max(ends) - begin)
        place = f"{self._names[shard]}: {members.keys[row]}"
        image, record = (
            _sound(content[start - begin : end - begin], end - start, checksum, f"{place}.{suffix}")
            for start, end, checksum, suffix in zip(
                starts, ends, members.crc32[row].tolist(), _SUFFIXES, strict=True
            )
        )
        return sample_from(image, record, place)


class _Files:
    """Shards to read parts of: local ones, remote ones by ranges, or whole through a cache."""

    def __init__(self, locations: Sequence[str], cache: ShardCache | None) -> None:
        self._has_cache = cache is not None
        self._open = OpenFiles(_cached_opener(locations, cache) if cache else open_local)

    def read(self, location: str, start: int, size: int) -> bytes:
        """Read `size` bytes from `start` on, fewer where a local shard ends."""
        if is_remote(location) and not self._has_cache:
            return read_part(location, start, size)
        return self._open.read(location, start, size)


def _cached_opener(locations: Sequence[str], cache: ShardCache) -> Callable[[str], IO[bytes]]:
    entries = _entries_of(locations)

    def open_shard(location: str) -> IO[bytes]:
        if not is_remote(location):
            return open_local(location)
        return cache.open(location, entries[location].bytes, entries[location].sha256)

    return open_shard


def _sound(member: bytes, size: int, expected: int, place: str) -> bytes:
    """A member's bytes. Raises BadSampleError if they are not those that its checksum stands for."""
    if len(member) < size:
        missing = size - len(member)
        raise BadSampleError(f"{place}: cut off, {missing:,} of its bytes are missing")
    checksum = zlib.crc32(member)
    if checksum != expected:
        raise BadSampleError(f"{place}: checksum {checksum:08x}, expected {expected:08x}")
    return member


def _entries_of(locations: Sequence[str]) -> dict[str, ShardEntry]:
    """What their indexes say of remote shards."""
    known = {at: sibling(at, INDEX_NAME) for at in locations if is_remote(at)}
    indexes = {path: Index.at(path) for path in set(known.values())}
    found = {at: indexes[path].entry(name_of(at)) for at, path in known.items()}
    return {at: entry for at, entry in found.items() if entry is not None}


def _members_of(locations: Sequence[str]) -> list[Members]:
    """The members of each shard, from members.npz or, where there is none, from the tars."""
    beside = [sibling(at, MEMBERS_NAME) for at in locations]
    stored = {path: _stored(path) for path in set(beside)}
    return [_members(at, stored[path], path) for at, path in zip(locations, beside, strict=True)]


def _stored(path: str) -> dict[str, Members] | None:
    if is_remote(path) or Path(local_path(path)).exists():
        return members_from(content_of(path), path)
    return None


def _members(location: str, stored: dict[str, Members] | None, path: str) -> Members:
    if stored is None:
        return Members.scan(Path(local_path(location)))
    if name_of(location) not in stored:
        raise ValueError(f"{redacted(location)}: not in {redacted(path)}")
    return stored[name_of(location)]
