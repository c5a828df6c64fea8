"""Prediction of joints in photographs, computed as in evaluation."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import torch

from pipeline.data.batch import scaled
from pipeline.data.photographs.pixels import read_photograph
from pipeline.data.shards.crop import CropDecoder, ImageRGBA, pixel_view
from pipeline.model.arithmetic import Fp32, arithmetic
from pipeline.model.build import fastest
from pipeline.model.decoding import decode, predicted_heatmaps
from pipeline.model.loss import LOSSES
from pipeline.pose.geometry import (
    Matrix,
    frame_box,
    heatmap_from_input,
    input_from_original,
    transform,
)
from pipeline.pose.shapes import Float, UInt8
from pipeline.run.checkpoint import Weights, load_network
from pipeline.settings.packing import MAX_PIXELS, CropSettings

# Of a photograph's pixels, and of a scale.
_FARTHEST = 1e9


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A person's square in a photograph, of side 200 * scale pixels around `center`.

    Raises ValueError if a number is not finite, the scale not positive, or if it is larger, smaller
    or farther away than a frame of any photograph.
    """

    center: tuple[float, float]
    scale: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.center, self.scale))) or self.scale <= 0:
            raise ValueError(
                "a frame needs a finite center and a scale above 0, "
                f"got {self.center} and {self.scale}"
            )
        if max(*map(abs, self.center), self.scale, 1 / self.scale) > _FARTHEST:
            raise ValueError(
                f"a frame must lie within {_FARTHEST:g} pixels, with a scale from "
                f"{1 / _FARTHEST:g} to {_FARTHEST:g}, got {self.center} and {self.scale}"
            )

    @classmethod
    def of_box(cls, x: float, y: float, width: float, height: float) -> Self:
        """Frame a person's box (left, top, width, height), a quarter wider than its longer side."""
        if not (width > 0 and height > 0):
            raise ValueError(f"a box must have width and height above 0, got {width} and {height}")
        center, scale = frame_box((x, y, width, height))
        return cls(center=center, scale=scale)

    @classmethod
    def of_whole(cls, image: ImageRGBA) -> Self:
        """Frame a photograph that one person fills."""
        height, width = image.shape[:2]
        return cls.of_box(0, 0, width, height)


@dataclass(frozen=True, kw_only=True)
class View:
    """A person as network input, and the matrix from heatmap pixels to the photograph's."""

    image: UInt8[np.ndarray, "input_px input_px 3"]
    to_photograph: Matrix


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A person's joints in the photograph's pixels, the first one's centre at 0.

    `confidence` is each heatmap's maximum as a share of the training target's peak, with
    optim.loss=cross-entropy as a probability. `heatmaps`, if requested, have the same unit.
    """

    joints: Float[np.ndarray, "joint 2"]
    confidence: Float[np.ndarray, " joint"]
    heatmaps: Float[np.ndarray, "joint height width"] | None = None


class Predictor:
    """A checkpoint's network with the flip test and decoding of its settings.

    A device that multiplies bf16 predicts in bf16 (docs/benchmarks.md has the effect on joints),
    another GPU in TF32; with `exact` in IEEE fp32, as evaluation does. Raises ValueError as
    `load_network`.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        weights: Weights = "auto",
        *,
        exact: bool = False,
    ) -> None:
        network, metadata = load_network(folder, device, weights)
        self._network = network if exact else fastest(network, device)
        self._fp32: Fp32 = "ieee" if exact else "tf32"
        self._settings, self._device = metadata.settings, device
        self._decoder = CropDecoder()
        self.joint_set = metadata.joint_set
        self._stored = metadata.crop

    def read(self, photograph: bytes, max_pixels: int = MAX_PIXELS) -> ImageRGBA:
        """Decode a photograph as `read_photograph`; valid until the next call."""
        return read_photograph(photograph, self._decoder, max_pixels).image

    def view(self, image: ImageRGBA, frame: Frame) -> View:
        """Crop a photograph to the network's input."""
        return crop_view(image, frame, self._settings.model.input_px, self._stored)

    def predict(self, views: Iterable[View], with_heatmaps: bool = False) -> Iterator[Pose]:
        """Yield the pose of each view in order, computed in batches of evaluation.batch_size."""
        left = iter(views)
        while batch := list(islice(left, self._settings.evaluation.batch_size)):
            yield from self._poses(batch, with_heatmaps)

    def _poses(self, views: list[View], with_heatmaps: bool) -> list[Pose]:
        optim, evaluation = self._settings.optim, self._settings.evaluation
        pixels = torch.from_numpy(np.stack([view.image for view in views]))
        if self._device.type == "cuda":
            # From page-locked memory the copy runs beside the host.
            pixels = pixels.pin_memory()
        with torch.inference_mode(), arithmetic(self._fp32):
            images = scaled(pixels, torch.ones(len(views), 3, device=self._device), self._device)
            predicted = self._network(images)
            mirror = self.joint_set.mirror if evaluation.flip_test else None
            maps = predicted_heatmaps(self._network, images, predicted, optim.loss, mirror)[-1]
            with arithmetic("ieee"):
                joints, heights = decode(maps, evaluation.decoding, optim.sigma_px)
        unit = LOSSES[optim.loss].certain(optim.target_peak)
        # One copy from the device, which the host waits for.
        found = torch.cat([joints, heights[..., None]], dim=-1).cpu().numpy().astype(np.float64)
        points, confidence = found[..., :2], found[..., 2] / unit
        kept = (maps.float() / unit).cpu().numpy() if with_heatmaps else None
        return [
            Pose(
                joints=transform(points[row], view.to_photograph),
                confidence=confidence[row],
                heatmaps=None if kept is None else kept[row],
            )
            for row, view in enumerate(views)
        ]


def crop_view(
    image: ImageRGBA, frame: Frame, input_px: int, stored: CropSettings | None = None
) -> View:
    """Crop a photograph to a network input of side `input_px`.

    `stored` is how crops were stored on which the network was evaluated; None: as by default, but
    with no fewer pixels than the input.
    """
    stored = stored or CropSettings(person_px=max(CropSettings().person_px, input_px))
    matrix = input_from_original(frame.center, frame.scale, input_px)
    return View(
        image=pixel_view(image, frame.center, frame.scale, input_px, stored),
        to_photograph=np.linalg.inv(heatmap_from_input() @ matrix),
    )
