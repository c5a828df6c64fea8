"""Programs that the soak starts and ends, each in its own session with its output in a file."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

_PATIENCE_S = 120.0


class Program:
    """A running command and the processes that it starts; its output is appended to `log`."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] = {}
    ) -> None:
        self._name = " ".join(command[:3])
        with log.open("ab") as file:
            # In its own session Ctrl-C does not reach it: the soak ends what it has started.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | dict(environment),
            )

    @property
    def process(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Wait for the exit status. Raises TimeoutError."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self._name} still runs after {seconds:g} s") from error

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program itself."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the program and to what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Server:
    """An MLflow server on 127.0.0.1 with SQLite that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._program: Program | None = None

    @property
    def uri(self) -> str:
        """Its address, also while it is down."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        words = ["server", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        words += ["--artifacts-destination", str(self._folder / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        self._program = Program(
            [*python("mlflow"), *words],
            self._folder / "mlflow.log",
            {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def wait(self) -> None:
        """Wait until it answers. Raises TimeoutError."""
        end = time.monotonic() + _PATIENCE_S
        while not self.answers():
            if time.monotonic() > end:
                raise TimeoutError(f"no answer at {self.uri}; see {self._folder / 'mlflow.log'}")
            time.sleep(0.5)

    def kill(self) -> None:
        """Kill it and its workers."""
        if self._program is not None:
            self._program.kill()
            self._program = None


def python(module: str) -> list[str]:
    """Return the words that begin the command of a Python module."""
    return [sys.executable, "-m", module]


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that are free now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]
