"""The MLflow server of this machine that shows a database: found if it runs, otherwise started."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipeline.io.parsing import parse_json
from pipeline.io.redaction import redacted
from pipeline.io.threads import within
from pipeline.tracking.sync_state import SyncPosition

HOST = "127.0.0.1"
# Ports that are looked at from the wanted one on.
_PORTS = 20
# Seconds to wait for one answer, for a server that starts, and for one that ends.
_ANSWER_S, _START_S, _END_S = 5.0, 180.0, 10.0
_LOOK_S = 0.25
_MOST_BYTES = 2**20
_LOG_LETTERS = 2000


class Server:
    """A server on 127.0.0.1; `process` is None for one that another process has started."""

    def __init__(self, port: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.uri = f"http://{HOST}:{port}"
        self.process = process

    def has_ended(self) -> bool:
        """Whether a server that was started here has ended."""
        return self.process is not None and self.process.poll() is not None


@contextmanager
def server(
    uri: str, port: int, known: SyncPosition | None, is_wanted: Callable[[], bool]
) -> Iterator[Server | None]:
    """Yield a server that shows the database `uri`, and end it afterwards if it was started here.

    It has `port`, or the first port after it that is free. One that runs there already and knows
    the run `known` is used. None if it is not wanted any more before it answers. Raises ValueError
    if no port is free, and OSError with the end of its log if it does not start.
    """
    for at in range(port, port + _PORTS):
        if _is_free(at):
            break
        if known is not None and _knows(at, known):
            yield Server(at)
            return
    else:
        raise ValueError(f"--port: none of the ports {port} to {port + _PORTS - 1} is free")
    with tempfile.TemporaryFile() as log:
        started = Server(at, _start(uri, at, log.fileno()))
        try:
            while is_wanted() and not _answers(started):
                time.sleep(_LOOK_S)
                if started.has_ended():
                    log.seek(0)
                    end = log.read().decode(errors="replace").strip()[-_LOG_LETTERS:]
                    raise OSError(f"the MLflow server of {redacted(uri)} did not start: {end}")
            yield started if is_wanted() else None
        finally:
            _end(started)


def _start(uri: str, port: int, log: int) -> subprocess.Popen[bytes]:
    # Options would be visible to all users of the machine. Job execution, which is not needed here,
    # would start seven more processes.
    settings = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    place = ("--host", HOST, "--port", str(port), "--workers", "1")
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *place],
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        # A terminal's Ctrl-C is for this process, which ends the server.
        start_new_session=True,
    )


def _end(started: Server) -> None:
    """End a server with its processes."""
    process = started.process
    assert process is not None, "it was started here"
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
    return True


def _answers(started: Server) -> bool:
    return _asked(f"{started.uri}/health") == b"OK"


def _knows(port: int, run: SyncPosition) -> bool:
    """Whether what listens on a port is an MLflow server that knows a run in its experiment."""
    query = urllib.parse.urlencode({"run_id": run.run_id})
    answer = _asked(f"http://{HOST}:{port}/api/2.0/mlflow/runs/get?{query}")
    try:
        info = parse_json(answer, "answer")["run"]["info"]
        found: bool = info["experiment_id"] == run.experiment_id
    except (ValueError, KeyError, TypeError):
        return False
    return found


def _asked(address: str) -> bytes:
    """Return the beginning of an answer; empty if there is none.

    MLflow's own client would send a password to whatever listens there, which may also answer byte
    by byte.
    """

    def ask() -> bytes:
        try:
            with _OPENER.open(address, timeout=_ANSWER_S) as answer:
                found: bytes = answer.read(_MOST_BYTES)
                return found
        except urllib.error.HTTPError as refusal:
            refusal.close()
        except (OSError, ValueError, http.client.HTTPException):
            pass
        return b""

    try:
        return within(_ANSWER_S, ask)
    except TimeoutError:
        return b""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that treats a redirect as an error."""

    def redirect_request(self, *_: object) -> None:
        """Follow none: the server on a port may be another user's."""


# Without the environment's proxies, which don't lead to this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
