"""Measure how fast parts of the pipeline are on this machine: `python -m jobs.benchmark --help`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro

from pipeline.command import clear_errors, parse
from pipeline.progress import duration, say


@dataclass(frozen=True, kw_only=True)
class Loader:
    """The data path: samples/s beside decoding alone, reading alone and the plain route; crops; memory."""

    photographs: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with JPEG photographs of 1280x720 or 1920x1080 pixels; none: they are rendered."""
    rounds: int = 7
    """Times that each route is run, in turns."""
    threads: tuple[int, ...] = ()
    """Numbers of decode threads, and of processes, to measure end to end; none: 1 to this machine's cores."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File for the result."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure how fast parts of the pipeline are on this machine. Needs no cluster."""

    # One kind of subcommand alone would be no choice, so nothing stands beside it.
    what: Annotated[
        Annotated[Loader, tyro.conf.subcommand("loader")] | tyro.conf.Suppress[None],
        tyro.conf.arg(name=""),
    ]


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        assert arguments.what is not None
        benchmark_loader(arguments.what)


def benchmark_loader(arguments: Loader) -> None:
    """Measure, print the tables and write the JSON. Raises ValueError about the photographs."""
    from pipeline.benchmark.loader import LoaderBenchmark, measure_loader
    from pipeline.benchmark.report import loader_report
    from pipeline.benchmark.timing import in_fresh_process

    cores = len(os.sched_getaffinity(0))
    settings = LoaderBenchmark(
        photographs=arguments.photographs,
        rounds=arguments.rounds,
        workers=arguments.threads or tuple(range(1, cores + 1)),
    )
    with TemporaryDirectory() as folder:
        result = in_fresh_process(measure_loader, settings, Path(folder))
    say(f"measured in {duration(result['seconds'])}\n\n{loader_report(result)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        say(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
