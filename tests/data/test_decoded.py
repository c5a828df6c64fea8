"""Decoded crops in memory: the same batches, without reading and decoding."""

from dataclasses import replace

import numpy as np
import pytest
from factories import same_batch, samples

from pipeline.data.batch import Batch
from pipeline.data.decoded import DecodedSamples
from pipeline.data.loader import SampleLoader, stream_training
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSampleError, Sample
from pipeline.pose.joint_sets import MPII
from pipeline.settings import DataSettings

ORDERS = [np.array([0, 3, 1]), np.array([2, 1, 0]), np.array([3, 2, 1])]


class Counted:
    """Samples that note which of them are read."""

    def __init__(self, samples: ShardReader) -> None:
        self.samples, self.read = samples, []

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self):
        return iter(self.samples)

    def __getitem__(self, position: int) -> Sample:
        self.read.append(position)
        return self.samples[position]


def counted(pack, held: list[Sample]) -> Counted:
    return Counted(ShardReader([str(path) for path in pack(held)]))


def epochs(source) -> list[Batch]:
    """A batch of each epoch, augmented."""
    loader, settings = SampleLoader(source, MPII, 64), DataSettings(threads=2)
    return [
        next(stream_training(loader, [order], settings, epoch))
        for epoch, order in enumerate(ORDERS)
    ]


@pytest.mark.parametrize(
    ("fits", "read"),
    [
        # Every sample is read in the first epoch that it comes in.
        (4, [0, 3, 1, 2]),
        # Samples 0 and 3 are held, and the others read each time.
        (2, [0, 3, 1, 2, 1, 2, 1]),
        (0, [0, 3, 1, 2, 1, 0, 3, 2, 1]),
    ],
)
def test_batches_of_held_crops_are_those_of_crops_that_are_read(pack, fits, read):
    source = counted(pack, samples(4))
    expected = epochs(source.samples)
    [size] = {4 * len(s.picture()) * s.picture().shape[1] for s in source.samples}
    decoded = DecodedSamples(source, fits * (size + 4096))
    found = epochs(decoded)
    assert all(map(same_batch, found, expected))
    assert source.read == read
    assert (decoded.count, decoded.used) == (fits, fits * (size + 4096))


def test_a_held_crop_is_a_copy_of_what_the_decoder_wrote(pack):
    source = counted(pack, samples(2))
    loader = SampleLoader(DecodedSamples(source, 10**9), MPII, 64)
    first = loader.batch(np.array([0]))
    loader.batch(np.array([1]))
    assert same_batch(loader.batch(np.array([0])), first)
    assert not (loader.batch(np.array([1])).images == first.images).all()
    assert source.read == [0, 1]


def test_a_damaged_crop_is_not_held(pack):
    [good] = samples(1)
    cut = replace(good, crop=replace(good.crop, jpeg=good.crop.jpeg[:-200]))
    source = counted(pack, [cut])
    decoded = DecodedSamples(source, 10**9)
    for _ in range(2):
        with pytest.raises(BadSampleError, match=r"^train-000000.tar: photo-000_00: damaged JPEG"):
            SampleLoader(decoded, MPII, 64).batch(np.array([0]))
    assert (source.read, decoded.count) == ([0, 0], 0)
