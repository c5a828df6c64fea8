"""Compare two ways to see a person: with the JPEG of the stored crop, and without."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import Image, cut_crop, cut_frame
from pipeline.data.shards.sample import Sample
from pipeline.data.synthetic.scene import render_scene
from pipeline.evaluation.comparison import interval
from pipeline.evaluation.evaluate import Evaluator, evaluate_people
from pipeline.io.console import say
from pipeline.pose.geometry import crop_from_original, transform
from pipeline.pose.person import Person
from pipeline.run.checkpoint import load_network
from pipeline.settings.packing import CropSettings

Item = TypeVar("Item")
# Quality that stands for a crop stored without loss, as PNG.
_LOSSLESS = 0


@dataclass(frozen=True, kw_only=True)
class ViewsExperiment:
    """Options: the network, how many rendered people, and the ways that crops are stored.

    `scales` are photograph pixels a pixel of the input, `qualities` those of the JPEG.
    """

    checkpoint: Path
    people: int = 500
    first: int = 20_000
    scales: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    qualities: tuple[int, ...] = (90, 95)
    person_px: int = 256


def measure_views(options: ViewsExperiment) -> dict[str, Any]:
    """Return the difference without the JPEG by scale and quality, paired."""
    torch.set_num_threads(1)
    rows = []
    for scale in options.scales:
        for row in _at_scale(options, scale):
            say(_line(row))
            rows.append(row)
    return {"people": options.people, "person_px": options.person_px, "rows": rows}


def _at_scale(options: ViewsExperiment, scale: float) -> Iterator[dict[str, Any]]:
    """Yield the comparison of crops of each quality with those stored without loss."""
    cpu = torch.device("cpu")
    network, metadata = load_network(options.checkpoint, cpu)
    settings, joint_set = metadata.settings, metadata.joint_set
    input_px, stored = settings.model.input_px, CropSettings(person_px=options.person_px)
    measure = joint_set.measure(settings.evaluation.measure)
    members = list(joint_set.in_mean)
    qualities = (_LOSSLESS, *options.qualities)
    squares = {quality: list[float]() for quality in qualities}
    found = {quality: list[np.ndarray]() for quality in qualities}
    # Few at a time, as large photographs take memory.
    for people in _in_parts(_people(options, scale * input_px), 32):
        exact: UInt8[np.ndarray, "person input_px input_px 3"] | None = None
        for quality in qualities:
            samples = [_stored(image, person, stored, quality) for image, person in people]
            loader = SampleLoader(samples, joint_set, input_px)
            evaluator = Evaluator(network=network, loader=loader, settings=settings, device=cpu)
            batch = loader.batch(np.arange(len(samples)))
            images = batch.images.numpy().copy()
            exact = images if exact is None else exact
            squares[quality] += list(((images.astype(float) - exact) ** 2).mean(axis=(1, 2, 3)))
            _, results = evaluate_people(evaluator.predict([batch]), loader)
            found[quality].append(results.errors[measure.key][:, members])
    errors = {quality: np.concatenate(parts) for quality, parts in found.items()}
    for quality in options.qualities:
        rms = float(np.sqrt(np.mean(squares[quality])))
        yield {"scale": scale, "quality": quality, "rms": rms} | {
            f"@{threshold:g}": _compared(errors[quality], errors[_LOSSLESS], threshold)
            for threshold in measure.thresholds
        }


def _in_parts(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while part := list(islice(items, size)):
        yield part


def _compared(
    stored: Float[np.ndarray, "person joint"],
    exact: Float[np.ndarray, "person joint"],
    threshold: float,
) -> tuple[float, float, float, float]:
    """Return the accuracy with the JPEG, and how much that without differs, with its interval."""
    annotated, right = (~np.isnan(stored)).sum(axis=1), (stored <= threshold).sum(axis=1)
    gained = (exact <= threshold).sum(axis=1) - right
    accuracy = 100 * float(right.sum() / annotated.sum())
    return accuracy, *interval(gained, annotated, np.arange(len(gained)))


def _people(options: ViewsExperiment, side: float) -> Iterator[tuple[Image, Person]]:
    """Yield the first person of each scene, whose frame has a side of `side` pixels."""
    for number in range(options.first, options.first + options.people):
        scene, (person, *_) = render_scene(0, number)
        factor = side / (200 * person.scale)
        height, width = scene.shape[:2]
        size = max(1, round(width * factor)), max(1, round(height * factor))
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        matrix = crop_from_original(0, 0, size[0] / width, size[1] / height)
        joints = transform(np.array(person.joints), matrix)
        x, y = transform(np.array([person.center]), matrix)[0].tolist()
        yield (
            cv2.resize(scene, size, interpolation=way),
            replace(
                person,
                joints=tuple((x, y) for x, y in joints.tolist()),
                center=(x, y),
                scale=person.scale * factor,
                head_size=person.head_size and person.head_size * factor,
                image_size=size,
            ),
        )


def _stored(image: Image, person: Person, stored: CropSettings, quality: int) -> Sample:
    if quality != _LOSSLESS:
        crop = cut_crop(image, person, replace(stored, jpeg_quality=quality))
        return Sample(person=person, crop=crop)
    crop = cut_crop(image, person, stored)
    cut = cut_frame(image, person.center, person.scale, stored)
    assert cut is not None, "a rendered person is on the picture"
    done, data = cv2.imencode(".png", cv2.cvtColor(cut.pixels, cv2.COLOR_RGB2BGR))
    assert done, "OpenCV encodes any array of bytes"
    return Sample(person=person, crop=replace(crop, jpeg=data.tobytes()))


def _line(row: Mapping[str, Any]) -> str:
    found = ", ".join(
        f"{name} {value[0]:.2f} {value[1]:+.2f} ({value[2]:+.2f} to {value[3]:+.2f})"
        for name, value in row.items()
        if name.startswith("@")
    )
    place = f"{row['scale']:g} pixels an input pixel, JPEG {row['quality']}"
    return f"{place}: rms {row['rms']:.2f} of 255, {found}"


def views_report(result: Mapping[str, Any]) -> str:
    """Return the differences as lines: without the JPEG minus with it, in points."""
    return "\n".join(_line(row) for row in result["rows"])
