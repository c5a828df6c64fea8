"""Programs that the soak starts, and ends: in sessions of their own, with what they say in a file."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 120.0


class Program:
    """A Python module that runs as a program, with all that it starts; `log` is added to."""

    def __init__(
        self, module: str, words: Sequence[str], log: Path, environment: Mapping[str, str] = {}
    ) -> None:
        self._module = module
        with log.open("ab") as file:
            # Its own session: Ctrl-C is the soak's, which ends what it has started in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | dict(environment),
            )

    @property
    def process(self) -> int:
        """Its process number."""
        return self._process.pid

    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Wait for its exit status. Raises TimeoutError."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self._module} still runs after {seconds:g} s") from error

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program itself."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it has started, without a chance to do anything about it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Server:
    """An MLflow server on 127.0.0.1 with SQLite, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._program: Program | None = None

    @property
    def uri(self) -> str:
        """Where it answers, or did."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        words = ["server", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        words += ["--artifacts-destination", str(self._folder / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        self._program = Program(
            "mlflow",
            words,
            self._folder / "mlflow.log",
            {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )

    def answers(self) -> bool:
        """Whether it does now."""
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
        """End it and its workers at once."""
        if self._program is not None:
            self._program.kill()
            self._program = None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def children(parents: Collection[int]) -> set[int]:
    """Processes that one of the parents has started and that still run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        # A process may end while its file is read.
        with suppress(OSError):
            # The name, in brackets, may hold spaces and brackets of its own.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) in parents and state != "Z":
                found.add(int(path.parent.name))
    return found


def kill(processes: Collection[int]) -> None:
    """End processes at once; those that have ended don't matter."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
