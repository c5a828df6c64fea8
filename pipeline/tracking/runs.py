"""Runs in MLflow: found by name or made, their parameters, metrics, tags, files and end."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from pipeline.io.redaction import redacted
from pipeline.tracking.client import (
    RefusedError,
    artifact_errors,
    client_of,
    errors,
    is_server,
    machine_lock,
    message,
)
from pipeline.tracking.images import IMAGES, IMAGES_TAG, lay_out

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
State = Literal["active", "deleted", "absent"]

_NAME_TAG = "hourglass.name"
_PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True, kw_only=True)
class Run:
    """An MLflow run as plain data, so that any process can log to it."""

    uri: str
    experiment_id: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A metric's value at a step, taken at a time in milliseconds since 1970."""

    name: str
    value: float
    step: int
    time_ms: int


def start_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    artifacts: Path,
    parent: Run | None = None,
    time_ms: int | None = None,
) -> Run:
    """Create the run called `name`, or go on with the one that has the name already.

    `artifacts` is where a new experiment keeps its files, unless a server
    decides; `time_ms` is when a new run began, None: now. A parameter that has
    changed since the run began keeps its first value, as MLflow demands; the
    new one is tagged `changed.<parameter>`. Secrets in parameters and tags are
    left out. Raises AwayError or RefusedError.
    """
    with errors(uri):
        run = find_or_create_run(
            uri, experiment, name, artifacts=artifacts, parent=parent, time_ms=time_ms
        )
        client = client_of(uri)
        client.update_run(run.run_id, status="RUNNING")
        _log_params(client, run.run_id, _shown(params), _shown(tags))
    return run


def find_or_create_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    artifacts: Path,
    parent: Run | None = None,
    time_ms: int | None = None,
) -> Run:
    """The run called `name` as it is, or a new one without parameters; see `start_run`."""
    with errors(uri), machine_lock(f"{uri} {experiment} {name}"):
        client = client_of(uri)
        experiment_id = _experiment(client, uri, experiment, artifacts)
        run_id = _find_run(client, experiment_id, name, parent)
        if run_id is None:
            tags = {_NAME_TAG: name} | ({_PARENT_TAG: parent.run_id} if parent else {})
            created = client.create_run(experiment_id, time_ms, tags, run_name=name)
            run_id = str(created.info.run_id)
    return Run(uri=uri, experiment_id=experiment_id, run_id=run_id)


def state_of(run: Run) -> State:
    """Whether MLflow has the run, has it among the deleted ones, or does not know it."""
    with errors(run.uri):
        try:
            stage = client_of(run.uri).get_run(run.run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return "absent"
    return "active" if stage == "active" else "deleted"


def log_points(run: Run, points: Sequence[Point]) -> None:
    """Log metrics, at most 1000 in a request. What MLflow has already is not there twice afterwards.

    Its tables are keyed by run, name, step, time and value, so a point that is
    sent again is the same row.
    """
    metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
    with errors(run.uri):
        client_of(run.uri).log_batch(run.run_id, metrics=metrics)


def log_metrics(run: Run, metrics: Mapping[str, float], epoch: int) -> None:
    """Log an epoch's metrics in one request."""
    now = int(time.time() * 1000)
    log_points(
        run,
        [Point(name=name, value=value, step=epoch, time_ms=now) for name, value in metrics.items()],
    )


def set_tags(run: Run, tags: Mapping[str, str]) -> None:
    """Set tags; those that the run has are replaced."""
    with errors(run.uri):
        client_of(run.uri).log_batch(run.run_id, tags=[RunTag(*tag) for tag in tags.items()])


def log_text(run: Run, text: str, path: str) -> None:
    """Keep text among the run's artifacts."""
    with artifact_errors(run.uri):
        client_of(run.uri).log_text(run.run_id, text, path)


def log_file(run: Run, file: Path, folder: str) -> None:
    """Keep a file among the run's artifacts, in `folder`."""
    with artifact_errors(run.uri):
        client_of(run.uri).log_artifact(run.run_id, str(file), folder)


def log_image(run: Run, file: Path, key: str, step: int, time_ms: int) -> None:
    """Show a picture of a step, taken at a time in milliseconds since 1970, in the UI's image grid under `key`."""
    with artifact_errors(run.uri), tempfile.TemporaryDirectory() as folder:
        try:
            lay_out(file, key, step, time_ms, Path(folder))
        except ValueError as error:
            raise RefusedError(str(error)) from error
        client = client_of(run.uri)
        client.log_artifacts(run.run_id, folder, IMAGES)
        client.set_tag(run.run_id, IMAGES_TAG, "True")


def log_folder(run: Run, folder: Path, path: str) -> None:
    """Keep a folder's files among the run's artifacts, under `path`."""
    with artifact_errors(run.uri):
        client_of(run.uri).log_artifacts(run.run_id, str(folder), path)


def end_run(run: Run, status: Status, time_ms: int | None = None) -> None:
    """Say how the run ended, and when; None: now."""
    with errors(run.uri):
        client_of(run.uri).set_terminated(run.run_id, status, time_ms)


def recorded(uri: str, experiment: str, name: str) -> list[list[Point]]:
    """Every row of every metric, of each run called `name`: of one run, unless something went wrong.

    Raises AwayError or RefusedError.
    """
    with errors(uri):
        client = client_of(uri)
        found = client.get_experiment_by_name(experiment)
        places = [] if found is None else [found.experiment_id]
        runs = client.search_runs(places, f"tags.`{_NAME_TAG}` = '{name}'") if places else []
        return [
            [
                Point(name=metric, value=row.value, step=row.step, time_ms=row.timestamp)
                for metric in run.data.metrics
                for row in client.get_metric_history(run.info.run_id, metric)
            ]
            for run in runs
        ]


def find_runs(uri: str, run: str) -> list[Run]:
    """The runs of any experiment that have the id `run` or are called so. Raises AwayError or RefusedError."""
    with errors(uri):
        client = client_of(uri)
        places = [experiment.experiment_id for experiment in client.search_experiments()]
        found = [
            one
            for condition in (f"tags.`{_NAME_TAG}` = '{run}'", f"attributes.run_id = '{run}'")
            for one in client.search_runs(places, condition)
        ]
    return [
        Run(uri=uri, experiment_id=one.info.experiment_id, run_id=one.info.run_id) for one in found
    ]


def download(run: Run, path: str, into: Path) -> Path:
    """Copy the file `path` of the run's artifacts into the folder `into`, or one below; return where it lies.

    Raises AwayError, or RefusedError if the run has no such file.
    """
    folder, _, _ = path.rpartition("/")
    with artifact_errors(run.uri):
        client = client_of(run.uri)
        if path not in {file.path for file in client.list_artifacts(run.run_id, folder or None)}:
            raise RefusedError(message(run.uri, f"run {run.run_id} has no file {path}"))
        return Path(client.download_artifacts(run.run_id, path, str(into)))


def list_files(run: Run, folder: str) -> list[str]:
    """Names of the files that a folder of the run's artifacts has. Raises AwayError or RefusedError if it has none."""
    with artifact_errors(run.uri):
        listed = client_of(run.uri).list_artifacts(run.run_id, folder)
    names = [file.path.rpartition("/")[2] for file in listed if not file.is_dir]
    if not names:
        raise RefusedError(message(run.uri, f"run {run.run_id} has no folder {folder}"))
    return names


def _experiment(client: MlflowClient, uri: str, name: str, artifacts: Path) -> str:
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        return str(existing.experiment_id)
    # Ray's workers run elsewhere: a relative default would scatter the files.
    location = None if is_server(uri) else artifacts.as_uri()
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


def _log_params(
    client: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    logged = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    changed = {
        f"changed.{key}": value
        for key, value in params.items()
        if key in logged and logged[key] != value
    }
    run_tags = [RunTag(*tag) for tag in {**tags, **changed}.items()]
    client.log_batch(run_id, params=new, tags=run_tags)
