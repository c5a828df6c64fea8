"""MLflow's client, and its errors as AwayError and RefusedError."""

import fcntl
import hashlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from urllib.parse import unquote, urlsplit

from google.protobuf.json_format import Error as ShapeError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pipeline.io.own import open_own
from pipeline.io.processes import described, lock_holders
from pipeline.io.redaction import redacted
from pipeline.io.text import briefly
from pipeline.io.threads import within
from pipeline.run.plan import tracking_uri
from pipeline.tracking.answers import bound_answers
from pipeline.tracking.links import is_server

bound_answers()

# MLflow's codes of requests that are wrong in themselves. Other errors may be temporary.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
# HTTP errors of the client that may be temporary: missing rights, timeouts, too many requests.
_TEMPORARY = (401, 403, 407, 408, 425, 429)
# Environment variables with what MLflow's client sends a server.
_PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# Seconds to wait for another process that holds a lock, and between two tries.
_LOCK_S, _LOCK_LOOK_S = 30.0, 0.05


class AwayError(ValueError):
    """MLflow did not answer, or can't do it now; `summary` states what, if it did answer."""

    def __init__(self, text: str, summary: str = "") -> None:
        super().__init__(text)
        self.summary = summary


class RefusedError(ValueError):
    """MLflow answered that it will not do it; `summary` states what must be mended first."""

    def __init__(self, text: str, summary: str = "") -> None:
        super().__init__(text)
        self.summary = summary


class DoubtfulError(RefusedError):
    """A refusal that MLflow also gives when its database has no connection left."""


def has_credentials(uri: str) -> bool:
    """Whether MLflow's client would send the server at `uri` a password or token.

    They are those of the environment and of MLflow's own file, whatever the server.
    """
    credentials = is_server(uri) and get_default_host_creds(uri)
    return bool(credentials and (credentials.password or credentials.token))


def recorded_uri(uri: str, where: Path, option: str) -> str:
    """Return the URI that the file or folder `where` names, with the environment's secrets for it.

    Raises ValueError naming `option` if it lacks its secrets, or if its server would get a password
    that is not for it: such files may come from anywhere.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if redacted(environment) == redacted(uri):
        return environment
    if "***" in uri:
        raise ValueError(
            f"{where} has the URI {uri} without its secrets; "
            f"give the complete one by {option} or MLFLOW_TRACKING_URI"
        )
    found = tracking_uri(uri)
    if has_credentials(found):
        raise ValueError(
            f"{where} names the server {uri}, which would get the password or token "
            f"of this environment; if it should, give it by {option} or MLFLOW_TRACKING_URI"
        )
    return found


def with_uri(uri: str, command: str) -> str:
    """Return a command of MLflow's with the URI that it is for, `***` for passwords."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(redacted(uri))} {command}"


def reach(uri: str, within_s: float) -> None:
    """Raise AwayError unless a server at `uri` answers within `within_s` s; skip databases."""
    if not is_server(uri):
        return

    def ask() -> None:
        with mlflow_client(uri) as client:
            client.search_experiments(max_results=1)

    # Name lookup, connection and answer have separate time limits, and the lookup has none.
    try:
        within(within_s, ask)
    except TimeoutError as error:
        raise AwayError(message(uri, error)) from None


@contextmanager
def mlflow_client(uri: str) -> Iterator[MlflowClient]:
    """Yield a quiet client of the server or database at `uri`.

    Errors of MLflow and its database are raised as AwayError or RefusedError.
    """
    # They log every migration of a new database, and every step of saving a model.
    for noisy in ("alembic", "mlflow.pyfunc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It prints the stack of each error that it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        yield MlflowClient(uri)
    except MlflowException as error:
        kind = RefusedError if error.error_code in _REFUSALS else AwayError
        if error.error_code == "BAD_REQUEST":
            kind = DoubtfulError
        # A chain of errors would show the whole URI.
        raise kind(message(uri, _of_database(uri, error.__cause__) or error)) from None
    # An answer of another shape than MLflow's.
    except ShapeError as error:
        raise AwayError(message(uri, error)) from None
    except SQLAlchemyError as error:
        raise AwayError(message(uri, _of_database(uri, error) or error)) from None
    except ModuleNotFoundError as error:
        raise RefusedError(
            message(uri, f"needs the Python package {error.name}, which is not installed")
        ) from None


def _of_database(uri: str, error: BaseException | None) -> str:
    """Return what a database answered, and which processes have locked it; empty if it did not."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return ""
    answer, (scheme, _, path) = str(error.orig), uri.partition(":///")
    is_locked = scheme == "sqlite" and "locked" in answer
    holders = lock_holders(Path(path.partition("?")[0])) if is_locked else []
    return answer + f" by process {', '.join(map(described, holders))}" * bool(holders)


@contextmanager
def artifact_client(uri: str, run_id: str = "") -> Iterator[MlflowClient]:
    """Act as `mlflow_client`, also on errors of the libraries by which artifacts are sent.

    An AwayError names the store of the run's artifacts if MLflow itself answers.
    """
    try:
        with mlflow_client(uri) as client:
            yield client
    except (AwayError, RefusedError):
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        is_refused = isinstance(status, int) and 400 <= status < 500 and status not in _TEMPORARY
        reason = f"{type(error).__name__}: {briefly(error)}"
        if is_refused:
            raise RefusedError(message(uri, reason)) from None
        store = f"the store of artifacts{_store_of(uri, run_id)}"
        raise AwayError(
            _without_password(uri, redacted(f"tracking.uri={uri!r}: {store}: {reason}")),
            redacted(f"{store} does not answer"),
        ) from None


def _store_of(uri: str, run_id: str) -> str:
    """Return where a run's artifacts are kept. Raises AwayError if MLflow is away itself."""
    if not run_id:
        return ""
    with mlflow_client(uri) as client:
        return f" {client.get_run(run_id).info.artifact_uri}"


def message(uri: str, reason: object) -> str:
    """Format an error message about a URI, without secrets."""
    return _without_password(uri, redacted(f"tracking.uri={uri!r}: MLflow: {briefly(reason)}"))


def _without_password(uri: str, text: str) -> str:
    """Replace what a server may repeat in its answer: the password or token it was sent."""
    sent = [os.environ.get(name, "") for name in _PASSWORDS]
    with suppress(ValueError):
        sent.append(unquote(urlsplit(uri).password or ""))
    for secret in filter(None, sent):
        text = text.replace(secret, "***")
    return text


@contextmanager
def machine_lock(task: str) -> Iterator[None]:
    """Keep other processes of this machine from the same task: in MLflow two runs may share a name.

    All trials of a sweep look for the sweep's run, and their drivers share a machine. Raises
    AwayError if another process has not finished the task in time, such as one that is stopped.
    """
    digest = hashlib.sha256(task.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hourglass-{os.getuid()}-{digest}.lock"
    end = time.monotonic() + _LOCK_S
    try:
        file = open_own(path)
    except OSError as error:
        raise AwayError(f"{error.strerror}, by TMPDIR") from None
    with file:
        while not _is_locked(file):
            if time.monotonic() > end:
                raise AwayError(
                    f"another process of this machine has held {path} for {_LOCK_S:g} s: it sends "
                    "the same to MLflow and may be stopped or hang"
                )
            time.sleep(_LOCK_LOOK_S)
        yield


def _is_locked(file: BufferedRandom) -> bool:
    """Lock a file until it is closed, unless another process has it; return whether it is."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
