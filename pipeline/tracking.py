"""MLflow: one run a training, one parent a sweep. Runs are found again by name, so a resumed training goes on in its own."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Before the import, which reads them. Nothing about a user's runs leaves the
# machine, and a server that is away is an error in seconds, not minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Models are never loaded from MLflow here; if some day one is, then not by running what is in it.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.redaction import redacted

Status = Literal["RUNNING", "FINISHED", "FAILED"]
History = dict[str, list[tuple[int, float]]]

_NAME_TAG = "hourglass.name"
_PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True, kw_only=True)
class Run:
    """An MLflow run as plain data, so that any process can log to it."""

    uri: str
    experiment_id: str
    run_id: str


def start_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    artifacts: Path,
    parent: Run | None = None,
) -> Run:
    """Create the run called `name`, or go on with the one that has the name already.

    `artifacts` is where a new experiment keeps its files, unless a server
    decides. A parameter that has changed since the run began keeps its first
    value, as MLflow demands; the new one is tagged `changed.<parameter>`.
    Secrets in parameters and tags are left out. Raises ValueError naming the URI if MLflow can't be reached or refuses.
    """
    try:
        client = _client(uri)
        experiment_id = _experiment(client, uri, experiment, artifacts)
        run_id = _find_run(client, experiment_id, name, parent)
        if run_id is None:
            own = {_NAME_TAG: name} | ({_PARENT_TAG: parent.run_id} if parent else {})
            created = client.create_run(experiment_id, run_name=name, tags=_shown(tags) | own)
            run_id = created.info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        _log_params(client, run_id, _shown(params))
    except (MlflowException, SQLAlchemyError) as error:
        # Not chained: whoever prints the chain would print the URI that is in it.
        raise ValueError(redacted(f"tracking.uri={uri!r}: MLflow: {error}")) from None
    return Run(uri=uri, experiment_id=experiment_id, run_id=run_id)


def log_metrics(run: Run, metrics: Mapping[str, float], epoch: int) -> None:
    """Log an epoch's metrics in one request."""
    now = int(time.time() * 1000)
    _client(run.uri).log_batch(
        run.run_id, metrics=[Metric(name, value, now, epoch) for name, value in metrics.items()]
    )


def log_figure(run: Run, figure: Figure, path: str) -> None:
    """Keep a figure among the run's artifacts."""
    _client(run.uri).log_figure(run.run_id, figure, path, save_kwargs={"dpi": 100})


def log_text(run: Run, text: str, path: str) -> None:
    """Keep text among the run's artifacts."""
    _client(run.uri).log_text(run.run_id, text, path)


def log_file(run: Run, file: Path, folder: str) -> None:
    """Keep a file among the run's artifacts, in `folder`."""
    _client(run.uri).log_artifact(run.run_id, str(file), folder)


def log_folder(run: Run, folder: Path, path: str) -> None:
    """Keep a folder's files among the run's artifacts, under `path`."""
    _client(run.uri).log_artifacts(run.run_id, str(folder), path)


def end_run(run: Run, status: Status) -> None:
    """Say how the run ended."""
    _client(run.uri).set_terminated(run.run_id, status)


def ui_command(uri: str) -> str:
    """How a person opens the MLflow UI on what is recorded at `uri`; a password is theirs to fill in."""
    uri = redacted(uri)
    if uri.startswith(("http:", "https:")):
        return f"open {uri}"
    # With job execution, which none of this needs, the server starts seven more processes.
    return (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server "
        f"--backend-store-uri {uri} --host 127.0.0.1 --port 5000 --workers 1"
    )


def history(run: Run, names: Sequence[str]) -> History:
    """(epoch, value) by metric; where an epoch was logged again after a restart, the last counts."""
    client = _client(run.uri)
    found: History = {}
    for name in names:
        by_epoch = {m.step: m.value for m in client.get_metric_history(run.run_id, name)}
        found[name] = sorted(by_epoch.items())
    return found


def _client(uri: str) -> MlflowClient:
    # Creating a database narrates every migration otherwise.
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(uri)


def _experiment(client: MlflowClient, uri: str, name: str, artifacts: Path) -> str:
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        return str(existing.experiment_id)
    # Ray's workers run elsewhere: a relative default would scatter the files.
    location = None if uri.startswith(("http:", "https:")) else artifacts.as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        created = client.get_experiment_by_name(name)  # by another trial, just now
        if created is None:
            raise
        return str(created.experiment_id)


def _find_run(
    client: MlflowClient, experiment_id: str, name: str, parent: Run | None
) -> str | None:
    condition = f"tags.`{_NAME_TAG}` = '{name}'"
    if parent:
        condition += f" and tags.`{_PARENT_TAG}` = '{parent.run_id}'"
    runs = client.search_runs([experiment_id], condition, max_results=10)
    for run in runs:
        if parent or _PARENT_TAG not in run.data.tags:
            return str(run.info.run_id)
    return None


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow keeps them, for all to read."""
    return {key: redacted(str(value)) for key, value in values.items()}


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    logged = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    changed = [
        RunTag(f"changed.{key}", value)
        for key, value in params.items()
        if key in logged and logged[key] != value
    ]
    client.log_batch(run_id, params=new, tags=changed)
