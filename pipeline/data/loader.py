"""From stored samples to batches: decode and warp, ahead of the network on threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import local
from typing import TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from pipeline.data.augmentation import Augmentation, draw_augmentations
from pipeline.data.batch import Batch
from pipeline.data.shards.crop import CropDecoder, warp
from pipeline.data.shards.index import find_shards
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSampleError, BadSamples, Sample, Samples
from pipeline.data.shards.streaming import ShardStream
from pipeline.io.cache import ShardCache
from pipeline.io.redaction import redacted
from pipeline.pose.geometry import Matrix, heatmap_from_input, input_from_original, transform
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import Positions
from pipeline.settings import DataSettings
from pipeline.settings.packing import MAX_PIXELS

# The source of one batch.
Item = TypeVar("Item")
Result = TypeVar("Result")
# Batches loading or ready, beside one for each thread: enough to bridge a slow one.
_AHEAD = 2
_HEATMAP_FROM_INPUT = heatmap_from_input()


class _Scratch(local):
    """Memory that a thread reuses for every sample."""

    def __init__(self, input_px: int, max_pixels: int) -> None:
        self.decoder = CropDecoder(max_pixels)
        self.warped = np.empty((input_px, input_px, 4), np.uint8)


class SampleLoader:
    """A loader of stored samples as batches of network inputs of side `input_px`.

    `bad` counts the samples that can't be used, among them pictures of more than `max_pixels`.
    With `pinned`, batches are decoded into page-locked memory, from which a GPU copies them by
    itself.
    """

    def __init__(
        self,
        samples: Samples,
        joint_set: JointSet,
        input_px: int,
        bad_allowed: int = 0,
        max_pixels: int = MAX_PIXELS,
        *,
        pinned: bool = False,
    ) -> None:
        # Parallelism is over samples; OpenCV's own threads would only compete.
        cv2.setNumThreads(1)
        self.samples = samples
        self.joint_set = joint_set
        self.input_px = input_px
        self.bad = BadSamples(bad_allowed)
        self._pinned = pinned
        self._scratch = _Scratch(input_px, max_pixels)
        self._mirror = np.array(joint_set.mirror)

    def batch(
        self,
        positions: Positions,
        augmentations: Sequence[Augmentation] | None = None,
        samples: Sequence[Sample] | None = None,
    ) -> Batch:
        """Load the samples at `positions`, or those given, unaugmented without `augmentations`.

        Bad ones are left out, which makes the batch shorter. Raises BadSampleError past the number
        allowed.
        """
        batch = self._empty_batch(positions)
        images, points, annotated, gains = (
            tensor.numpy() for tensor in (batch.images, batch.joints, batch.annotated, batch.gains)
        )
        drawn = augmentations or [Augmentation()] * len(positions)
        kept: list[int] = []
        for place, (position, how) in enumerate(zip(positions.tolist(), drawn, strict=True)):
            row = len(kept)
            try:
                sample = samples[place] if samples else self.samples[position]
                points[row], annotated[row] = self.load(sample, how, images[row])
            except BadSampleError as error:
                self.bad.note(position, error)
                continue
            gains[row] = how.gains
            kept.append(position)
        return replace(batch.rows(slice(len(kept))), positions=np.array(kept, np.int64))

    def _empty_batch(self, positions: Positions) -> Batch:
        """Return a batch that is to be filled."""
        rows, size, joints = len(positions), self.input_px, len(self.joint_set.joints)

        def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(rows, *shape, dtype=dtype, pin_memory=self._pinned)

        return Batch(
            images=empty(size, size, 3, dtype=torch.uint8),
            joints=empty(joints, 2, dtype=torch.float32),
            annotated=empty(joints, dtype=torch.bool),
            gains=empty(3, dtype=torch.float32),
            positions=positions,
        )

    def load(
        self, sample: Sample, how: Augmentation, image: UInt8[np.ndarray, "px px 3"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Warp a sample into `image`; return its joints in heatmap pixels, and which are annotated.

        Raises BadSampleError if the sample can't be used.
        """
        matrix = self.input_from_original(sample, how)
        points, annotated = self._joints(sample, matrix, how.mirrored)
        pixels, scratch = sample.pixels(self._scratch.decoder), self._scratch.warped
        try:
            warp(pixels, matrix @ sample.crop.to_original, scratch, image)
        except ValueError as error:
            raise BadSampleError(f"{sample.where}: {error}") from error
        return points, annotated

    def input_from_original(self, sample: Sample, how: Augmentation) -> Matrix:
        """Return the matrix from the original image's pixels to the network input's."""
        return input_from_original(
            sample.person.center,
            sample.person.scale,
            self.input_px,
            zoom=how.zoom,
            rotation_deg=how.rotation_deg,
            mirrored=how.mirrored,
        )

    def _joints(
        self, sample: Sample, matrix: Matrix, mirrored: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        person, wanted = sample.person, len(self.joint_set.joints)
        if len(person.joints) != wanted:
            raise BadSampleError(f"{sample.where}: {len(person.joints)} joints, expected {wanted}")
        if len(person.visibility) != wanted:
            states = len(person.visibility)
            raise BadSampleError(f"{sample.where}: {states} visibilities, expected {wanted}")
        # MISSING is 0. To compare each state would take three times as long.
        annotated = np.array(person.visibility, bool)
        if not annotated.any():
            raise BadSampleError(f"{sample.where}: no joint is annotated")
        points = transform(np.array(person.joints), _HEATMAP_FROM_INPUT @ matrix)
        if mirrored:
            points, annotated = points[self._mirror], annotated[self._mirror]
        # A missing joint may hold any number, which must not reach arithmetic.
        points[~annotated] = 0.0
        return points, annotated


def shard_loader(
    setting: str,
    pattern: str,
    joint_set: JointSet,
    input_px: int,
    max_pixels: int = MAX_PIXELS,
) -> SampleLoader:
    """Return a loader of the shards that match `pattern`, for a checkpoint with `joint_set`.

    Raises ValueError as `find_shards`, or if the joint sets differ.
    """
    shards = find_shards(setting, pattern)
    difference = shards.joint_set.difference(joint_set)
    if difference:
        raise ValueError(
            f"{setting}={redacted(pattern)!r} and the checkpoint have different joint sets: "
            f"{difference}; expected the same"
        )
    reader = ShardReader(shards.paths)
    return SampleLoader(reader, shards.joint_set, input_px, max_pixels=max_pixels)


def stream_training(
    loader: SampleLoader,
    batches: Iterable[Positions],
    settings: DataSettings,
    epoch: int,
) -> Iterator[Batch]:
    """Yield augmented batches in order, the same for any number of threads.

    A batch always has its full length, which the other workers rely on: it repeats good samples in
    place of bad ones.
    """

    def load(positions: Positions) -> Batch:
        drawn = draw_augmentations(settings, epoch, positions)
        return _filled(loader.batch(positions, drawn), len(positions))

    return look_ahead(load, batches, settings.threads or 1)


def stream_given(
    loader: SampleLoader,
    batches: Iterable[tuple[Positions, list[Sample]]],
    settings: DataSettings,
    epoch: int,
) -> Iterator[Batch]:
    """Yield augmented batches of numbered samples, like `stream_training`."""

    def load(numbered: tuple[Positions, list[Sample]]) -> Batch:
        numbers, samples = numbered
        drawn = draw_augmentations(settings, epoch, numbers)
        return _filled(loader.batch(numbers, drawn, samples), len(numbers))

    return look_ahead(load, batches, settings.threads or 1)


def stream_validation(
    loader: SampleLoader, batches: Iterable[Positions], threads: int
) -> Iterator[Batch]:
    """Yield unaugmented batches in order, shorter where a sample is bad."""
    return (batch for batch in look_ahead(loader.batch, batches, threads) if len(batch))


def _filled(batch: Batch, length: int) -> Batch:
    """Repeat a batch's samples until there are `length`. Raises BadSampleError if it has none."""
    if len(batch) == length:
        return batch
    if not len(batch):
        raise BadSampleError(f"none of a batch's {length} samples can be used")
    return batch.rows(np.resize(np.arange(len(batch)), length))


def look_ahead(
    load: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int = _AHEAD
) -> Iterator[Result]:
    """Yield the results of `load` in order, computed in `threads` and at most `ahead` more."""
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > threads + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def training_shards(
    paths: tuple[str, ...], data: DataSettings, rank: int, workers: int
) -> ShardReader | ShardStream:
    """Open the training shards with the reader that the settings name."""
    if data.reading == "exact":
        return ShardReader(paths, shard_cache(data))
    window = data.shuffle_window
    return ShardStream(locations=paths, seed=data.seed, rank=rank, workers=workers, window=window)


def shard_cache(data: DataSettings) -> ShardCache | None:
    """Return the cache of the settings, None if they name no folder for it."""
    return ShardCache(Path(data.cache), round(data.cache_gb * 1e9)) if data.cache else None
