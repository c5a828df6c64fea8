"""A real MLflow server with a new database."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.benchmark.rounds.processes import wait_until


@contextmanager
def mlflow_server(folder: Path, new_database: Callable[[Path], str]) -> Iterator[int]:
    """Run a server that stores everything in the new `folder`; yield its port on 127.0.0.1.

    Raises TimeoutError if it doesn't start.
    """
    folder.mkdir()
    uri = new_database(folder / "mlflow.db")
    port = _free_port()
    place = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    store = ("--backend-store-uri", uri)
    files = ("--artifacts-destination", str(folder / "artifacts"))
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *files, *place],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _answers(port))
        yield port
    finally:
        # The server has child processes.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
