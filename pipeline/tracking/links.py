"""Links to pages of the MLflow UI, which lie behind the # of its address."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.io.installation import command
from pipeline.io.redaction import redacted
from pipeline.run.storage import shown
from pipeline.tracking.sync_state import SyncPosition, last_position

# Schemes that MLflow reads itself, without a server.
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file")
# Otherwise the interface shows what it has for language models around the page.
_TRAINING = "workflowType=machine_learning"
# More runs than these make a page that a browser draws slowly, and a long address.
MOST_COMPARED = 50


def run_page(run: SyncPosition) -> str:
    """Return the page of a run."""
    return f"experiments/{run.experiment_id}/runs/{run.run_id}"


def experiment_page(run: SyncPosition, view: str = "") -> str:
    """Return the page that lists the runs of a run's experiment, in a saved view if given."""
    page = f"experiments/{run.experiment_id}/runs"
    return f"{page}?viewStateShareKey={quote(view, safe='')}" if view else page


def comparison_page(runs: Sequence[SyncPosition]) -> str:
    """Return the page that compares the first `MOST_COMPARED` runs."""
    shown = runs[:MOST_COMPARED]
    ids = [run.run_id for run in shown]
    experiments = list(dict.fromkeys(run.experiment_id for run in shown))
    return f"compare-runs?runs={_listed(ids)}&experiments={_listed(experiments)}"


def _listed(ids: Sequence[str]) -> str:
    """Format ids as JSON in a query; terminals would end a link at its quotation marks."""
    return quote(json.dumps(ids, separators=(",", ":")), safe="")


def how_to_open(uri: str, page: str, names: Sequence[str]) -> str:
    """Return the link to a page at `uri`, or for a database the command that opens `names`."""
    if is_server(uri):
        return link(uri, page)
    return shlex.join([*command("jobs.ui"), *names])


def link(uri: str, page: str) -> str:
    """Return the link to a page of the server at `uri`, without user and password."""
    shown = redacted(uri)
    if not uri.startswith(("http://", "https://")):
        return f"open the workspace of {shown}"
    parts = urlsplit(shown)
    host = parts.netloc.rpartition("@")[2]
    place = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/"
    return f"{place}#/{page}{'&' if '?' in page else '?'}{_TRAINING}" if page else place


def is_server(uri: str) -> bool:
    """Whether a URI belongs to a server, not to a database or a folder."""
    scheme = re.split("[:+]", uri, maxsplit=1)[0]
    return scheme not in _STORES


def recorded_runs(folders: Sequence[Path]) -> list[SyncPosition]:
    """Return where the runs in `folders` are recorded, without those that MLflow does not have."""
    found = map(last_position, folders)
    return [position for position in found if position is not None and position.run_id]


def shown_folder(folder: Path) -> str:
    """Return a run's folder as a command names it: in a bucket, or relative to the working one."""
    here, place = Path.cwd(), shown(folder)
    is_below = place == str(folder) and folder.is_relative_to(here)
    return str(folder.relative_to(here)) if is_below else place
