"""Send to MLflow what runs recorded while it was away: `python -m jobs.deliver --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.io.console import say
from pipeline.io.location import is_store
from pipeline.io.redaction import redacted
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.storage import shown
from pipeline.settings.cli import clear_errors, fail, parse
from pipeline.tracking.sync_state import Backlog, counted


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Send journal entries of runs that MLflow does not have yet."""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN_FOLDER ...")]]
    """Folders of runs: RAY.STORAGE/RAY.NAME, also in a bucket (s3://, gs://, az://)."""
    tracking_uri: str = ""
    """MLflow tracking URI; empty: the one of the run's start, otherwise MLFLOW_TRACKING_URI."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        if not arguments.runs:
            raise ValueError("RUN_FOLDER is required: the folder of a run, RAY.STORAGE/RAY.NAME")
        runs = list(map(folder_of, arguments.runs))
        uris = [uri_of(run, arguments.tracking_uri) for run in runs]
        left = [deliver(run, uri) for run, uri in zip(runs, uris, strict=True)]
    if any(left):
        fail("\n".join(str(lacking) for lacking in left if lacking))


def folder_of(run: str) -> Path:
    """Return the folder of a run; one in a bucket is brought here, with its weights."""
    if not is_store(run):
        return Path(run)
    from pipeline.run.storage import fetch

    found = fetch(run.rstrip("/"), "", is_light=False)
    if found is None:
        raise ValueError(f"{redacted(run)}: no run there, expected RAY.STORAGE/RAY.NAME")
    return found


def deliver(run: Path, uri: str) -> Backlog:
    """Deliver one run's entries and print their number. Returns what MLflow still lacks.

    Raises ValueError if a file of the folder is damaged.
    """
    from pipeline.tracking.client import AwayError
    from pipeline.tracking.recording import end_abandoned
    from pipeline.tracking.sync import JournalSync

    if end_abandoned(run):
        say(f"{shown(run)}: its driver ended without recording it; the run is marked as KILLED")
    delivery, reason = JournalSync(run, uri), ""
    try:
        delivery.deliver()
    except AwayError as error:
        reason = str(error)
    say(f"{shown(run)}: sent {counted(delivery.sent)} to {redacted(uri)}")
    return delivery.backlog(reason)


def uri_of(run: Path, given: str) -> str:
    """Return the URI to deliver a run to: `given`, otherwise the run's own.

    Raises ValueError if the folder has no journal, if the recorded URI lacks its secrets, or if
    its server would get a password that is not for it.
    """
    from pipeline.run.plan import tracking_uri
    from pipeline.tracking.client import recorded_uri

    journal = Journal(run)
    starts = [entry.content for entry in journal.entries() if entry.kind == "run"]
    if not starts:
        raise ValueError(f"{run} must be the folder of a run that has started: no {JOURNAL_NAME}")
    recorded = starts[-1]["uri"]
    if given or not recorded:
        return tracking_uri(given)
    return recorded_uri(recorded, journal.path, "--tracking-uri")


if __name__ == "__main__":
    main()
