"""MLflow's client, and its errors as ours."""

import fcntl
import hashlib
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.io.redaction import redacted

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
            with errors(uri):
                client_of(uri).search_experiments(max_results=1)
            answers.put(None)
        except ValueError as error:
            answers.put(error)

    # Looking up a name, connecting and answering have time limits one after another, the first none.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=within_s)
    except queue.Empty:
        raise AwayError(message(uri, f"no answer within {within_s:g} s")) from None
    if error is not None:
        raise error


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


def client_of(uri: str) -> MlflowClient:
    """A client of the server or database at `uri`, which keeps to itself what it does."""
    # Creating a database narrates every migration otherwise, and saving a model its steps.
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(uri)


@contextmanager
def errors(uri: str) -> Iterator[None]:
    """Raise what MLflow and its database raise as AwayError or RefusedError."""
    try:
        yield
    except MlflowException as error:
        kind = RefusedError if error.error_code in _REFUSALS else AwayError
        raise (DoubtfulError if error.error_code == "BAD_REQUEST" else kind)(
            message(uri, error)
        ) from None  # whoever prints a chain of errors would print the URI that is in it
    except SQLAlchemyError as error:
        raise AwayError(message(uri, error)) from None


@contextmanager
def artifact_errors(uri: str) -> Iterator[None]:
    """As `errors`, for files, which a server may send anywhere: to stores whose libraries have errors of their own."""
    try:
        with errors(uri):
            yield
    except (AwayError, RefusedError):
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        is_refused = isinstance(status, int) and 400 <= status < 500 and status not in _PASSING
        kind = RefusedError if is_refused else AwayError
        raise kind(message(uri, f"{type(error).__name__}: {error}")) from None


def message(uri: str, reason: object) -> str:
    """What went wrong at a URI, without secrets."""
    return redacted(f"tracking.uri={uri!r}: MLflow: {reason}")


@contextmanager
def machine_lock(task: str) -> Iterator[None]:
    """Hold other processes of this machine off the same task: MLflow lets two runs have one name.

    The trials of a sweep, whose drivers share a machine, all look for its run.
    """
    digest = hashlib.sha256(task.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hourglass-{os.getuid()}-{digest}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released as the file is closed
        yield
