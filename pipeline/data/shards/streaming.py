"""Reading shards from front to back, through webdataset: compressed ones, or without an index.

It is approximate: an epoch is a stated number of samples, each worker reads its share of the
shards, and an epoch may hold a sample twice or not at all. Every worker takes the same number of
steps nevertheless, and the stream is a pure function of seed, epoch, rank and number of workers.
"""

import itertools
import lzma
import random
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from webdataset.filters import shuffle
from webdataset.tariterators import group_by_keys

from pipeline.data.shards.sample import (
    RECORD_SUFFIX,
    BadSampleError,
    BadSamples,
    Sample,
    is_inside,
    sample_from,
)
from pipeline.io.files import open_stream
from pipeline.io.location import name_of
from pipeline.io.redaction import redacted
from pipeline.io.unfolding import tar_files
from pipeline.pose.shapes import Positions

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png")
# Python's readers raise these for a stream that ends early, is none, or unfolds beyond its bounds,
# webdataset for a member that is there twice.
_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)
# Members that webdataset keeps for itself.
_META = re.compile(r"__[^/]*__($|/)")
# Fields that a record may lack. Without a crop the picture is the whole original.
_ABSENT = {
    "person": 0,
    "box": None,
    "image_size": None,
    "crop": {"left": 0, "top": 0, "factor_x": 1.0, "factor_y": 1.0},
}

Raw = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShardStream:
    """Shards to read front to back as rank `rank` of `workers`.

    Samples are shuffled in a buffer of `window`.
    """

    locations: Sequence[str]
    seed: int
    rank: int
    workers: int
    window: int

    def batches(
        self, epoch: int, size: int, steps: range, bad: BadSamples
    ) -> Iterator[tuple[Positions, list[Sample]]]:
        """Yield the batches of `size` samples of an epoch's `steps`, with a number for each sample.

        Raises BadSampleError past the number that `bad` allows, or if no shard has a sample that
        can be used.
        """
        samples = itertools.islice(self._samples(epoch, bad), steps.start * size, None)
        for step in steps:
            # No other worker gives these numbers, of which augmentation is drawn.
            first = (step * self.workers + self.rank) * size
            yield np.arange(first, first + size), list(itertools.islice(samples, size))

    def first(self, count: int, bad: BadSamples) -> list[Sample]:
        """Return the first samples of the stream, unshuffled."""
        unshuffled = replace(self, window=1)
        return list(itertools.islice(unshuffled._samples(0, bad), count))

    def _samples(self, epoch: int, bad: BadSamples) -> Iterator[Sample]:
        mixed = shuffle(
            self.window, initial=self.window, rng=random.Random(f"{self.seed} {epoch} {self.rank}")
        )
        for raw in mixed(self._raw_samples(epoch, bad)):
            try:
                yield _sample_of(raw)
            except BadSampleError as error:
                bad.note(raw["__place__"], error)

    def _raw_samples(self, epoch: int, bad: BadSamples) -> Iterator[Raw]:
        """Yield the tars' samples pass after pass, with the shards in another order each time."""
        for turn in itertools.count():
            order = np.random.default_rng([self.seed, epoch, turn]).permutation(len(self.locations))
            is_empty = True
            for shard in order[self.rank :: self.workers].tolist():
                for raw in _read(self.locations[shard], bad):
                    is_empty = False
                    yield raw
            if is_empty:
                some = ", ".join(map(redacted, self.locations[:3]))
                raise BadSampleError(f"no samples in {some}, ...")


def _read(location: str, bad: BadSamples) -> Iterator[Raw]:
    """Yield the samples of one tar, compressed or not; one that breaks off is a bad sample."""
    name, last = name_of(location), "its start"
    try:
        with open_stream(location) as stream:
            files = (
                {"fname": member, "data": data, "__url__": name}
                for member, data in tar_files(stream, _is_read)
            )
            for raw in group_by_keys(files):
                last = raw["__key__"]
                yield raw | {"__place__": f"{name}: {last}"}
    except _BROKEN as error:
        # webdataset appends the place to the message, in its own terms.
        reason = str(error.args[0] if error.args else error).partition(" @ ")[0]
        bad.note(name, BadSampleError(f"{name}: broke off after {last}: {reason}"))


def _is_read(name: str) -> bool:
    """Whether a member is a picture or a record; all else, links and devices too, is skipped."""
    if not is_inside(name) or _META.match(name):
        return False
    return name.rpartition(".")[2].lower() in (*_IMAGE_SUFFIXES, RECORD_SUFFIX)


def _sample_of(raw: Raw) -> Sample:
    """Put a sample together; its record needs joints, visibility, center and scale only."""
    place = raw["__place__"]
    image = next((raw[suffix] for suffix in _IMAGE_SUFFIXES if suffix in raw), None)
    if image is None or RECORD_SUFFIX not in raw:
        raise BadSampleError(f"{place}: expected a picture and a .{RECORD_SUFFIX}")
    return sample_from(image, raw[RECORD_SUFFIX], place, _ABSENT | {"image": raw["__key__"]})
