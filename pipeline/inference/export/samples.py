"""People to check an exported file on: photographed, packed, or rendered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob

import numpy as np

from pipeline.data.loader import shard_loader
from pipeline.data.photographs.pixels import read_photograph
from pipeline.data.shards.crop import CropDecoder, ImageRGBA
from pipeline.data.synthetic.scene import render_scene
from pipeline.inference.predictor import Frame, crop_view
from pipeline.inference.sources import find_sources
from pipeline.io.inside import read_whole
from pipeline.io.redaction import redacted
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.shapes import UInt8

# Number of people; a check is not an evaluation.
MOST = 16


@dataclass(frozen=True, kw_only=True)
class People:
    """Network inputs, and a description of their source."""

    images: UInt8[np.ndarray, "person input_px input_px 3"]
    source: str


def of_photographs(places: Sequence[str], input_px: int) -> People:
    """Return the first photographs of files, folders or globs, each filled by one person.

    Raises ValueError naming a place without images, or a file that is not an image.
    """
    sources = find_sources(places, "--photographs").files
    files = [source.path for source in sources if not source.is_video][:MOST]
    if not files:
        raise ValueError(f"--photographs {' '.join(places)}: only videos, expected photographs")
    decoder = CropDecoder()
    seen = []
    for file in files:
        data = read_whole(file)
        try:
            image = read_photograph(data, decoder).image
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        seen.append(crop_view(image, Frame.of_whole(image), input_px).image)
    return People(images=np.stack(seen), source=f"{len(seen)} photographs")


def of_shards(setting: str, pattern: str, joint_set: JointSet, input_px: int) -> People:
    """Return the first people of packed shards. Raises ValueError as `shard_loader`."""
    loader = shard_loader(setting, pattern, joint_set, input_px)
    count = min(MOST, len(loader.samples))
    images = loader.batch(np.arange(count)).images.numpy()
    return People(images=images, source=f"{count} people of {setting}={redacted(pattern)}")


def is_here(pattern: str) -> bool:
    """Return whether all comma-separated globs of shards match local files."""
    return all(glob(part.strip()) for part in pattern.split(","))


def rendered(input_px: int) -> People:
    """Return rendered people, for use without photographs."""
    seen = [crop_view(image, frame, input_px).image for image, frame in _drawn()]
    return People(images=np.stack(seen), source=f"{len(seen)} rendered people, no photographs")


def _drawn() -> Iterator[tuple[ImageRGBA, Frame]]:
    for index in range(MOST):
        image, (person, *_) = render_scene(0, index)
        opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
        frame = Frame(center=person.center, scale=person.scale)
        yield np.concatenate([image, opaque], axis=2), frame
