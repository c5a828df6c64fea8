"""Score stored MPII predictions by PCKh: `python -m jobs.score --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.options import OutFile, write_json
from pipeline.io.console import say
from pipeline.settings.cli import clear_errors, parse

_File = Annotated[Path, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score stored predictions against MPII's validation truth, in original image pixels."""

    predictions: _File
    """A .mat or .h5 file with `preds` of shape (N, 16, 2), in the order of the truth."""
    truth: _File
    """MPII's detections_our_format.mat."""
    json: OutFile = None
    """File for the scores in percent."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        score(arguments)


def score(arguments: Arguments) -> None:
    """Print the table and write the JSON. Raises ValueError naming file, field and shape."""
    from pipeline.data.formats.mpii import read_mpii_predictions, read_mpii_truth
    from pipeline.evaluation.metrics import joint_counts, normalised_errors, scores, table
    from pipeline.pose.joint_sets import MPII

    truth = read_mpii_truth(arguments.truth)
    predictions = read_mpii_predictions(arguments.predictions, people=len(truth.head_sizes))
    errors = normalised_errors(predictions, truth.joints, truth.annotated, truth.head_sizes)
    result = scores(joint_counts(errors), MPII, MPII.measure("pckh"))
    say(f"{len(predictions):,} people of {arguments.truth.name}")
    say(table(result))
    write_json(arguments.json, result.as_dict())


if __name__ == "__main__":
    main()
