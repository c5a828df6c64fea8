"""Decoded crops in memory, so that later epochs neither read nor decode them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock

import numpy as np

from pipeline.data.shards.crop import CropDecoder, ImageRGBA
from pipeline.data.shards.sample import Sample, Samples

# Bytes of a sample beside its pixels: the record as Python's objects.
_RECORD = 4096


@dataclass(frozen=True, kw_only=True)
class _Fresh(Sample):
    """A sample whose pixels are offered to `keep` once they are decoded."""

    keep: Callable[[Sample, ImageRGBA], None] = field(compare=False)

    def pixels(self, decoder: CropDecoder) -> ImageRGBA:
        pixels = super().pixels(decoder)
        self.keep(self, pixels)
        return pixels


@dataclass(frozen=True, kw_only=True)
class _Held(Sample):
    """A sample with its pixels, which replace the bytes of its JPEG."""

    decoded: ImageRGBA = field(compare=False)

    def pixels(self, decoder: CropDecoder) -> ImageRGBA:
        return self.decoded


class DecodedSamples:
    """Samples of which the first that fit `limit` bytes stay decoded in memory.

    None makes room for another: an epoch comes to each sample once, in an order of its own, so
    that all are worth the same. `count` are held, in `used` bytes. Safe to share between threads.
    """

    def __init__(self, samples: Samples, limit: int) -> None:
        self._samples, self._limit = samples, limit
        self._held: dict[int, _Held] = {}
        self._lock = Lock()
        self.used = 0

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sample:
        held = self._held.get(position)
        if held is not None:
            return held
        sample = self._samples[position]
        if self.used >= self._limit:
            return sample
        keep = partial(self._keep, position)
        return _Fresh(person=sample.person, crop=sample.crop, place=sample.place, keep=keep)

    @property
    def count(self) -> int:
        """Number of samples that are held."""
        return len(self._held)

    def _keep(self, position: int, sample: Sample, pixels: ImageRGBA) -> None:
        """Hold a sample, if it still fits; `pixels` are the decoder's, which reuses them."""
        size = pixels.nbytes + _RECORD
        with self._lock:
            if position in self._held or self.used + size > self._limit:
                return
            self.used += size
            self._held[position] = _Held(
                person=sample.person,
                crop=replace(sample.crop, jpeg=b""),
                place=sample.place,
                decoded=np.array(pixels),
            )
