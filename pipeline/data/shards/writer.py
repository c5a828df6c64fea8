"""Writing shards: WebDataset tars, atomically."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import webdataset

from pipeline.data.shards.index import ShardEntry
from pipeline.data.shards.sample import IMAGE_SUFFIX, RECORD_SUFFIX, Sample, record_of
from pipeline.io.atomic import atomic_write
from pipeline.pose.person import Split


@dataclass(frozen=True, kw_only=True)
class ShardName:
    """Name of a shard: `train-000004.tar` is shard 4 of the training split."""

    split: Split
    number: int

    def __str__(self) -> str:
        return f"{self.split}-{self.number:06d}.tar"


def write_shard(folder: Path, name: ShardName, samples: Iterable[Sample]) -> ShardEntry:
    """Write samples as `folder/name`, atomically, and return its index entry.

    Equal samples give equal bytes. Raises OSError if the disk refuses, naming one that is full.
    """
    people = head_sizes = 0
    images = set()
    with atomic_write(folder / str(name)) as aside:
        # Uncompressed and by an open file: WDS_SECURE forbids writing by name.
        with (
            aside.open("wb") as file,
            webdataset.TarWriter(file, encoder=False, mtime=0, compress=False) as writer,
        ):
            for sample in samples:
                members = {IMAGE_SUFFIX: sample.crop.jpeg, RECORD_SUFFIX: record_of(sample)}
                writer.write({"__key__": sample.key} | members)
                people += 1
                head_sizes += sample.person.head_size is not None
                images.add(sample.person.image)
        with aside.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        size = aside.stat().st_size
    return ShardEntry(
        name=str(name),
        split=name.split,
        people=people,
        images=len(images),
        head_sizes=head_sizes,
        bytes=size,
        sha256=digest,
    )
