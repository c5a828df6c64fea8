"""Exact, fast reading of shards: every sample by its number, from where members.npz has it."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.shards.index import INDEX_NAME, Index
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_from
from pipeline.data.shards.sample import SUFFIXES, BadSampleError, Sample, sample_from
from pipeline.io.cache import ShardCache
from pipeline.io.files import OpenFiles, content_of, open_local, read_part
from pipeline.io.location import is_remote, local_path, name_of, sibling
from pipeline.io.redaction import redacted


class ShardReader:
    """The samples of several uncompressed tars as one sequence, in the order of the tars.

    `bounds` are the positions where shards begin, and the total. Safe to share between threads.
    With members.npz beside them, shards are opened without being read. Without it they are scanned,
    and ValueError names what is truncated. A sample whose bytes changed after packing raises
    BadSampleError naming shard and key. Remote shards are read sample by sample, or through a
    `cache`.
    """

    def __init__(self, locations: Sequence[str], cache: ShardCache | None = None) -> None:
        self._locations = list(locations)
        self._names = [name_of(location) for location in locations]
        self._members = _members_of(self._locations)
        self._has_cache = cache is not None
        self._files = OpenFiles(_opener(self._locations, cache) if cache else open_local)
        self.bounds = np.cumsum([0] + [len(members) for members in self._members])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sample:
        shard, row = self._at(position)
        members = self._members[shard]
        starts, sizes = members.starts[row].tolist(), members.sizes[row].tolist()
        # Image and record lie side by side, so one read fetches both.
        begin = min(starts)
        end = max(start + size for start, size in zip(starts, sizes, strict=True))
        content = self._read(self._locations[shard], begin, end - begin)
        place = f"{self._names[shard]}: {members.keys[row]}"
        image, record = (
            _checked(
                content[start - begin : start - begin + size], size, checksum, f"{place}.{suffix}"
            )
            for start, size, checksum, suffix in zip(
                starts, sizes, members.crc32[row].tolist(), SUFFIXES, strict=True
            )
        )
        return sample_from(image, record, place)

    def place(self, position: int) -> tuple[str, str]:
        """Return the name of a sample's shard, and the sample's key there."""
        shard, row = self._at(position)
        return self._names[shard], self._members[shard].keys[row]

    def _at(self, position: int) -> tuple[int, int]:
        """Number of a sample's shard, and its row there."""
        position = range(len(self))[position]
        shard = int(np.searchsorted(self.bounds, position, side="right")) - 1
        return shard, position - int(self.bounds[shard])

    def _read(self, location: str, start: int, size: int) -> bytes:
        """Read `size` bytes from `start` on, fewer where a local shard ends."""
        if is_remote(location) and not self._has_cache:
            return read_part(location, start, size)
        return self._files.read(location, start, size)


def _opener(locations: Sequence[str], cache: ShardCache) -> Callable[[str], IO[bytes]]:
    """Return a function that opens a local shard, or the cache's copy of a remote one."""
    paths = {sibling(location, INDEX_NAME) for location in locations if is_remote(location)}
    indexes = {path: Index.at(path) for path in paths}

    def open_shard(location: str) -> IO[bytes]:
        if not is_remote(location):
            return open_local(location)
        entry = indexes[sibling(location, INDEX_NAME)].entry(name_of(location))
        assert entry is not None, "find_shards requires an entry of each shard"
        return cache.open(location, entry.bytes, entry.sha256)

    return open_shard


def _checked(member: bytes, size: int, expected: int, place: str) -> bytes:
    """Return a member's bytes. Raises BadSampleError if some are missing or changed."""
    if len(member) < size:
        missing = size - len(member)
        raise BadSampleError(f"{place}: cut off, {missing:,} of its bytes are missing")
    checksum = zlib.crc32(member)
    if checksum != expected:
        raise BadSampleError(f"{place}: checksum {checksum:08x}, expected {expected:08x}")
    return member


def _members_of(locations: Sequence[str]) -> list[Members]:
    """Read the members of each shard from members.npz or, where there is none, off the tars."""
    beside = {location: sibling(location, MEMBERS_NAME) for location in locations}
    stored = {
        path: members_from(content_of(path), path)
        for path in set(beside.values())
        if is_remote(path) or Path(local_path(path)).exists()
    }
    found = []
    for location in locations:
        path, name = beside[location], name_of(location)
        if path not in stored:
            found.append(Members.scan(Path(local_path(location))))
        elif name in stored[path]:
            found.append(stored[path][name])
        else:
            raise ValueError(f"{redacted(location)}: not in {redacted(path)}")
    return found
