"""Score stored predictions, MPII's by PCKh, COCO's by OKS: `python -m jobs.score --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.options import OutFile, write_json
from pipeline.io.console import say, say_text
from pipeline.settings.cli import clear_errors, parse

_File = Annotated[Path, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score stored predictions against the truth, in original image pixels.

    MPII's validation people by PCKh, COCO's annotations by average precision (OKS).
    """

    predictions: _File
    """MPII: a .mat or .h5 file with `preds` of shape (N, 16, 2), in the order of the truth.
    COCO: a .json file of keypoint results."""
    truth: _File
    """MPII's detections_our_format.mat, or a COCO annotation file (.json)."""
    joint_set: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Joint-set file with the OKS sigmas of joints that are not COCO's."""
    json: OutFile = None
    """File for the scores in percent."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        score(arguments)


def score(arguments: Arguments) -> None:
    """Print the table and write the JSON. Raises ValueError naming file, field and shape."""
    if ".json" in arguments.truth.suffixes:
        _score_coco(arguments)
    else:
        _score_mpii(arguments)


def _score_mpii(arguments: Arguments) -> None:
    from pipeline.data.formats.mpii import read_mpii_predictions, read_mpii_truth
    from pipeline.evaluation.metrics import joint_counts, normalised_errors, scores, table
    from pipeline.pose.joint_sets import MPII

    if arguments.joint_set:
        raise ValueError("--joint-set: only COCO's files are scored with a joint set's sigmas")
    truth = read_mpii_truth(arguments.truth)
    predictions = read_mpii_predictions(arguments.predictions, people=len(truth.head_sizes))
    errors = normalised_errors(predictions, truth.joints, truth.annotated, truth.head_sizes)
    result = scores(joint_counts(errors), MPII, MPII.measure("pckh"))
    say(f"{len(predictions):,} people of {arguments.truth.name}")
    say_text(table(result))
    write_json(arguments.json, result.as_dict())


def _score_coco(arguments: Arguments) -> None:
    import numpy as np

    from pipeline.data.formats.coco_truth import read_coco_results, read_coco_truth
    from pipeline.evaluation.oks import average_precision, match, precision_table
    from pipeline.pose.joint_file import read_joint_file

    given = read_joint_file(arguments.joint_set).joint_set if arguments.joint_set else None
    truth = read_coco_truth(arguments.truth, given)
    detected = read_coco_results(arguments.predictions, truth)
    matches = match(truth.people, detected, np.array(truth.sigmas))
    found = average_precision(matches)
    counts = {
        "images": len(truth.images),
        "people": int(matches.people[0].sum()),
        "detections": len(detected.scores),
    }
    for note in truth.notes:
        say(note)
    say(
        f"{counts['detections']:,} detections of {counts['people']:,} people in "
        f"{counts['images']:,} images of {arguments.truth.name}"
    )
    say_text(precision_table(found))
    write_json(arguments.json, {"measure": "oks", **counts, **found.as_dict()})


if __name__ == "__main__":
    main()
