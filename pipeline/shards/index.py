"""The index of a packed dataset: index.json beside its shards."""

import glob
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.data.people import Split
from pipeline.joints import JointSet, joint_set

INDEX_NAME = "index.json"
_FORMAT = 2
# Of format 1 an index named its joint set, one of those known by name.
_NAMED_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index says of one shard. `head_sizes` counts the people that have one."""

    name: str
    split: Split
    people: int
    images: int
    head_sizes: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """A packed dataset: where it came from, what it holds, and what was left out.

    `source` and `conventions` say how the annotations were read, `plan` names
    the packing job, `left_out` lists people by reason.
    """

    source: str
    joint_set: JointSet
    annotations: dict[str, str]
    conventions: dict[str, Any]
    crop: dict[str, Any]
    plan: str
    shards: tuple[ShardEntry, ...]
    skipped: dict[str, int]
    left_out: dict[str, list[str]]

    def write(self, folder: Path) -> None:
        """Write index.json whole or not at all."""
        path = folder / INDEX_NAME
        aside = path.with_suffix(".part")
        content = {"format": _FORMAT, "splits": self.splits()} | asdict(self)
        content["joint_set"] = self.joint_set.to_json()
        aside.write_text(json.dumps(content, indent=1) + "\n")
        aside.replace(path)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's index.json. Raises ValueError naming the file and what is wrong."""
        path = folder / INDEX_NAME
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(
                f"{path}: no such file; shards need the index that jobs.pack writes beside them"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not readable as JSON: {error}") from error
        form = content.pop("format", None) if isinstance(content, dict) else None
        if form not in (_FORMAT, _NAMED_FORMAT):
            raise ValueError(
                f"{path}: expected an index of format {_NAMED_FORMAT} or {_FORMAT}, got {form!r}"
            )
        content.pop("splits", None)
        try:
            shards = tuple(ShardEntry(**entry) for entry in content.pop("shards"))
            stored = content.pop("joint_set")
            joints = joint_set(stored) if form == _NAMED_FORMAT else JointSet.from_json(stored)
            return cls(shards=shards, joint_set=joints, **content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: not an index: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def splits(self) -> dict[str, dict[str, int]]:
        """People, images and shards of each split."""
        totals: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            total = totals.setdefault(shard.split, {"people": 0, "images": 0, "shards": 0})
            total["people"] += shard.people
            total["images"] += shard.images
            total["shards"] += 1
        return totals


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Shards that belong together: absolute paths in order, and what the index says of each.

    `checksum` stands for the content of all of them.
    """

    paths: tuple[str, ...]
    entries: tuple[ShardEntry, ...]
    joint_set: JointSet
    source: str
    checksum: str

    @property
    def people(self) -> int:
        """People in all shards."""
        return sum(entry.people for entry in self.entries)

    @property
    def head_sizes(self) -> int:
        """People that have a head size."""
        return sum(entry.head_sizes for entry in self.entries)


def find_shards(setting: str, pattern: str) -> ShardSet:
    """Resolve comma-separated globs to shards and check them against their index.

    `setting` is the dotted key that errors name. Raises ValueError if nothing
    matches, a shard is not in its index or has another size, or joint sets
    differ.
    """
    if not pattern:
        raise ValueError(f"{setting} is required: a glob of shards, such as 'out/train-*.tar'")
    paths = sorted(
        {Path(p).absolute() for part in pattern.split(",") for p in glob.glob(part.strip())}
    )
    if not paths:
        raise ValueError(f"no shards match {setting}={pattern!r} (looked from {Path.cwd()})")
    indexes = {folder: Index.read(folder) for folder in {path.parent for path in paths}}
    known = {folder / e.name: e for folder, index in indexes.items() for e in index.shards}
    entries = tuple(_checked_entry(path, known) for path in paths)
    first, *others = (index.joint_set for _, index in sorted(indexes.items()))
    for other in others:
        if other != first:
            raise ValueError(
                f"{setting}={pattern!r}: shards have different joint sets: {first.difference(other)}; "
                "expected one"
            )
    return ShardSet(
        paths=tuple(map(str, paths)),
        entries=entries,
        joint_set=first,
        source=", ".join(sorted({index.source for index in indexes.values()})),
        checksum=hashlib.sha256("".join(e.sha256 for e in entries).encode()).hexdigest()[:16],
    )


def absolute_globs(pattern: str) -> str:
    """The same globs, good from any folder: a worker's working folder is another one."""
    return ",".join(str(Path(part.strip()).absolute()) for part in pattern.split(","))


def _checked_entry(path: Path, known: dict[Path, ShardEntry]) -> ShardEntry:
    if path not in known:
        raise ValueError(f"{path}: not in {path.parent / INDEX_NAME}")
    entry, size = known[path], path.stat().st_size
    if size != entry.bytes:
        raise ValueError(
            f"{path}: {size:,} bytes, expected {entry.bytes:,} by its index; pack it again"
        )
    return entry
