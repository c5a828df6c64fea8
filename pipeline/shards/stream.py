"""From stored samples to batches: decode, one warp, and a look ahead on threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pipeline.data.people import Visibility
from pipeline.geometry import (
    Matrix,
    heatmap_from_input,
    input_from_original,
    transform,
)
from pipeline.joints import JointSet
from pipeline.settings import DataSettings
from pipeline.shards.order import Positions
from pipeline.shards.sample import Sample

# Batches under way or ready, beside one for each thread: enough to ride out a slow one.
_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples as they travel to the training device; heatmaps and floats are made there.

    `joints` are heatmap pixels. `gains` multiply the colour channels.
    """

    images: UInt8[Tensor, "batch input_px input_px 3"]
    joints: Float[Tensor, "batch joint 2"]
    annotated: Bool[Tensor, "batch joint"]
    gains: Float[Tensor, "batch 3"]
    positions: Positions

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How one sample is varied: frame enlarged by `zoom`, image turned and mirrored, channels multiplied."""

    zoom: float = 1.0
    rotation_deg: float = 0.0
    mirrored: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_augmentation(settings: DataSettings, epoch: int, position: int) -> Augmentation:
    """Draw a sample's augmentation, a pure function of seed, epoch and position.

    The distributions are those of the authors' code: 2 to the power of a
    clipped normal for the scale, a clipped normal for the angle.
    """
    random = np.random.default_rng([settings.seed, epoch, position])
    octaves, turn = random.standard_normal(2).clip(-2, 2)
    rotated, flipped = random.random(2) < (settings.rotation_share, settings.flip_share)
    low, high = 1 - settings.color_jitter, 1 + settings.color_jitter
    red, green, blue = random.uniform(low, high, 3).tolist()
    return Augmentation(
        zoom=float(2 ** (octaves * settings.scale_jitter)),
        rotation_deg=float(turn * settings.rotation_deg) if rotated else 0.0,
        mirrored=bool(flipped),
        gains=(red, green, blue),
    )


class SampleLoader:
    """Turns stored samples into batches of network inputs of side `input_px`."""

    def __init__(self, samples: Sequence[Sample], joint_set: JointSet, input_px: int) -> None:
        # Parallelism is over samples; OpenCV's own threads would only compete.
        cv2.setNumThreads(1)
        self.samples = samples
        self.joint_set = joint_set
        self.input_px = input_px

    def batch(
        self, positions: Positions, augmentations: Sequence[Augmentation] | None = None
    ) -> Batch:
        """Load the samples at `positions`, unvaried without `augmentations`."""
        varied = augmentations or [Augmentation()] * len(positions)
        size, joints = self.input_px, len(self.joint_set.joints)
        images = np.empty((len(positions), size, size, 3), np.uint8)
        points = np.empty((len(positions), joints, 2), np.float32)
        annotated = np.empty((len(positions), joints), bool)
        for row, (position, how) in enumerate(zip(positions, varied, strict=True)):
            sample = self.samples[int(position)]
            matrix = self.input_from_original(sample, how)
            self._warp(sample, matrix, images[row])
            points[row], annotated[row] = self._joints(sample, matrix, how.mirrored)
        return Batch(
            images=torch.from_numpy(images),
            joints=torch.from_numpy(points),
            annotated=torch.from_numpy(annotated),
            gains=torch.tensor([how.gains for how in varied]),
            positions=positions,
        )

    def input_from_original(self, sample: Sample, how: Augmentation) -> Matrix:
        """Matrix from the original image's pixels to the network input's."""
        return input_from_original(
            sample.person.center,
            sample.person.scale,
            self.input_px,
            zoom=how.zoom,
            rotation_deg=how.rotation_deg,
            mirrored=how.mirrored,
        )

    def _warp(self, sample: Sample, matrix: Matrix, out: UInt8[np.ndarray, "px px 3"]) -> None:
        from_crop = matrix @ np.linalg.inv(sample.crop.from_original)
        cv2.warpAffine(
            sample.picture(), from_crop[:2], out.shape[:2], dst=out, flags=cv2.INTER_LINEAR
        )

    def _joints(
        self, sample: Sample, matrix: Matrix, mirrored: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        points = transform(np.array(sample.person.joints), heatmap_from_input() @ matrix)
        annotated = np.array(sample.person.visibility) != Visibility.MISSING
        if mirrored:
            order = list(self.joint_set.mirror)
            points, annotated = points[order], annotated[order]
        # What is missing may hold any number; keep it from reaching arithmetic.
        return np.where(annotated[:, None], points, 0.0), annotated


def stream_training(
    loader: SampleLoader,
    batches: Iterable[Positions],
    settings: DataSettings,
    epoch: int,
) -> Iterator[Batch]:
    """Yield augmented batches in order; the same stream whatever the number of threads."""

    def load(positions: Positions) -> Batch:
        varied = [draw_augmentation(settings, epoch, int(p)) for p in positions]
        return loader.batch(positions, varied)

    return _look_ahead(load, batches, settings.threads)


def stream_validation(
    loader: SampleLoader, batches: Iterable[Positions], threads: int
) -> Iterator[Batch]:
    """Yield unvaried batches in order."""
    return _look_ahead(loader.batch, batches, threads)


def _look_ahead(
    load: Callable[[Positions], Batch], batches: Iterable[Positions], threads: int
) -> Iterator[Batch]:
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for positions in batches:
                waiting.append(pool.submit(load, positions))
                if len(waiting) > threads + _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
