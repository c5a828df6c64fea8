"""Cost of stored crops by size and quality, and their accuracy against the photograph."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Bool, UInt8

from jobs.benchmark.loader.photographs import cut_people, with_photographs
from jobs.benchmark.loader.variants import INPUT_PX
from jobs.benchmark.timing import Run, measure, speed
from pipeline.data.augmentation import Augmentation, draw_augmentations
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import Image
from pipeline.data.shards.sample import Sample
from pipeline.pose.geometry import Matrix, crop_from_original, transform
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person
from pipeline.settings import DataSettings
from pipeline.settings.packing import CropSettings

Pixels = UInt8[np.ndarray, "px px 3"]
Mask = Bool[np.ndarray, "px px"]

CROPS = (
    *(
        CropSettings(person_px=person_px, margin=2.0, jpeg_quality=jpeg_quality)
        for person_px in (192, 256, 320, 384)
        for jpeg_quality in (80, 85, 90, 95)
    ),
    CropSettings(person_px=256, margin=1.5, jpeg_quality=95),
)
# Pixels of the reference along the side of a pixel of the input.
_SUPERSAMPLING = 4


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A network input straight from the photograph; `inside` masks pixels on the photograph."""

    how: Augmentation
    pixels: Pixels
    inside: Mask


def curve(
    folder: Path, people: Sequence[Person], crops: Sequence[CropSettings], rounds: int
) -> list[dict[str, Any]]:
    """Return bytes, decoding samples/s, dB and share of missing pixels of each kind of crop."""
    loader = SampleLoader([], MPII, INPUT_PX)
    cut = [cut_people(folder, people, crop) for crop in crops]
    references = _references(loader, folder, cut[0])
    rows: list[dict[str, Any]] = []
    variants: dict[str, Run] = {}
    for crop, samples in zip(crops, cut, strict=True):
        jpegs = [sample.crop.jpeg for sample in samples]
        rows.append(
            {
                "person_px": crop.person_px,
                "margin": crop.margin,
                "jpeg_quality": crop.jpeg_quality,
                "bytes": float(np.mean([len(jpeg) for jpeg in jpegs])),
            }
            | _accuracy(loader, samples, references)
        )
        variants[str(len(variants))] = partial(_decode, jpegs)
    timings = measure("decoding the kinds of crops", variants, rounds)
    return [
        row | {"decode_samples_per_s": speed(found)["samples_per_s"]}
        for row, found in zip(rows, timings.values(), strict=True)
    ]


def psnr(ours: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of 8-bit values in dB; infinite if they are equal."""
    error = np.mean((ours.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def inside(matrix: Matrix, width: int, height: int, input_px: int) -> Mask:
    """Mask the pixels of an input whose middle is on the image that `matrix` maps to it."""
    along = np.arange(float(input_px))
    column, row = np.meshgrid(along, along)
    points = transform(np.stack([column, row], axis=-1), np.linalg.inv(matrix))
    # A thousandth of a pixel for rounding.
    beyond = np.array([width, height]) - 0.5 + 1e-3
    return np.all((points >= -0.5 - 1e-3) & (points <= beyond), axis=-1)


def _references(loader: SampleLoader, folder: Path, samples: Sequence[Sample]) -> list[Reference]:
    found: dict[int, Reference] = {}
    for number, photograph in with_photographs(folder, [sample.person for sample in samples]):
        [how] = draw_augmentations(DataSettings(), 0, np.array([number]))
        matrix = loader.input_from_original(samples[number], how)
        height, width = photograph.shape[:2]
        found[number] = Reference(
            how=how,
            pixels=_supersampled(photograph, matrix),
            inside=inside(matrix, width, height, INPUT_PX),
        )
    return [found[number] for number in range(len(samples))]


def _supersampled(photograph: Image, matrix: Matrix) -> Pixels:
    """Warp so that every pixel is the mean of its area; a single sample would alias."""
    side = _SUPERSAMPLING * INPUT_PX
    enlarged = crop_from_original(0, 0, _SUPERSAMPLING, _SUPERSAMPLING) @ matrix
    fine = cv2.warpAffine(photograph, enlarged[:2], (side, side), flags=cv2.INTER_LINEAR)
    return cv2.resize(fine, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA)


def _accuracy(
    loader: SampleLoader, samples: Sequence[Sample], references: Sequence[Reference]
) -> dict[str, float]:
    """Return mean PSNR where the photograph has pixels, and the share that crops lack."""
    pixels = np.empty((INPUT_PX, INPUT_PX, 3), np.uint8)
    found, wanted, missing = [], 0, 0
    for sample, reference in zip(samples, references, strict=True):
        loader.load(sample, reference.how, pixels)
        matrix = loader.input_from_original(sample, reference.how)
        height, width, *_ = simplejpeg.decode_jpeg_header(sample.crop.jpeg)
        from_crop = matrix @ np.linalg.inv(sample.crop.from_original)
        held = inside(from_crop, width, height, INPUT_PX)
        found.append(psnr(pixels[reference.inside], reference.pixels[reference.inside]))
        wanted += int(reference.inside.sum())
        missing += int((reference.inside & ~held).sum())
    return {"psnr_db": float(np.mean(found)), "missing_share": missing / wanted}


def _decode(jpegs: Sequence[bytes]) -> int:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg, "RGB")
    return len(jpegs)
