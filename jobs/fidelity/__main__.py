"""Repeat an experiment of docs/fidelity.md: `python -m jobs.fidelity --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs.options import OutFile, write_json
from pipeline.io.console import say_text
from pipeline.settings.cli import clear_errors, parse

Experiment = Literal[
    "views", "starts", "target", "average", "norms", "precision", "inside", "warnings"
]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Repeat an experiment of docs/fidelity.md on one CPU, without Ray and MLflow.

    views compares prediction with evaluation of packed crops, on rendered people. The others train
    variants of a small network from several seeds.
    """

    experiment: tyro.conf.Positional[Experiment]
    """Name of the experiment."""
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """For views: the checkpoint of a network with MPII's joints."""
    people: int = 500
    """For views: rendered people."""
    train: str = ""
    """For the others: training shards, in the form of data.train."""
    val: str = ""
    """For the others: validation shards."""
    seeds: int = 3
    """For the others: seeds of the initial weights."""
    epochs: int = 0
    """For the others: passes over the training shards; 0: the experiment's own."""
    json: OutFile = None
    """File for the result."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        result, report = repeat(arguments)
        say_text(report)
        write_json(arguments.json, result)


def repeat(arguments: Arguments) -> tuple[dict[str, object], str]:
    """Return an experiment's result and its table. Raises ValueError about the options."""
    if arguments.experiment == "views":
        from jobs.fidelity.views import ViewsExperiment, measure_views, views_report

        if arguments.checkpoint is None:
            raise ValueError("--checkpoint is required for views")
        views = ViewsExperiment(checkpoint=arguments.checkpoint, people=arguments.people)
        result = measure_views(views)
        return result, views_report(result)
    from jobs.fidelity.recipes import RecipesExperiment, measure_recipes, recipes_report

    result = measure_recipes(
        RecipesExperiment(
            name=arguments.experiment,
            train=arguments.train,
            val=arguments.val,
            seeds=arguments.seeds,
            epochs=arguments.epochs,
        )
    )
    return result, recipes_report(result)


if __name__ == "__main__":
    main()
