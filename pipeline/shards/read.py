"""Exact, fast reading of shards: every sample by its number, through an index and mmap."""

import mmap
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.shards.sample import IMAGE_SUFFIX, RECORD_SUFFIX, Sample, sample_from

# (start, size) of a member's bytes in its tar
_Span = tuple[int, int]


class ShardReader(Sequence[Sample]):
    """The samples of several uncompressed tars as one sequence, in the order of the tars.

    `bounds` are the positions where shards begin, and the total. Safe to share
    between threads. Raises ValueError naming shard and key for a tar that is
    truncated or a sample that lacks a member.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._names = [Path(path).name for path in paths]
        members = [_members(path) for path in paths]
        self._maps = [_map_file(path) for path in paths]
        self._keys = [key for shard in members for key in shard]
        self._spans = [spans for shard in members for spans in shard.values()]
        self.bounds = np.cumsum([0] + [len(shard) for shard in members])

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, position: int) -> Sample:  # type: ignore[override]
        position = range(len(self))[position]
        shard = int(np.searchsorted(self.bounds, position, side="right")) - 1
        data = self._maps[shard]
        (image, image_size), (record, record_size) = self._spans[position]
        return sample_from(
            data[image : image + image_size],
            data[record : record + record_size],
            f"{self._names[shard]}: {self._keys[position]}",
        )


def _map_file(path: str) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _members(path: str) -> dict[str, tuple[_Span, _Span]]:
    """Where each sample's image and record lie, by key."""
    found: dict[str, dict[str, _Span]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = member.offset_data, member.size
            # tarfile takes a header that is cut off or damaged for the end.
            if not _is_end_mark(path, tar.offset):
                raise ValueError(f"{path}: damaged or truncated after {next(reversed(found))}")
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a sound tar: {error}") from error
    size = Path(path).stat().st_size
    for key, spans in found.items():
        for suffix in (IMAGE_SUFFIX, RECORD_SUFFIX):
            if suffix not in spans:
                raise ValueError(f"{path}: {key} has no .{suffix}")
            if sum(spans[suffix]) > size:
                raise ValueError(f"{path}: truncated within {key}.{suffix}")
    return {key: (spans[IMAGE_SUFFIX], spans[RECORD_SUFFIX]) for key, spans in found.items()}


def _is_end_mark(path: str, offset: int) -> bool:
    """Whether the tar's blocks end at `offset` as they should, with a block of zeros."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
