"""The index of a packed dataset, index.json beside its shards, and how shards are found."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

from pipeline.data.shards.members import MEMBERS_NAME, Members, members_from
from pipeline.io.atomic import atomic_write
from pipeline.io.files import content_of, size_in_bytes
from pipeline.io.installation import named
from pipeline.io.location import is_remote, local_path, name_of, sibling, split_pattern
from pipeline.io.parsing import (
    fields_of,
    items_of,
    parse_json,
    table_of,
    text_of,
    whole_of,
)
from pipeline.io.redaction import redacted
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Split
from pipeline.settings.packing import CropSettings

INDEX_NAME = "index.json"
_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """The index's entry of one shard. `head_sizes` counts the people that have one.

    `measured` counts those for whom a measure is defined, by its key; None for datasets that were
    packed before it was counted.
    """

    name: str
    split: Split
    people: int
    images: int
    head_sizes: int
    bytes: int
    sha256: str
    measured: dict[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Index:
    """A packed dataset: its source, content, and the people left out.

    `source` and `conventions` say how the annotations were read, `plan` names the packing job,
    `left_out` lists people by reason. `members` is the sha256 of members.npz, empty for datasets
    that were packed before there was one. `converted` counts images whose values were scaled to 8
    bits, by what they had.
    """

    source: str
    joint_set: JointSet
    annotations: dict[str, str]
    conventions: dict[str, Any]
    crop: CropSettings
    plan: str
    shards: tuple[ShardEntry, ...]
    skipped: dict[str, int]
    left_out: dict[str, list[str]]
    members: str = ""
    converted: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write index.json atomically."""
        content = {"format": _FORMAT, "splits": self.splits()} | asdict(self)
        content["joint_set"] = self.joint_set.to_json()
        with atomic_write(folder / INDEX_NAME) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's index.json. Raises ValueError naming the file and the field."""
        return cls.at(str(folder / INDEX_NAME))

    @classmethod
    def at(cls, path: str) -> Self:
        """Read an index, local or remote. Raises ValueError like `read`."""
        try:
            text = content_of(path)
        except ValueError as error:
            raise ValueError(
                f"{error}; shards need the index that {named('jobs.pack')} writes beside them"
            ) from None
        shown = redacted(path)
        content = parse_json(text, shown)
        form = content.pop("format", None) if isinstance(content, dict) else None
        if form != _FORMAT:
            raise ValueError(
                f"{shown}: expected an index of format {_FORMAT}, got {form!r:.80}; "
                "pack the dataset again"
            )
        content.pop("splits", None)
        try:
            return cls(**_checked(content))
        except ValueError as error:
            raise ValueError(f"{shown}: {error}") from None

    def entry(self, name: str) -> ShardEntry | None:
        """Return the entry of the shard `name`, None if there is none."""
        return next((entry for entry in self.shards if entry.name == name), None)

    def splits(self) -> dict[str, dict[str, int]]:
        """Count people, images and shards of each split."""
        totals: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            total = totals.setdefault(shard.split, {"people": 0, "images": 0, "shards": 0})
            total["people"] += shard.people
            total["images"] += shard.images
            total["shards"] += 1
        return totals


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Read the fields of an index. Raises ValueError naming the field."""
    read: dict[str, Callable[[Any, str], Any]] = {
        "source": text_of,
        "joint_set": lambda value, _: JointSet.from_json(value),
        "annotations": partial(table_of, read=text_of),
        "conventions": partial(table_of, read=lambda value, _: value),
        "crop": CropSettings.from_json,
        "plan": text_of,
        "shards": partial(items_of, read=_entry),
        "skipped": partial(table_of, read=whole_of),
        "left_out": partial(table_of, read=lambda v, at: list(items_of(v, at, text_of))),
        "members": text_of,
        "converted": partial(table_of, read=whole_of),
    }
    optional = ("members", "converted")
    required = [name for name in read if name not in optional]
    given = fields_of(content, "index", required=required, optional=optional)
    found = {name: read[name](value, name) for name, value in given.items()}
    for name, count in Counter(entry.name for entry in found["shards"]).items():
        if count > 1:
            raise ValueError(f"shards must hold a name once, got {name!r} {count} times")
    return found


def _entry(value: Any, where: str) -> ShardEntry:
    counts = ("people", "images", "head_sizes", "bytes")
    given = fields_of(
        value, where, required=("name", "split", *counts, "sha256"), optional=("measured",)
    )
    name, split = text_of(given["name"], f"{where}.name"), given["split"]
    if not name or name_of(name) != name:
        raise ValueError(f"{where}.name must be the name of a file, got {name!r:.80}")
    if split not in get_args(Split):
        raise ValueError(f"{where}.split must be train or val, got {split!r:.80}")
    measured = given.get("measured")
    return ShardEntry(
        name=name,
        split=split,
        sha256=_sha256(given["sha256"], f"{where}.sha256"),
        measured=None if measured is None else table_of(measured, f"{where}.measured", whole_of),
        **{count: whole_of(given[count], f"{where}.{count}") for count in counts},
    )


def _sha256(value: Any, where: str) -> str:
    found = text_of(value, where)
    if not re.fullmatch("[0-9a-f]{64}", found):
        raise ValueError(f"{where} must be 64 hexadecimal digits, got {found!r:.80}")
    return found


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Shards that belong together: absolute paths in order, and the index's entry of each.

    `people` counts those in all shards, `head_sizes` those with a head size. `checksum` stands for
    the content of all of them. `margin` is the side of the smallest stored square over the person's
    frame. `crop` is how crops are stored, in the first folder if there are several; None if they
    have no index.
    """

    paths: tuple[str, ...]
    entries: tuple[ShardEntry, ...]
    people: int
    head_sizes: int
    joint_set: JointSet
    source: str
    checksum: str
    margin: float
    crop: CropSettings | None = None


def find_shards(setting: str, pattern: str, bad_allowed: int = 0) -> ShardSet:
    """Resolve comma-separated globs to shards and check them against their index.

    `setting` is the dotted key that errors name. Raises ValueError if nothing matches, a shard is
    not in its index or has another size, or joint sets differ. A shard may be cut off by up to
    `bad_allowed` samples.
    """
    locations = _resolved(setting, pattern)
    known = {at: sibling(at, INDEX_NAME) for at in locations}
    indexes = {path: Index.at(path) for path in sorted(set(known.values()))}
    members = {path: _checked_members(path, index) for path, index in indexes.items()}
    entries = tuple(
        _checked_entry(at, indexes[path], members[path], bad_allowed) for at, path in known.items()
    )
    first, *others = (index.joint_set for index in indexes.values())
    for other in others:
        if other != first:
            raise ValueError(
                f"{setting}={redacted(pattern)!r}: shards have different joint sets: "
                f"{first.difference(other)}; expected one"
            )
    return ShardSet(
        paths=tuple(locations),
        entries=entries,
        people=sum(entry.people for entry in entries),
        head_sizes=sum(entry.head_sizes for entry in entries),
        joint_set=first,
        source=", ".join(sorted({index.source for index in indexes.values()})),
        checksum=_checksum("".join(entry.sha256 for entry in entries)),
        margin=min(index.crop.margin for index in indexes.values()),
        crop=next(iter(indexes.values())).crop,
    )


def find_streams(setting: str, pattern: str, joint_set: JointSet, samples: int) -> ShardSet:
    """Resolve comma-separated globs to shards without an index; an epoch takes `samples` of them.

    `setting` is the dotted key that errors name. Raises ValueError if nothing matches.
    """
    locations = _resolved(setting, pattern)
    return ShardSet(
        paths=tuple(locations),
        entries=(),
        people=samples,
        head_sizes=0,
        joint_set=joint_set,
        source="streamed",
        checksum=_checksum("\n".join(f"{name_of(at)} {size_in_bytes(at)}" for at in locations)),
        margin=math.inf,
    )


def absolute_patterns(pattern: str) -> str:
    """Make patterns absolute, so that they hold in a worker, whose working folder is another."""
    return ",".join(
        part if is_remote(part) else str(Path(local_path(part)).absolute())
        for part in split_pattern(pattern)
    )


def _resolved(setting: str, pattern: str) -> list[str]:
    from pipeline.io.remote import expand

    if not pattern:
        raise ValueError(
            f"{setting} is required: a glob of shards, such as 'out/train-*.tar'; or --data DIR, "
            f"the folder that {named('jobs.pack')} has written"
        )
    try:
        locations = expand(pattern)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error
    if not locations:
        raise ValueError(
            f"no shards match {setting}={redacted(pattern)!r} (looked from {Path.cwd()})"
        )
    return locations


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checked_members(path: str, index: Index) -> dict[str, Members]:
    """Read the members.npz that belongs to the index at `path`; empty if the index names none."""
    if not index.members:
        return {}
    members = sibling(path, MEMBERS_NAME)
    try:
        content = content_of(members)
    except ValueError as error:
        raise ValueError(f"{error}, but {INDEX_NAME} expects it") from None
    if hashlib.sha256(content).hexdigest() != index.members:
        raise ValueError(
            f"{redacted(members)}: checksum mismatch: {INDEX_NAME} was written with another file; "
            "pack the dataset again"
        )
    return members_from(content, members)


def _checked_entry(
    location: str, index: Index, members: Mapping[str, Members], bad_allowed: int
) -> ShardEntry:
    name = name_of(location)
    entry = index.entry(name)
    if entry is None:
        raise ValueError(f"{redacted(location)}: not in {redacted(sibling(location, INDEX_NAME))}")
    size = size_in_bytes(location)
    if size == entry.bytes:
        return entry
    lost = members[name].num_beyond(size) if name in members else entry.people
    if size < entry.bytes and lost <= bad_allowed:
        return entry
    raise ValueError(
        f"{redacted(location)}: {size:,} bytes, expected {entry.bytes:,} by its index"
        f"{f', samples cut off: {lost:,}' if size < entry.bytes else ''}; pack it again"
    )
