"""Where each sample lies in its tar: members.npz beside the shards, read instead of the tars."""

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int64

from pipeline.data.shards.sample import SUFFIXES, is_inside
from pipeline.io.redaction import redacted
from pipeline.io.text import briefly
from pipeline.io.unfolding import (
    MOST_MEMBER_BYTES,
    BoundedInfo,
    UnfoldsError,
    check_member,
    load_npz,
)

MEMBERS_NAME = "members.npz"
_COLUMNS = ("starts", "sizes", "crc32")


@dataclass(frozen=True, kw_only=True)
class Members:
    """The samples of one shard in its order; the two columns are each one's image and record.

    `starts` and `sizes` are bytes in the tar, `crc32` the members' checksums.
    """

    keys: tuple[str, ...]
    starts: Int64[np.ndarray, "sample 2"]
    sizes: Int64[np.ndarray, "sample 2"]
    crc32: Int64[np.ndarray, "sample 2"]

    def __len__(self) -> int:
        return len(self.keys)

    def num_beyond(self, size: int) -> int:
        """Count the samples that a shard cut off at `size` bytes would lack."""
        return int(((self.starts + self.sizes).max(axis=1, initial=0) > size).sum())

    @classmethod
    def scan(cls, path: Path) -> Self:
        """Read them off an uncompressed tar.

        Raises ValueError naming shard and key for a tar that is truncated, a sample that lacks a
        member, and a member that is no file or is named like one outside the tar.
        """
        found = _scanned(path)
        for key, members in found.items():
            for suffix in SUFFIXES:
                if suffix not in members:
                    raise ValueError(f"{path}: {key} has no .{suffix}")
        spans = np.array([[of_key[s] for s in SUFFIXES] for of_key in found.values()], np.int64)
        starts, sizes, crc32 = np.moveaxis(spans.reshape(len(found), 2, 3), 2, 0)
        return cls(keys=tuple(found), starts=starts, sizes=sizes, crc32=crc32)


def members_bytes(shards: Mapping[str, Members]) -> bytes:
    """Return the content of members.npz for shards by name."""
    held = shards.values()
    columns: dict[str, Any] = {
        name: np.concatenate([np.zeros((0, 2), np.int64), *(getattr(m, name) for m in held)])
        for name in _COLUMNS
    }
    file = BytesIO()
    np.savez(
        file,
        shards=np.array(list(shards), str),
        ends=np.cumsum([len(m) for m in held], dtype=np.int64),
        keys=np.array([key for m in held for key in m.keys], str),
        **columns,
    )
    return file.getvalue()


def members_from(content: bytes, where: str) -> dict[str, Members]:
    """Read members.npz. Raises ValueError naming `where` if it is not one."""
    try:
        columns = load_npz(content)
        _check(columns)
        begin, held = 0, {}
        for name, end in zip(columns["shards"].tolist(), columns["ends"].tolist(), strict=True):
            held[name] = Members(
                keys=tuple(columns["keys"][begin:end].tolist()),
                **{column: columns[column][begin:end] for column in _COLUMNS},
            )
            begin = end
    except Exception as error:  # NumPy's parsers raise errors of any kind
        raise ValueError(
            f"{redacted(where)}: not readable as members of shards: {briefly(error)}"
        ) from error
    return held


def _check(columns: Mapping[str, Any]) -> None:
    """Raise ValueError unless the columns are of one length, and spans are ones of a tar."""
    keys, ends, shards = columns["keys"], columns["ends"], columns["shards"]
    if not (keys.dtype.kind == shards.dtype.kind == "U" and keys.ndim == shards.ndim == 1):
        raise ValueError("keys and shards must be lists of names")
    whole = {name: columns[name] for name in ("ends", *_COLUMNS)}
    for name, values in whole.items():
        shape = ends.shape if name == "ends" else (len(keys), 2)
        if values.dtype != np.int64 or values.shape != shape:
            raise ValueError(f"{name} must be int64 of shape {shape}, got {values.dtype}")
        if (values < 0).any():
            raise ValueError(f"{name} must be at least 0, got {values.min()}")
    bounds = [0, *ends.tolist()]
    if bounds != sorted(bounds) or bounds[-1] != len(keys) or len(ends) != len(shards):
        raise ValueError(f"ends must rise to the {len(keys)} keys, got {ends.tolist()!r:.80}")
    starts, sizes = columns["starts"], columns["sizes"]
    if (starts > 2**62).any() or (sizes > MOST_MEMBER_BYTES).any():
        raise ValueError(f"members must be below {MOST_MEMBER_BYTES:,} bytes, got {sizes.max():,}")
    # One read fetches both members of a sample.
    apart = (starts + sizes).max(axis=1, initial=0) - starts.min(axis=1, initial=2**62)
    if len(keys) and apart.max() > 2 * MOST_MEMBER_BYTES:
        raise ValueError(
            f"{keys[apart.argmax()]}: image and record are {apart.max():,} bytes apart"
        )


def _scanned(path: Path) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Find start, size and checksum of a tar's members, by key and suffix."""
    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    try:
        with tarfile.open(path, "r:", tarinfo=BoundedInfo) as tar, path.open("rb") as file:
            size = path.stat().st_size
            for member in tar:
                where = f"{path}: {member.name}"
                if not member.isreg():
                    raise ValueError(f"{where}: expected a file, got a link, folder or device")
                if not is_inside(member.name):
                    raise ValueError(f"{where}: expected a file's name within the tar")
                if member.offset_data + member.size > size:
                    raise ValueError(f"{path}: truncated within {member.name}")
                check_member(member)
                file.seek(member.offset_data)
                content = file.read(member.size)
                key, _, suffix = member.name.partition(".")
                span = member.offset_data, member.size, zlib.crc32(content)
                found.setdefault(key, {})[suffix] = span
            # tarfile takes a header that is truncated or damaged for the end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"{path}: damaged or truncated after {next(reversed(found))}")
    except (tarfile.TarError, UnfoldsError) as error:
        raise ValueError(f"{path}: not a readable tar: {briefly(error)}") from error
    return found
