"""Links to pages of the MLflow UI, which lie behind the # of its address."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.io.redaction import redacted
from pipeline.tracking.sync_state import SyncPosition, last_position

# Schemes that MLflow reads itself, without a server.
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file")
# Where the server listens that `how_to_open` starts.
_OWN = "http://127.0.0.1:5000"
# More runs than these make a page that a browser draws slowly, and a long address.
MOST_COMPARED = 50


def run_page(run: SyncPosition) -> str:
    """Return the page of a run."""
    return f"experiments/{run.experiment_id}/runs/{run.run_id}"


def comparison_page(runs: Sequence[SyncPosition]) -> str:
    """Return the page that compares the first `MOST_COMPARED` runs."""
    shown = runs[:MOST_COMPARED]
    ids = [run.run_id for run in shown]
    experiments = list(dict.fromkeys(run.experiment_id for run in shown))
    return f"compare-runs?runs={_listed(ids)}&experiments={_listed(experiments)}"


def _listed(ids: Sequence[str]) -> str:
    """Format ids as JSON in a query; terminals would end a link at its quotation marks."""
    return quote(json.dumps(ids, separators=(",", ":")), safe="")


def how_to_open(uri: str, page: str = "") -> str:
    """Return what opens a page of the MLflow UI at `uri`, or its first page: a link or a command.

    Of passwords there is no trace in a link, and `***` in a command.
    """
    if uri.startswith(("http://", "https://")):
        return _link(uri, page)
    uri = redacted(uri)
    if is_server(uri):
        return f"open the workspace of {uri}"
    # With job execution, which is not needed here, the server starts seven more processes.
    command = (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server "
        f"--backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port 5000 --workers 1"
    )
    return f"{command}\n  then {_link(_OWN, page)}"


def is_server(uri: str) -> bool:
    """Whether a URI belongs to a server, not to a database or a folder."""
    scheme = re.split("[:+]", uri, maxsplit=1)[0]
    return scheme not in _STORES


def _link(uri: str, page: str) -> str:
    # A password may hold any letter.
    parts = urlsplit(redacted(uri))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/" + (f"#/{page}" if page else "")


def recorded_runs(folders: Sequence[Path]) -> list[SyncPosition]:
    """Return where the runs in `folders` are recorded, without those that MLflow does not have."""
    found = map(last_position, folders)
    return [position for position in found if position is not None and position.run_id]
