"""People in the boxes of a detector, predicted on photographs whose people are annotated."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.formats.coco_truth import CocoTruth, DetectedPeople
from pipeline.data.photographs.files import find_photographs
from pipeline.inference.batch_predictor import Estimator, Options
from pipeline.inference.boxes.files import read_boxes
from pipeline.inference.boxes.matching import MatchedBoxes
from pipeline.inference.results import Part
from pipeline.inference.sources import find_sources
from pipeline.io.parsing import Identifier


@dataclass(frozen=True, kw_only=True)
class DetectedBoxes:
    """Boxes of photographs, each photograph with its number in the truth; `notes` to print."""

    boxes: MatchedBoxes
    images: dict[Path, int]
    notes: tuple[str, ...]


def match_boxes(path: Path, truth: CocoTruth, folder: Path) -> DetectedBoxes:
    """Find the truth's photographs below a folder, and the boxes of each by image id or name.

    Raises ValueError where a photograph is missing, the boxes are of none of them, or the truth
    has several categories.
    """
    if len(truth.categories) > 1:
        raise ValueError(
            f"--truth has {len(truth.categories)} categories of people, expected one, since boxes "
            "don't tell which of them a person is"
        )
    if not folder.is_dir():
        raise ValueError(f"--images {folder}: no such folder")
    if len(set(truth.files.values())) < len(truth.images):
        raise ValueError(
            f"--truth names {len(set(truth.files.values())):,} files for {len(truth.images):,} "
            "images, expected a file_name of its own for each"
        )
    found = find_photographs(folder, truth.files.values())
    if found.missing:
        raise ValueError(
            f"--images {folder} lacks {len(found.missing):,} of the {len(truth.images):,} images "
            f"of --truth, such as {next(iter(found.missing))}"
        )
    paths: dict[Identifier, Path] = {
        number: folder / found.paths[name] for number, name in truth.files.items()
    }
    boxes = read_boxes(path)
    matched = boxes.matched(paths.values())
    # Detections have no names of images, but the ids that the truth gives them.
    by_id = {file: number for number, file in paths.items() if (number, None) in boxes.places}
    names = {**matched.names, **by_id}
    if not names:
        raise ValueError(f"--boxes {path}: none of its boxes is of an image of --truth")
    ignored = tuple(f"{count:,} entries of {path}: {why}" for why, count in boxes.left_out.items())
    others = len({name for name, _ in boxes.places} - set(names.values()))
    return DetectedBoxes(
        boxes=replace(matched, names=names),
        images={file: truth.images[number] for number, file in paths.items()},
        notes=(*ignored, *([f"boxes of {others:,} other images are ignored"] if others else [])),
    )


def predict_boxes(
    checkpoint: Path, detected: DetectedBoxes, options: Options, joints: int
) -> DetectedPeople:
    """Predict the joints of everyone in a box; a score is the box's times the mean confidence.

    Raises ValueError naming a photograph that can't be read.
    """
    files = [str(path) for path in detected.boxes.names]
    sources = find_sources(files, "--images").files
    found = Estimator(checkpoint, replace(options, boxes=detected.boxes)).estimate(
        Part(sources=sources)
    )
    for failure in found.failures:
        raise ValueError(f"{failure.file}: {failure.why}")
    people = [
        (detected.images[Path(estimate.file)], person)
        for estimate in found.estimates
        for person in estimate.people
    ]
    scores = [
        person.confidence * (1.0 if person.score is None else person.score) for _, person in people
    ]
    return DetectedPeople(
        images=np.array([image for image, _ in people], np.int64),
        categories=np.zeros(len(people), np.int64),
        joints=np.array([person.joints for _, person in people], np.float64).reshape(
            len(people), joints, 3
        )[..., :2],
        scores=np.array(scores, np.float64),
    )
