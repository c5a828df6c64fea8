"""Prediction of joints in photographs, computed as in evaluation."""

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

# More would take over 320 MB to decode, and is probably an attack or a mistake.
_MOST_PIXELS = 80_000_000
# EXIF tag.
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A person's square in a photograph, of side 200 * scale pixels around `center`.

    Raises ValueError if a number is not finite, or the scale not positive.
    """

    center: tuple[float, float]
    scale: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.center, self.scale))) or self.scale <= 0:
            raise ValueError(
                "a frame needs a finite center and a scale above 0, "
                f"got {self.center} and {self.scale}"
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

    A CPU that multiplies bf16 predicts in bf16 (docs/benchmarks.md has the effect on joints);
    with `exact` in fp32, as evaluation does. Raises ValueError as `load_network`.
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
        """Decode a photograph as `read_photograph`; valid until the next call."""
        return read_photograph(photograph, self._decoder)

    def view(self, image: ImageRGBA, frame: Frame) -> View:
        """Crop a photograph to the network's input."""
        return crop_view(image, frame, self._settings.model.input_px)

    def predict(self, views: Iterable[View], with_heatmaps: bool = False) -> Iterator[Pose]:
        """Yield the pose of each view in order, computed in batches of evaluation.batch_size."""
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
    """Crop a photograph to a network input of side `input_px`."""
    matrix = input_from_original(frame.center, frame.scale, input_px)
    seen = np.empty((input_px, input_px, 3), np.uint8)
    warp(image, matrix, np.empty((input_px, input_px, 4), np.uint8), seen)
    return View(image=seen, to_photograph=np.linalg.inv(heatmap_from_input() @ matrix))


def read_photograph(data: bytes, decoder: CropDecoder) -> ImageRGBA:
    """Decode a JPEG, PNG or other image, and turn it upright by its EXIF orientation.

    The result is valid until the decoder's next. Raises ValueError if the data are not an image,
    are damaged, or have more than 80 million pixels.
    """
    orientation = _orientation(data)
    return _upright(decoder.decode(data), orientation)


def _upright(
    image: ImageRGBA, orientation: int
) -> UInt8[np.ndarray, "upright_height upright_width 4"]:
    """Turn and mirror an image from one of the eight orientations of EXIF 2.3."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    # Rows and columns are in place by now, and may still be reversed.
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::right])


def _orientation(data: bytes) -> int:
    """Return the EXIF orientation. Raises ValueError for too many pixels, or none."""
    try:
        with warnings.catch_warnings():
            # _MOST_PIXELS is the limit here.
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(io.BytesIO(data)) as image:
                width, height = image.size
                # A PNG may have it at the end, so that reading it decodes the whole image.
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
