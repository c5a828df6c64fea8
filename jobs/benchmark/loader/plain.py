"""A plain loader to compare with, as code for human pose commonly loads a sample.

Read and decode the whole photograph, one warp to the network's input, colour and normalise in
float32 NumPy, a Gaussian pasted into each joint's heatmap, and torch's DataLoader around it.
"""

from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.data.augmentation import draw_augmentations
from pipeline.data.shards.crop import Image
from pipeline.pose.geometry import Matrix, heatmap_from_input, input_from_original, transform
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person
from pipeline.settings import DataSettings, ModelSettings, OptimSettings

_DATA, _MODEL = DataSettings(), ModelSettings()


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """Float images 0-1 (3, input_px, input_px) and heatmaps, augmented as our stream does.

    With the default settings of training, for MPII's joints, all of which must be annotated. With
    `on_whole` the whole photograph's colours are put in order and it is mirrored before the warp,
    as in HRNet and pytorch-pose; otherwise where that costs least. The result is the same.
    """

    def __init__(self, folder: Path, people: Sequence[Person], *, on_whole: bool = False) -> None:
        self._folder, self._people, self._on_whole = folder, people, on_whole

    def __len__(self) -> int:
        return len(self._people)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        person = self._people[position]
        [how] = draw_augmentations(_DATA, 0, np.array([position]))
        matrix = input_from_original(
            person.center,
            person.scale,
            _MODEL.input_px,
            zoom=how.zoom,
            rotation_deg=how.rotation_deg,
            mirrored=how.mirrored,
        )
        image = self._warped(str(self._folder / person.image), matrix, how.mirrored)
        points = transform(np.array(person.joints), heatmap_from_input() @ matrix)
        if how.mirrored:
            points = points[list(MPII.mirror)]
        pixels = image.astype(np.float32) * (np.array(how.gains, np.float32) / 255)
        pixels = np.clip(pixels, 0, 1, out=pixels)
        maps = paste_gaussians(points, _MODEL.heatmap_px, OptimSettings().sigma_px)
        return (
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(maps),
        )

    def _warped(self, path: str, matrix: Matrix, mirrored: bool) -> Image:
        # Either the decoder writes RGB and the matrix mirrors, or every pixel is converted first.
        order = cv2.IMREAD_COLOR if self._on_whole else cv2.IMREAD_COLOR_RGB
        photograph = cv2.imread(path, order | cv2.IMREAD_IGNORE_ORIENTATION)
        assert photograph is not None, path
        if self._on_whole:
            photograph = cv2.cvtColor(photograph, cv2.COLOR_BGR2RGB)
            if mirrored:
                mirror = np.diag([-1.0, 1.0, 1.0])
                mirror[0, 2] = photograph.shape[1] - 1
                photograph, matrix = photograph[:, ::-1], matrix @ mirror
        size = (_MODEL.input_px, _MODEL.input_px)
        return cv2.warpAffine(photograph, matrix[:2], size, flags=cv2.INTER_LINEAR)


def paste_gaussians(
    joints: Float[np.ndarray, "joint 2"], size: int, sigma_px: float
) -> Float32[np.ndarray, "joint size size"]:
    """Paste a Gaussian of three sigmas around each joint on the map, rounded to a pixel."""
    maps = np.zeros((len(joints), size, size), np.float32)
    radius = int(np.ceil(3 * sigma_px))
    grid = np.arange(-radius, radius + 1, dtype=np.float32)
    for heatmap, (x, y) in zip(maps, joints, strict=True):
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        if not (0 <= column < size and 0 <= row < size):
            continue
        patch = np.exp(-(grid**2 + grid[:, None] ** 2) / (2 * sigma_px**2))
        left, top = max(0, column - radius), max(0, row - radius)
        right, bottom = min(size, column + radius + 1), min(size, row + radius + 1)
        heatmap[top:bottom, left:right] = patch[
            top - row + radius : bottom - row + radius,
            left - column + radius : right - column + radius,
        ]
    return maps


def plain_loader(
    dataset: PlainDataset, batch_size: int, samples: int, processes: int = 0
) -> DataLoader[Any]:
    """Return a DataLoader of whole shuffled batches, about `samples`; its workers stay alive."""
    shuffled = np.random.default_rng(0).permutation(len(dataset))
    order = np.resize(shuffled, max(1, samples // batch_size) * batch_size).tolist()
    return DataLoader(dataset, batch_size=batch_size, sampler=order, **worker_options(processes))


def count_samples(loader: DataLoader[Any], batch_size: int) -> int:
    """Run through a loader of whole batches and return the number of samples."""
    return batch_size * sum(1 for _ in loader)


def worker_options(processes: int) -> dict[str, Any]:
    """Return the DataLoader's options for a number of worker processes.

    A server without threads forks them, since forking this process could copy a held lock.
    """
    if not processes:
        return {"num_workers": 0}
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return {
        "num_workers": processes,
        "persistent_workers": True,
        "multiprocessing_context": context,
    }
