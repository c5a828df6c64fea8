"""Where each sample lies in its tar: members.npz, beside the shards, so that none is read to be opened."""

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int64

from pipeline.data.shards.sample import IMAGE_SUFFIX, RECORD_SUFFIX, is_inside
from pipeline.io.redaction import redacted

MEMBERS_NAME = "members.npz"
_COLUMNS = ("starts", "sizes", "crc32")
_SUFFIXES = (IMAGE_SUFFIX, RECORD_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class Members:
    """The samples of one shard in its order: image and record of each, the columns of `starts` and so on.

    `starts` and `sizes` are bytes in the tar, `crc32` the members' checksums.
    """

    keys: tuple[str, ...]
    starts: Int64[np.ndarray, "sample 2"]
    sizes: Int64[np.ndarray, "sample 2"]
    crc32: Int64[np.ndarray, "sample 2"]

    def __len__(self) -> int:
        return len(self.keys)

    def num_beyond(self, size: int) -> int:
        """How many samples a shard of `size` bytes would not hold whole."""
        return int(((self.starts + self.sizes).max(axis=1, initial=0) > size).sum())

    @classmethod
    def scan(cls, path: Path) -> Self:
        """Read them off an uncompressed tar.

        Raises ValueError naming shard and key for a tar that is truncated, a
        sample that lacks a member, and a member that is no file or named
        like one outside the tar.
        """
        found = _scanned(path)
        keys = tuple(found)
        spans = np.array([[found[key][s] for s in _SUFFIXES] for key in keys], np.int64)
        spans = spans.reshape(len(keys), 2, 3)
        return cls(keys=keys, starts=spans[..., 0], sizes=spans[..., 1], crc32=spans[..., 2])


def members_bytes(shards: Mapping[str, Members]) -> bytes:
    """The content of members.npz for shards by name."""
    held = shards.values()
    columns = {
        name: np.concatenate([np.zeros((0, 2), np.int64), *(getattr(m, name) for m in held)])
        for name in _COLUMNS
    }
    file = BytesIO()
    np.savez(
        file,
        shards=np.array(list(shards), str),
        ends=np.cumsum([len(m) for m in held], dtype=np.int64),
        keys=np.array([key for m in held for key in m.keys], str),
        starts=columns["starts"],
        sizes=columns["sizes"],
        crc32=columns["crc32"],
    )
    return file.getvalue()


def members_from(content: bytes, where: str) -> dict[str, Members]:
    """Read members.npz. Raises ValueError naming `where` if it is not one."""
    try:
        with np.load(BytesIO(content), allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        begin, held = 0, {}
        for name, end in zip(columns["shards"].tolist(), columns["ends"].tolist(), strict=True):
            held[name] = Members(
                keys=tuple(columns["keys"][begin:end].tolist()),
                **{column: columns[column][begin:end] for column in _COLUMNS},
            )
            begin = end
    except Exception as error:  # NumPy raises whatever its parsers stumble over
        raise ValueError(
            f"{redacted(where)}: not readable as members of shards: {error}"
        ) from error
    return held


def _scanned(path: Path) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Start, size and checksum of each sample's image and record, by key and suffix."""
    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for member in tar:
                if not member.isreg():
                    raise ValueError(
                        f"{path}: {member.name}: expected a file, got a link, folder or device"
                    )
                if not is_inside(member.name):
                    raise ValueError(
                        f"{path}: {member.name}: expected a file's name within the tar"
                    )
                key, _, suffix = member.name.partition(".")
                file.seek(member.offset_data)
                content = file.read(member.size)
                if len(content) < member.size:
                    raise ValueError(f"{path}: truncated within {member.name}")
                found.setdefault(key, {})[suffix] = (
                    member.offset_data,
                    member.size,
                    zlib.crc32(content),
                )
            # tarfile takes a header that is cut off or damaged for the end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"{path}: damaged or truncated after {next(reversed(found))}")
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a sound tar: {error}") from error
    for key, members in found.items():
        for suffix in _SUFFIXES:
            if suffix not in members:
                raise ValueError(f"{path}: {key} has no .{suffix}")
    return found
