"""MLflow: one run a training, one parent a sweep. Runs are found again by name, so a resumed training goes on in its own.

Whatever MLflow does not take is a ValueError: `AwayError` where the same may
succeed later, `RefusedError` where it will not.
"""

import fcntl
import hashlib
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Before the import, which reads them. Nothing about a user's runs leaves the
# machine. Who sends knows what waits and for how long, and tries again by itself.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Models are never loaded from MLflow here; if some day one is, then not by running what is in it.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
# A server answers a checkpoint's upload only when its own storage has taken it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.image_grid import IMAGES, IMAGES_TAG, lay_out
from pipeline.redaction import redacted

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
State = Literal["active", "deleted", "absent"]

_NAME_TAG = "hourglass.name"
_PARENT_TAG = "mlflow.parentRunId"
# What MLflow calls a request that is wrong in itself; all else may be its state at the moment.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
# HTTP's errors of the sender that may pass: no or other rights, timeouts, too many requests.
_PASSING = (401, 403, 407, 408, 425, 429)


class AwayError(ValueError):
    """MLflow did not answer, or could not do it now."""


class RefusedError(ValueError):
    """MLflow answered that it will not do it."""


class DoubtfulError(RefusedError):
    """MLflow answered as it does to a wrong request, but also when its database has no connection left."""


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


def is_server(uri: str) -> bool:
    """Whether a URI is a server's, rather than a database's."""
    return uri.startswith(("http:", "https:"))


def reach(uri: str, within_s: float) -> None:
    """Raise AwayError unless a server at `uri` answers within so many seconds; a database is not asked."""
    if not is_server(uri):
        return
    answers: queue.SimpleQueue[ValueError | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with _errors(uri):
                _client(uri).search_experiments(max_results=1)
            answers.put(None)
        except ValueError as error:
            answers.put(error)

    # Looking up a name, connecting and answering have time limits one after another, the first none.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=within_s)
    except queue.Empty:
        raise AwayError(_message(uri, f"no answer within {within_s:g} s")) from None
    if error is not None:
        raise error


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
    with _errors(uri):
        run = find_or_create_run(
            uri, experiment, name, artifacts=artifacts, parent=parent, time_ms=time_ms
        )
        client = _client(uri)
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
    with _errors(uri), _alone(f"{uri} {experiment} {name}"):
        client = _client(uri)
        experiment_id = _experiment(client, uri, experiment, artifacts)
        run_id = _find_run(client, experiment_id, name, parent)
        if run_id is None:
            tags = {_NAME_TAG: name} | ({_PARENT_TAG: parent.run_id} if parent else {})
            created = client.create_run(experiment_id, time_ms, tags, run_name=name)
            run_id = str(created.info.run_id)
    return Run(uri=uri, experiment_id=experiment_id, run_id=run_id)


def state_of(run: Run) -> State:
    """Whether MLflow has the run, has it among the deleted ones, or does not know it."""
    with _errors(run.uri):
        try:
            stage = _client(run.uri).get_run(run.run_id).info.lifecycle_stage
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
    with _errors(run.uri):
        _client(run.uri).log_batch(run.run_id, metrics=metrics)


def log_metrics(run: Run, metrics: Mapping[str, float], epoch: int) -> None:
    """Log an epoch's metrics in one request."""
    now = int(time.time() * 1000)
    log_points(
        run,
        [Point(name=name, value=value, step=epoch, time_ms=now) for name, value in metrics.items()],
    )


def set_tags(run: Run, tags: Mapping[str, str]) -> None:
    """Set tags; those that the run has are replaced."""
    with _errors(run.uri):
        _client(run.uri).log_batch(run.run_id, tags=[RunTag(*tag) for tag in tags.items()])


def log_text(run: Run, text: str, path: str) -> None:
    """Keep text among the run's artifacts."""
    with _artifact_errors(run.uri):
        _client(run.uri).log_text(run.run_id, text, path)


def log_file(run: Run, file: Path, folder: str) -> None:
    """Keep a file among the run's artifacts, in `folder`."""
    with _artifact_errors(run.uri):
        _client(run.uri).log_artifact(run.run_id, str(file), folder)


def log_image(run: Run, file: Path, key: str, step: int, time_ms: int) -> None:
    """Show a picture of a step, taken at a time in milliseconds since 1970, in the UI's image grid under `key`."""
    with _artifact_errors(run.uri), tempfile.TemporaryDirectory() as folder:
        try:
            lay_out(file, key, step, time_ms, Path(folder))
        except ValueError as error:
            raise RefusedError(str(error)) from error
        client = _client(run.uri)
        client.log_artifacts(run.run_id, folder, IMAGES)
        client.set_tag(run.run_id, IMAGES_TAG, "True")


def log_folder(run: Run, folder: Path, path: str) -> None:
    """Keep a folder's files among the run's artifacts, under `path`."""
    with _artifact_errors(run.uri):
        _client(run.uri).log_artifacts(run.run_id, str(folder), path)


def end_run(run: Run, status: Status, time_ms: int | None = None) -> None:
    """Say how the run ended, and when; None: now."""
    with _errors(run.uri):
        _client(run.uri).set_terminated(run.run_id, status, time_ms)


def ui_command(uri: str) -> str:
    """How a person opens the MLflow UI on what is recorded at `uri`; a password is theirs to fill in."""
    uri = redacted(uri)
    if is_server(uri):
        return f"open {uri}"
    # With job execution, which none of this needs, the server starts seven more processes.
    return (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server "
        f"--backend-store-uri {uri} --host 127.0.0.1 --port 5000 --workers 1"
    )


def recorded(uri: str, experiment: str, name: str) -> list[list[Point]]:
    """Every row of every metric, of each run called `name`: of one run, unless something went wrong.

    Raises AwayError or RefusedError.
    """
    with _errors(uri):
        client = _client(uri)
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
    with _errors(uri):
        client = _client(uri)
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
    with _artifact_errors(run.uri):
        client = _client(run.uri)
        if path not in {file.path for file in client.list_artifacts(run.run_id, folder or None)}:
            raise RefusedError(_message(run.uri, f"run {run.run_id} has no file {path}"))
        return Path(client.download_artifacts(run.run_id, path, str(into)))


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


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    """Raise what MLflow and its database raise as AwayError or RefusedError."""
    try:
        yield
    except MlflowException as error:
        kind = RefusedError if error.error_code in _REFUSALS else AwayError
        raise (DoubtfulError if error.error_code == "BAD_REQUEST" else kind)(
            _message(uri, error)
        ) from None  # whoever prints a chain of errors would print the URI that is in it
    except SQLAlchemyError as error:
        raise AwayError(_message(uri, error)) from None


@contextmanager
def _artifact_errors(uri: str) -> Iterator[None]:
    """As `_errors`, for files, which a server may send anywhere: to stores whose libraries have errors of their own."""
    try:
        with _errors(uri):
            yield
    except (AwayError, RefusedError):
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        is_refused = isinstance(status, int) and 400 <= status < 500 and status not in _PASSING
        kind = RefusedError if is_refused else AwayError
        raise kind(_message(uri, f"{type(error).__name__}: {error}")) from None


def _message(uri: str, reason: object) -> str:
    return redacted(f"tracking.uri={uri!r}: MLflow: {reason}")


@contextmanager
def _alone(task: str) -> Iterator[None]:
    """Hold other processes of this machine off the same task: MLflow lets two runs have one name.

    The trials of a sweep, whose drivers share a machine, all look for its run.
    """
    digest = hashlib.sha256(task.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hourglass-{os.getuid()}-{digest}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released as the file is closed
        yield
