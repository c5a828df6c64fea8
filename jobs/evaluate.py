"""Measure a checkpoint on validation shards: `python -m jobs.evaluate --help`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.command import clear_errors, parse
from pipeline.progress import Pace, bar, duration, say

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate a checkpoint: per-joint table, figures and JSON. Needs no cluster."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Checkpoint folder, such as runs/NAME/epoch_0010."""
    val: Annotated[str, tyro.conf.arg(name="data.val")]
    """Validation shards: a glob or comma-separated globs."""
    train: Annotated[str, tyro.conf.arg(name="data.train")] = ""
    """Training shards; with them a constant pose (their mean) is measured beside the network."""
    flip_test: Annotated[
        bool, tyro.conf.arg(name="evaluation.flip-test"), tyro.conf.FlagConversionOff
    ] = True
    """Average the heatmaps with those of the mirrored image."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto: a GPU where there is one."""
    threads: int = 2
    """Threads that decode, and on CPU those that compute."""
    figures: _Folder = None
    """Folder for overlay.png, joints.png and thresholds.png."""
    json: _File = None
    """File for the scores of every measure."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        evaluate_checkpoint(arguments)


def evaluate_checkpoint(arguments: Arguments) -> None:
    """Measure, print, and write what was asked for. Raises ValueError."""
    import torch

    from pipeline.checkpoint import read_record
    from pipeline.evaluation import Evaluator
    from pipeline.metric import table
    from pipeline.shards.index import find_shards

    record = read_record(arguments.checkpoint)
    shards = find_shards("data.val", arguments.val)
    if shards.joint_set.name != record.joint_set:
        raise ValueError(
            f"data.val={arguments.val!r} has the joint set {shards.joint_set.name}, "
            f"{arguments.checkpoint} was trained on {record.joint_set}"
        )
