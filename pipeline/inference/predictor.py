"""Prediction: from photographs and where people are in them to joints, as a checkpoint is evaluated. Knows neither Ray nor MLflow."""

import io
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image as PillowImage

from pipeline.data.batch import scaled
from pipeline.data.shards.crop import CropDecoder, ImageRGBA, warp
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

# A photograph of more takes over 320 MB to decode, and is rather an attack or a slip.
_MOST_PIXELS = 80_000_000
# Tag of EXIF.
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the network sees of a photograph: the square of side 200 * scale pixels around `center`.

    Raises ValueError if a number is not finite, or the scale not positive.
    """

    center: tuple[float, float]
    scale: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.center, self.scale))) or self.scale <= 0:
            raise ValueError(
                f"a frame needs a finite center and a scale above 0, got {self.center} and {self.scale}"
            )

    @classmethod
    def of_box(cls, x: float, y: float, width: float, height: float) -> Self:
        """The frame of a person's box (left, top, width, height), a quarter wider than its longer side."""
        if not (width > 0 and height > 0):
            raise ValueError(f"a box must have width and height above 0, got {width} and {height}")
        center, scale = frame_box((x, y, width, height))
        return cls(center=center, scale=scale)

    @classmethod
    def of_whole(cls, image: ImageRGBA) -> Self:
        """The frame of a photograph that one person fills."""
        height, width = image.shape[:2]
        return cls.of_box(0, 0, width, height)


@dataclass(frozen=True, kw_only=True)
class View:
    """One person as the network sees it, and the matrix that takes heatmap pixels to the photograph's."""

    image: UInt8[np.ndarray, "input_px input_px 3"]
    to_photograph: Matrix


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One person's joints in the photograph's pixels, the first one's centre at 0, in the order of the joint set.

    `confidence` is each heatmap's height at its joint, as a share of the
    training target's; with optim.loss=cross-entropy its highest pixel's probability.
    `heatmaps`, where they were asked for, are in these units too.
    """

    joints: Float[np.ndarray, "joint 2"]
    confidence: Float[np.ndarray, " joint"]
    heatmaps: Float[np.ndarray, "joint height width"] | None = None


class Predictor:
    """A checkpoint's network at work, with the flip test and decoding of its settings. Raises ValueError as `load_network`.

    A CPU that multiplies bf16 predicts in it, unless `exact`: so evaluation
    does. docs/benchmarks.md has the effect on joints.
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
        self._settings, self._device = metadata.settings, device
        self._decoder = CropDecoder()
        self.joint_set = metadata.joint_set

    def read(self, photograph: bytes) -> ImageRGBA:
        """Decode a photograph as `read_photograph`; valid until the next."""
        return read_photograph(photograph, self._decoder)

    def view(self, image: ImageRGBA, frame: Frame) -> View:
        """What the network is to see of a photograph."""
        return crop_view(image, frame, self._settings.model.input_px)

    def predict(self, views: Iterable[View], with_heatmaps: bool = False) -> Iterator[Pose]:
        """Yield the pose of each view, in order, computed evaluation.batch_size at a time."""
        left = iter(views)
        while batch := list(islice(left, self._settings.evaluation.batch_size)):
            yield from self._poses(batch, with_heatmaps)

    def _poses(self, views: list[View], with_heatmaps: bool) -> list[Pose]:
        optim, evaluation = self._settings.optim, self._settings.evaluation
        pixels = torch.from_numpy(np.stack([view.image for view in views]))
        with torch.inference_mode():
            images = scaled(pixels, torch.ones(len(views), 3), self._device)
            predicted = self._network(images)
            mirror = self.joint_set.mirror if evaluation.flip_test else None
            maps = predicted_heatmaps(self._network, images, predicted, optim.loss, mirror)[-1]
            joints, heights = decode(maps, evaluation.decoding, optim.sigma_px)
        unit = LOSSES[optim.loss].certain(optim.target_peak)
        confidence = heights.double().cpu().numpy() / unit
        points = joints.double().cpu().numpy()
        kept = (maps.float() / unit).cpu().numpy() if with_heatmaps else None
        return [
            Pose(
                joints=transform(points[row], view.to_photograph),
                confidence=confidence[row],
                heatmaps=None if kept is None else kept[row],
            )
            for row, view in enumerate(views)
        ]


def crop_view(image: ImageRGBA, frame: Frame, input_px: int) -> View:
    """What a network with inputs of side `input_px` is to see of a photograph."""
    matrix = input_from_original(frame.center, frame.scale, input_px)
    seen = np.empty((input_px, input_px, 3), np.uint8)
    warp(image, matrix, np.empty((input_px, input_px, 4), np.uint8), seen)
    return View(image=seen, to_photograph=np.linalg.inv(heatmap_from_input() @ matrix))


def read_photograph(data: bytes, decoder: CropDecoder) -> ImageRGBA:
    """Decode a JPEG, PNG or other image, turned upright as EXIF says it is held, which is how it is shown.

    Valid until the decoder's next. Raises ValueError if it is none, is
    damaged, or has more than 80 million pixels.
    """
    orientation = _orientation(data)
    return _upright(decoder.decode(data), orientation)


def _upright(
    image: ImageRGBA, orientation: int
) -> UInt8[np.ndarray, "upright_height upright_width 4"]:
    """Turn and mirror an image that is stored in one of the eight orientations of EXIF 2.3 (tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    # By now rows are rows and columns are columns; what begins at the other end is reversed.
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::right])


def _orientation(data: bytes) -> int:
    """EXIF's orientation of an image that has not too many pixels. Raises ValueError if it has, or is no image."""
    try:
        with warnings.catch_warnings():
            # The number of pixels is judged by our own limit.
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(io.BytesIO(data)) as image:
                width, height = image.size
                # A PNG's may stand at its end, so that all of it is decoded for it.
                is_small = width * height <= _MOST_PIXELS
                orientation = image.getexif().get(_ORIENTATION, 1) if is_small else 1
    except PillowImage.DecompressionBombError as error:
        raise ValueError(f"an image of too many pixels: {error}") from None
    except (OSError, SyntaxError, ValueError):
        raise ValueError(f"not a readable image ({len(data):,} bytes)") from None
    if not is_small:
        raise ValueError(
            f"an image of {width} x {height} pixels, expected at most {_MOST_PIXELS:,} in all"
        )
    return orientation
