"""Runs in MLflow: found by name or created, with parameters, metrics, tags and status."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.io.redaction import redacted
from pipeline.tracking.client import (
    RefusedError,
    machine_lock,
    message,
    mlflow_client,
    with_uri,
)
from pipeline.tracking.links import is_server
from pipeline.tracking.long_values import shortened_params, shortened_tags, tags_of_long

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
State = Literal["active", "deleted", "absent"]

# Tag by which a run is found, and the tag that MLflow shows as its name.
NAME_TAG, SHOWN_NAME_TAG = "hourglass.name", "mlflow.runName"
_PARENT_TAG = "mlflow.parentRunId"
# MLflow's types of sources of datasets by the scheme of a URI; others are local.
_SOURCE_TYPES = {"http": "http", "https": "http", "s3": "s3", "gs": "gs"}
# Letters of a dataset's name and source that MLflow takes; of the source it takes more.
_MOST_OF_NAME, _MOST_OF_SOURCE = 500, 60_000
# Ids of runs, as MLflow itself checks them.
_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Run:
    """An MLflow run as plain data, so that any process can log to it."""

    uri: str
    experiment_id: str
    run_id: str

    def __post_init__(self) -> None:
        """Raise RefusedError for an id that is none of MLflow's: it names folders."""
        if not _ID.fullmatch(self.run_id):
            raise RefusedError(message(self.uri, f"{self.run_id!r} is no id of a run"))


@dataclass(frozen=True, kw_only=True)
class Point:
    """A metric's value at a step, with its time in milliseconds since 1970."""

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
    datasets: Sequence[Mapping[str, str]] = (),
    parent: Run | None = None,
    time_ms: int | None = None,
) -> Run:
    """Create the run called `name`, or continue the one that has the name.

    `artifacts` is where a new experiment keeps its files, unless a server decides. `time_ms` is
    the start of a new run, None: now. A parameter that has changed since the first start keeps its
    value, as MLflow demands; the new value is tagged `changed.<parameter>`. `datasets` are as in
    `RunSpec`. Secrets are replaced by `***`. Raises AwayError or RefusedError.
    """
    with mlflow_client(uri) as client:
        run = find_or_create_run(
            uri, experiment, name, artifacts=artifacts, parent=parent, time_ms=time_ms
        )
        client.update_run(run.run_id, status="RUNNING")
        values = _redacted(params)
        named = shortened_tags(_redacted(tags)) | tags_of_long(values)
        _log_params(client, run.run_id, shortened_params(values), named)
        if datasets:
            client.log_inputs(run.run_id, list(map(_dataset_input, datasets)))
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
    """Return the run called `name`, or a new one without parameters; see `start_run`."""
    with mlflow_client(uri) as client, machine_lock(f"{uri} {experiment} {name}"):
        experiment_id = _experiment(client, uri, experiment, artifacts)
        run_id = _find_run(client, experiment_id, name, parent)
        if run_id is None:
            tags = {NAME_TAG: name} | ({_PARENT_TAG: parent.run_id} if parent else {})
            created = client.create_run(experiment_id, time_ms, tags, run_name=name)
            run_id = str(created.info.run_id)
    return Run(uri=uri, experiment_id=experiment_id, run_id=run_id)


def state_of(run: Run) -> State:
    """Return whether MLflow has the run, among the deleted ones or not, or does not know it."""
    with mlflow_client(run.uri) as client:
        try:
            stage = client.get_run(run.run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return "absent"
    return "active" if stage == "active" else "deleted"


def log_points(run: Run, points: Sequence[Point]) -> None:
    """Log at most 1000 metrics, idempotently.

    MLflow's tables are keyed by run, name, step, time and value: a point that is sent again is the
    same row.
    """
    metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
    with mlflow_client(run.uri) as client:
        client.log_batch(run.run_id, metrics=metrics)


def set_tags(run: Run, tags: Mapping[str, str]) -> None:
    """Set tags, or replace those that the run has."""
    with mlflow_client(run.uri) as client:
        shown = shortened_tags(tags)
        client.log_batch(run.run_id, tags=[RunTag(*tag) for tag in shown.items()])


def end_run(run: Run, status: Status, time_ms: int | None = None) -> None:
    """Set the run's final status and its end, None: now."""
    with mlflow_client(run.uri) as client:
        client.set_terminated(run.run_id, status, time_ms)


def recorded(uri: str, experiment: str, name: str) -> list[list[Point]]:
    """Return all metric rows of each run called `name`, of which there should be one.

    Raises AwayError or RefusedError.
    """
    with mlflow_client(uri) as client:
        found = client.get_experiment_by_name(experiment)
        condition = f"tags.`{NAME_TAG}` = '{name}'"
        runs = client.search_runs([found.experiment_id], condition) if found else []
        return [
            [
                Point(name=metric, value=row.value, step=row.step, time_ms=row.timestamp)
                for metric in run.data.metrics
                for row in client.get_metric_history(run.info.run_id, metric)
            ]
            for run in runs
        ]


def find_runs(uri: str, run: str) -> list[Run]:
    """Return the runs of all experiments with the id or name `run`.

    Raises AwayError or RefusedError.
    """
    with mlflow_client(uri) as client:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return [
            Run(uri=uri, experiment_id=found.info.experiment_id, run_id=found.info.run_id)
            for condition in (f"tags.`{NAME_TAG}` = '{run}'", f"attributes.run_id = '{run}'")
            for found in client.search_runs(experiments, condition)
        ]


def children_of(run: Run) -> list[Run]:
    """Return the runs nested under a run, oldest first. Raises AwayError or RefusedError."""
    condition = f"tags.`{_PARENT_TAG}` = '{run.run_id}'"
    with mlflow_client(run.uri) as client:
        found = client.search_runs([run.experiment_id], condition, order_by=["start_time ASC"])
        return [replace(run, run_id=child.info.run_id) for child in found]


def newest_run(uri: str) -> Run | None:
    """Return the run of all experiments that began last, or None without any.

    Raises AwayError or RefusedError.
    """
    with mlflow_client(uri) as client:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        order = ["start_time DESC"]
        for found in client.search_runs(experiments, order_by=order, max_results=1):
            info = found.info
            return Run(uri=uri, experiment_id=info.experiment_id, run_id=info.run_id)
    return None


def _experiment(client: MlflowClient, uri: str, name: str, artifacts: Path) -> str:
    existing = client.get_experiment_by_name(name)
    if existing is not None and existing.lifecycle_stage == "deleted":
        restore = with_uri(
            uri, f"mlflow experiments restore -x {shlex.quote(str(existing.experiment_id))}"
        )
        raise RefusedError(
            f"tracking.experiment={name!r} was deleted in MLflow; restore it by: {restore}, or "
            "give another name",
            f"the experiment {name!r} was deleted in MLflow",
        )
    if existing is not None:
        return str(existing.experiment_id)
    # Ray's workers have other working folders: a relative default would scatter the files.
    location = None if is_server(uri) else artifacts.as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        created = client.get_experiment_by_name(name)  # by another trial, in between
        if created is None:
            raise
        return str(created.experiment_id)


def _find_run(
    client: MlflowClient, experiment_id: str, name: str, parent: Run | None
) -> str | None:
    condition = f"tags.`{NAME_TAG}` = '{name}'"
    if parent:
        condition += f" and tags.`{_PARENT_TAG}` = '{parent.run_id}'"
    runs = client.search_runs([experiment_id], condition, max_results=10)
    for run in runs:
        if parent or _PARENT_TAG not in run.data.tags:
            return str(run.info.run_id)
    return None


def _dataset_input(dataset: Mapping[str, str]) -> DatasetInput:
    """Return a dataset as MLflow's run list and run page show it."""
    shards = redacted(dataset["source"])[:_MOST_OF_SOURCE]
    scheme = shards.partition("://")[0] if "://" in shards else ""
    kind = _SOURCE_TYPES.get(scheme, "local")
    return DatasetInput(
        dataset=Dataset(
            name=dataset["name"][:_MOST_OF_NAME],
            digest=dataset["digest"],
            source_type=kind,
            source=json.dumps({"url" if kind == "http" else "uri": shards}),
            profile=json.dumps({"people": dataset["people"]}),
        ),
        tags=[InputTag(MLFLOW_DATASET_CONTEXT, dataset["context"])],
    )


def _redacted(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: redacted(str(value)) for key, value in values.items()}


def _log_params(
    client: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    logged = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    changed = {
        f"changed.{key}": value
        for key, value in params.items()
        if key in logged and redacted(logged[key]) != value
    }
    run_tags = [RunTag(*tag) for tag in {**tags, **changed}.items()]
    client.log_batch(run_id, params=new, tags=run_tags)
