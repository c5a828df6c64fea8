"""The Ray cluster: an existing one that is joined, or one that is started on this machine."""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

from pipeline.cluster.address import check_answer, named_cluster
from pipeline.cluster.ray_private import (
    LOOPBACK,
    NO_METRICS,
    ON_DEMAND,
    bound_to_loopback,
    few_attempts,
    signals_kept,
    temp_folder,
    without_helpers,
    without_token_advice,
)
from pipeline.io.console import say
from pipeline.io.installation import package_folders
from pipeline.run.plan import is_submitted
from pipeline.settings import RaySettings

# Samples never pass through the object store, whose default is 30% of the memory.
_OBJECT_STORE_BYTES = 256 * 2**20
# Longest path of a socket in bytes, and one below the folder of Ray's sessions.
_SOCKET_BYTES = 107
_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
# Folder of the sessions where the usual one has too long a path: Ray's own default.
_SHORT_FOLDER = "/tmp/ray"
_is_for_one_run = False


def is_for_one_run() -> bool:
    """Whether this process started a cluster that ends with its only run."""
    return _is_for_one_run


@contextmanager
def cluster(address: str, *, is_shared: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine, for the context's duration.

    An empty address means RAY_ADDRESS (which a submitted job has), else this machine. A cluster
    that is started here listens on loopback only. `is_shared` says that several training runs will
    use it, one of which may end before the others. Raises ConnectionError if the cluster does not
    answer, refuses this process, or does not start.
    """
    global _is_for_one_run
    if ray.is_initialized():
        yield
        return
    protect_token()
    check_answer(address)
    named, _ = named_cluster(address)
    try:
        with signals_kept():
            if named:
                _join(address)
            else:
                _start(is_shared)
        _is_for_one_run = not (named or is_shared)
        yield
    finally:
        _is_for_one_run = False
        ray.shutdown()


def protect_token() -> None:
    """Make the cluster's token readable by this user alone: Ray leaves it readable by all."""
    path = token_file()
    if os.environ.get("RAY_AUTH_MODE") != "token" or not path.is_file():
        return
    if path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
            say(f"{path} was readable by other users of this machine; its mode is now 600")
        except OSError:
            command = f"chmod 600 {shlex.quote(str(path))}"
            say(f"{path}, the cluster's token, is readable by other users; its owner can {command}")


def token_file() -> Path:
    """Return the file from which Ray reads the cluster's token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _join(address: str) -> None:
    named, origin = named_cluster(address)
    # A submitted job has brought its code along.
    sent = {} if is_submitted() else {"py_modules": list(map(str, package_folders()))}
    try:
        with few_attempts():
            ray.init(address=named, runtime_env=sent or None, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConnectionError(f"{origin}={named!r}: {refusal(error)}") from error


def refusal(error: BaseException) -> str:
    """Return one sentence on why a cluster has refused this process."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip()
    if "AuthenticationError" in text or isinstance(cause, AuthenticationError):
        return (
            "the cluster's token is missing here, or differs: copy its ~/.ray/auth_token to this "
            "machine and set RAY_AUTH_MODE=token"
        )
    _, mismatch, versions = text.partition("Version mismatch: ")
    if mismatch:
        return f"other versions than here; install the same on both: {' '.join(versions.split())}"
    # A stack may come before it.
    return f"Ray can't join the cluster: {text.rpartition(chr(10))[2] or type(cause).__name__}"


def _start(is_shared: bool) -> None:
    """Start a cluster on this machine; a failed start, as on a busy machine, is tried once more."""
    # This machine gets no preemption notices.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        _start_once(is_shared)
    except Exception as error:
        say(f"Ray did not start ({_first_line(error)}); trying once more")
        ray.shutdown()
        try:
            _start_once(is_shared)
        except Exception as again:
            raise ConnectionError(
                f"Ray did not start on this machine, in two attempts: {_first_line(again)}; its "
                f"logs are in {temp_folder()}/session_latest/logs"
            ) from again


def _start_once(is_shared: bool) -> None:
    # The dashboard's State API is needed to free what a killed run held. A single run would only
    # get ten more processes that have to start, and wake beside training.
    helpers = nullcontext() if is_shared else without_helpers()
    with bound_to_loopback(), without_token_advice(), helpers:
        ray.init(
            address="local",
            include_dashboard=is_shared,
            # A copy: Ray adds the session's folders to it, which are not those of the next one.
            _system_config=dict(ON_DEMAND if is_shared else NO_METRICS),
            _temp_dir=_short_temp_folder(),
            dashboard_host=LOOPBACK,
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=logging.WARNING,
        )


def _short_temp_folder() -> str | None:
    """Return a folder for Ray's sockets if the usual one has too long a path for them."""
    usual = temp_folder()
    if len(os.fsencode(usual / _SOCKET)) <= _SOCKET_BYTES:
        return None
    say(f"{usual}: too long a path for Ray's sockets; Ray's files go to {_SHORT_FOLDER}")
    return _SHORT_FOLDER


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def check_capacity(settings: RaySettings) -> None:
    """Raise ValueError if the whole cluster has too few CPUs or GPUs for the workers."""
    total = ray.cluster_resources()
    for kind, setting, each in (
        ("CPU", "cpus_per_worker", settings.cpus_per_worker or 1.0),
        ("GPU", "gpus_per_worker", settings.gpus_per_worker),
    ):
        needed, available = settings.fewest_workers * each, total.get(kind, 0)
        if needed > available:
            raise ValueError(
                f"ray.workers={settings.workers} with ray.{setting}={each:g} need {needed:g} "
                f"{kind}s, the cluster has {available:g}"
            )
