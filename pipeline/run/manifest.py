"""The manifest of a run in a bucket: one small object that names every file that counts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self
from uuid import uuid4

from pipeline.io.inside import checked_name
from pipeline.io.parsing import fields_of, parse_json, text_of, whole_of
from pipeline.run.layout import STARTING_NAME, STOP_NAME
from pipeline.run.ownership import CLAIMS, Owner

MANIFEST = "manifest.json"
_FORMAT = 1
# Names in a run's folder that are of one machine, or of one moment.
_LOCAL = (CLAIMS, "heartbeats", "hangs", STOP_NAME, STARTING_NAME)
PASSING = (".part", ".writing")


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
            key, first = checked_name(content["key"]), checked_name(path).partition("/")[0]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if is_own(first):
            raise ValueError(f"{where}: expected a file of a run, not of one machine")
        size, sha256 = whole_of(content["size"], where), text_of(content["sha256"], where)
        return cls(key=key, size=size, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What counts in the bucket. `serial` numbers the versions of `files` since the run `began`."""

    began: str
    generation: int
    owner: Owner | None
    serial: int = 0
    files: Mapping[str, Stored] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return JSON, one file a line."""
        content = asdict(self) | {"format": 1, "token": uuid4().hex}
        return json.dumps(content, indent=1).encode() + b"\n"

    @classmethod
    def parsed(cls, text: bytes, where: str) -> Self:
        """Read JSON. Raises ValueError naming `where` and the field."""
        required = ("began", "generation", "owner", "serial", "files", "format")
        content = fields_of(parse_json(text, where), where, required=required, optional=["token"])
        if content["format"] != 1:
            raise ValueError(f"{where}: expected format 1, got {content['format']!r:.80}")
        files: dict[str, Stored] = {}
        for path, value in fields_of(
            content["files"], f"{where}: files", required=(), optional=content["files"]
        ).items():
            files[path] = Stored.parsed(path, value, f"{where}: files.{path}")
        return cls(
            began=text_of(content["began"], f"{where}: began"),
            generation=whole_of(content["generation"], f"{where}: generation"),
            owner=None if content["owner"] is None else Owner(**content["owner"]),
            serial=whole_of(content["serial"], f"{where}: serial"),
            files=files,
        )


def is_own(name: str) -> bool:
    """Whether a name in a run's folder is of this machine or this moment alone."""
    return name.startswith(".") or name in _LOCAL or name.endswith(PASSING)
