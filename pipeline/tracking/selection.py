"""The runs that a user wants to see in MLflow's interface, and the page that shows them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.io.installation import command
from pipeline.io.redaction import redacted
from pipeline.run.journal import JOURNAL_NAME
from pipeline.run.layout import SWEEP_NAME
from pipeline.run.plan import tracking_uri
from pipeline.run.storage import folders_here, shown
from pipeline.tracking.client import recorded_uri
from pipeline.tracking.links import comparison_page, experiment_page, recorded_runs, run_page
from pipeline.tracking.lookup import reach_store
from pipeline.tracking.runs import Run, children_of, find_runs, newest_run
from pipeline.tracking.sync_state import SyncPosition, last_position
from pipeline.tracking.views import view_of


def store_of(names: Sequence[str], storage: str, given: str) -> str:
    """Return the URI of the store to show: `given`, else that of the first name's folder, if any.

    Otherwise it is the default. Raises ValueError as `recorded_uri` and if a database does not
    exist, or AwayError if a server does not answer.
    """
    found = () if given else (_folder(name, storage) for name in names)
    folder = next(filter(None, found), None)
    position = None if folder is None else last_position(folder)
    uri = (
        tracking_uri(given)
        if folder is None or position is None
        else recorded_uri(position.uri, folder, "--tracking.uri")
    )
    reach_store(uri)
    return uri


def selected(names: Sequence[str], storage: str, uri: str) -> list[SyncPosition]:
    """Return the runs that `names` name, and the trials in place of a sweep, each once.

    A name is a folder, also one in a bucket, that of a run in `storage`, or the name or id of a run
    in MLflow at `uri`. Without names it is the newest run, if any. Raises ValueError if MLflow does
    not have one.
    """
    if not names:
        newest = newest_run(uri)
        return [] if newest is None else [_position(newest)]
    found = [position for name in names for position in _named(name, storage, uri)]
    return list({position.run_id: position for position in found}.values())


def page_of(names: Sequence[str], runs: Sequence[SyncPosition], uri: str) -> str:
    """Return the page of the runs that `names` selected; empty if there is none at all.

    Without names it is that of the experiment, in its view of scores if it has one.
    """
    if not runs:
        return ""
    if not names:
        ids = {"experiment_id": runs[0].experiment_id, "run_id": runs[0].run_id}
        return experiment_page(runs[0], view_of(Run(uri=uri, **ids)))
    return run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)


def _folder(name: str, storage: str) -> Path | None:
    """Return the folder of the run or sweep that a name or the folder of a checkpoint means."""
    for folder in folders_here(name, storage):
        for place in (folder, folder.parent):
            if folder.is_dir() and ((place / JOURNAL_NAME).exists()):
                return place
    return None


def _named(name: str, storage: str, uri: str) -> list[SyncPosition]:
    folder = _folder(name, storage)
    if folder is not None:
        trials = sorted(folder.glob(f"*/{JOURNAL_NAME}")) if (folder / SWEEP_NAME).exists() else []
        places = recorded_runs([path.parent for path in trials]) or recorded_runs([folder])
        here = [place for place in places if redacted(place.uri) == redacted(uri)]
        if not here:
            raise ValueError(
                f"RUN={name!r}: MLflow at {redacted(uri)} does not have it yet; to send it: "
                f"{shlex.join([*command('jobs.deliver'), shown(folder)])}"
            )
        return here
    runs = find_runs(uri, name)
    if len(runs) != 1:
        ids = ", ".join(sorted(run.run_id for run in runs))
        known = f"{len(runs)} runs are called so: {ids}" if runs else "no run is called so"
        raise ValueError(
            f"RUN={name!r}: no folder of a run, none of this name in {storage}, and in MLflow at "
            f"{redacted(uri)} {known}; expected the folder, the name or the id of one"
        )
    return [_position(run) for run in children_of(runs[0]) or runs]


def _position(run: Run) -> SyncPosition:
    return SyncPosition(uri=redacted(run.uri), experiment_id=run.experiment_id, run_id=run.run_id)
