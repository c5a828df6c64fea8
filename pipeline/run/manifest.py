"""The manifest of a run in a bucket: one small object that names every file that counts."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, Self
from uuid import uuid4

from pipeline.io.inside import checked_name
from pipeline.io.parsing import fields_of, parse_json, table_of, text_of, whole_of
from pipeline.run.layout import STARTING_NAME, STOP_NAME
from pipeline.run.ownership import CLAIMS, Owner

MANIFEST = "manifest.json"
_FORMAT = 1
# Bytes of a file's name. While it is fetched, it has another one that is longer.
_MOST_BYTES = 200
# Names in a run's folder that are of one machine, or of one moment.
_LOCAL = (CLAIMS, "heartbeats", "hangs", STOP_NAME, STARTING_NAME)
_PASSING = (".part", ".writing")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file in the bucket: its object's name, size in bytes, and SHA-256."""

    key: str
    size: int
    sha256: str

    @classmethod
    def parsed(cls, path: str, value: Any, where: str) -> Self:
        """Read the entry of the file `path`. Raises ValueError naming `where`."""
        content = fields_of(value, where, required=("key", "size", "sha256"))
        try:
            key, path = checked_name(content["key"]), checked_name(path)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not is_storable(path):
            raise ValueError(f"{where}: expected the plain path of a run's file")
        # So that each object stands for one file.
        if key.partition("/")[2] != path:
            raise ValueError(f"{where}.key must be BATCH/{path}, got {key!r:.200}")
        size, sha256 = whole_of(content["size"], where), text_of(content["sha256"], where)
        return cls(key=key, size=size, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The owner of a run in a bucket, and its files.

    `serial` numbers the versions of `files` since the run `began`.
    """

    began: str
    generation: int
    owner: Owner | None
    serial: int = 0
    files: Mapping[str, Stored] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return JSON. No two calls return the same: a writer recognizes its own manifest."""
        content = asdict(self) | {"format": _FORMAT, "token": uuid4().hex}
        return json.dumps(content, indent=1).encode() + b"\n"

    @classmethod
    def parsed(cls, text: bytes, where: str) -> Self:
        """Read JSON. Raises ValueError naming `where` and the field."""
        required = ("began", "generation", "owner", "serial", "files", "format")
        content = fields_of(parse_json(text, where), where, required=required, optional=["token"])
        if content["format"] != _FORMAT:
            raise ValueError(f"{where}: expected format {_FORMAT}, got {content['format']!r:.80}")
        files = table_of(content["files"], f"{where}: files", lambda value, _: value)
        folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
        if both := folders & set(files):
            raise ValueError(f"{where}: files: {min(both)!r} is a file and a folder")
        return cls(
            began=text_of(content["began"], f"{where}: began"),
            generation=whole_of(content["generation"], f"{where}: generation"),
            owner=_owner(content["owner"], f"{where}: owner"),
            serial=whole_of(content["serial"], f"{where}: serial"),
            files={
                path: Stored.parsed(path, value, f"{where}: files.{path}")
                for path, value in files.items()
            },
        )


def _owner(value: Any, where: str) -> Owner | None:
    if value is None:
        return None
    content = fields_of(value, where, required=[each.name for each in fields(Owner)])
    for name in ("token", "host", "machine", "since"):
        text_of(content[name], f"{where}.{name}")
    for name in ("pid", "ticks"):
        whole_of(content[name], f"{where}.{name}")
    return Owner(**content)


def is_storable(path: str) -> bool:
    """Whether a path in a run's folder is plain, and that of a file for other machines too."""
    try:
        parts = PurePosixPath(checked_name(path)).parts
    except ValueError:
        return False
    is_short = all(len(os.fsencode(part)) <= _MOST_BYTES for part in parts)
    # Stores take no control characters.
    is_plain = path.isprintable() and path == "/".join(parts)
    return is_short and is_plain and not any(map(is_own, parts))


def is_own(name: str) -> bool:
    """Whether a name in a run's folder is of this machine or this moment alone."""
    return name.startswith(".") or name in _LOCAL or name.endswith(_PASSING)
