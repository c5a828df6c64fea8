"""The plan of a prediction, which is checked before the first picture is read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.photographs.video import count_frames
from pipeline.inference.boxes.files import read_boxes
from pipeline.inference.boxes.matching import MatchedBoxes
from pipeline.inference.results import Failure
from pipeline.inference.sources import MediaFile, find_sources
from pipeline.io.inside import read_whole
from pipeline.run.checkpoint import Weights, check_file, find_weights, weights_name
from pipeline.run.metadata import CheckpointMetadata, read_checksums, read_metadata

_UNREAD = "a kind of picture that is not read; convert it to JPEG, PNG or TIFF"


@dataclass(frozen=True, kw_only=True)
class PredictionPlan:
    """A checkpoint and the pictures to find people in.

    `frames` has the number of each video's frames, `failures` the videos that can't be opened and
    pictures of kinds that are not read. `others` counts files in folders that are no pictures.
    `job` describes the prediction in the folder of its results.
    """

    checkpoint: Path
    metadata: CheckpointMetadata
    sources: Sequence[MediaFile]
    others: int
    frames: dict[Path, int]
    boxes: MatchedBoxes | None
    job: dict[str, Any]
    failures: list[Failure] = field(default_factory=list)


def plan_prediction(
    checkpoint: Path,
    inputs: Sequence[str],
    boxes: Path | None,
    weights: Weights,
    *,
    category: str,
    heatmaps: bool,
    exact: bool,
) -> PredictionPlan:
    """Find pictures, and the boxes of `category`.

    Raises ValueError naming what is missing or can't be read.
    """
    listed = find_sources(inputs)
    if category and not boxes:
        raise ValueError(f"--boxes-category {category} needs a file of --boxes")
    matched = _matched(boxes, category, listed.files) if boxes else None
    metadata, name = read_metadata(checkpoint), weights_name(checkpoint, weights)
    check_file(checkpoint, name)
    frames, failures = _frames(listed.files)
    return PredictionPlan(
        checkpoint=checkpoint,
        metadata=metadata,
        sources=listed.files,
        others=listed.others,
        frames=frames,
        boxes=matched,
        failures=[Failure(file=str(path), why=_UNREAD) for path in listed.unread] + failures,
        job={
            "weights": find_weights(checkpoint, weights),
            "sha256": read_checksums(checkpoint).get(name, ""),
            "boxes": hashlib.sha256(read_whole(boxes)).hexdigest() if boxes else None,
            "boxes_category": category or None,
            "heatmaps": heatmaps,
            "exact": exact,
        },
    )


def _matched(path: Path, category: str, sources: Sequence[MediaFile]) -> MatchedBoxes:
    matched = read_boxes(path, category).matched(source.path for source in sources)
    if not matched.names:
        raise ValueError(
            f"{path}: none of its pictures is among the {len(sources)} inputs, such as "
            f"{sources[0].path.name}; it has {matched.examples()}"
        )
    return matched


def _frames(sources: Sequence[MediaFile]) -> tuple[dict[Path, int], list[Failure]]:
    """Count every video's frames; also return the videos that can't be opened."""
    frames, failures = dict[Path, int](), []
    for source in sources:
        if source.is_video:
            try:
                frames[source.path] = count_frames(source.path)
            except ValueError as error:
                failures.append(Failure(file=str(source.path), why=str(error)))
    return frames, failures
