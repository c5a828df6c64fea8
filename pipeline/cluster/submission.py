"""Commands as jobs on a Ray cluster: sent with their code, followed, stopped."""

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Protocol
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.cluster.address import connected
from pipeline.cluster.ray_private import server_version
from pipeline.cluster.start import protect_token, refusal, token_file
from pipeline.io.installation import copy_code
from pipeline.io.redaction import redacted
from pipeline.io.threads import beside, within

# Seconds for a job server's first answers, and between two looks at a job that prints nothing.
_ANSWER_S, _LOOK_S = 15.0, 0.25
# Seconds to wait for a cluster that has just started and takes no jobs yet.
_PATIENCE_S = 30.0
_PORTS = {"http": 80, "https": 443}
# Loggers of Ray that tell how the code is packed and sent.
for _name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Job(Protocol):
    """A command that was handed to a cluster."""

    name: str

    def output(self) -> Iterator[str]:
        """Yield what the job prints until it has ended; empty text when there is nothing new."""

    def stop(self) -> None:
        """Ask the job to stop."""

    def result(self) -> tuple[str, int]:
        """Return how the job ended, and its exit status."""

    def commands(self) -> list[str]:
        """Return the commands that follow the job from elsewhere, and stop it."""


class RayJob:
    """A job on the cluster whose dashboard is at `address`."""

    def __init__(self, client: JobSubmissionClient, address: str, name: str) -> None:
        self.name = name
        self._client, self._address = client, address

    def output(self) -> Iterator[str]:
        """Yield what the job prints. Raises ConnectionError if the cluster is lost meanwhile."""
        parts: Queue[str] = Queue()

        async def read() -> None:
            async for part in self._client.tail_job_logs(self.name):
                parts.put(part)

        reading = beside(lambda: asyncio.run(read()))
        while not (reading.done() and parts.empty()):
            try:
                yield parts.get(timeout=_LOOK_S)
            except Empty:
                yield ""
        if reading.exception() or not self._status().is_terminal():
            raise ConnectionError(
                f"{self._address}: the connection was lost, job {self.name} may still run; "
                f"{self.commands()[0]}"
            )

    def stop(self) -> None:
        """Send the job's command SIGTERM, on which training keeps a checkpoint."""
        self._client.stop_job(self.name)

    def result(self) -> tuple[str, int]:
        """Return how the job ended, and its exit status."""
        info = self._client.get_job_info(self.name)
        if info.status == JobStatus.SUCCEEDED:
            return "succeeded", 0
        # The command of a job that could not be started has none.
        code = info.driver_exit_code or 1
        # A signal that ended it, as shells count.
        return info.status.value.lower(), code if code > 0 else 128 - code

    def commands(self) -> list[str]:
        """Return the commands that follow the job from elsewhere, and stop it."""
        there = ["--address", self._address, self.name]
        return [
            shlex.join(["ray", "job", "logs", "--follow", *there]),
            shlex.join(["ray", "job", "stop", *there]),
        ]

    def _status(self) -> JobStatus:
        try:
            return self._client.get_job_status(self.name)
        except (OSError, RuntimeError):
            return JobStatus.RUNNING


def submit(address: str, command: Sequence[str], files: Mapping[str, Path]) -> RayJob:
    """Run a command on the cluster whose dashboard is at `address`, with this code.

    `files` are sent along, by their path in the job's working folder. Raises ValueError if there is
    no such address, and ConnectionError if no cluster answers there, if it refuses this user, or
    has another version of Ray.
    """
    client, address = _client(address)
    with tempfile.TemporaryDirectory(prefix="hourglass-ray-") as folder:
        copy_code(Path(folder))
        for name, path in files.items():
            (Path(folder) / name).write_bytes(path.read_bytes())
        return RayJob(client, address, _taken(client, address, shlex.join(command), folder))


def _taken(client: JobSubmissionClient, address: str, command: str, folder: str) -> str:
    """Return the name of a job that the cluster has taken. Raises ConnectionError if it doesn't."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return client.submit_job(entrypoint=command, runtime_env={"working_dir": folder})
        except RuntimeError as error:
            # As of a cluster that has only just started.
            if "try again later" not in str(error) or time.monotonic() > end:
                reason = re.sub(r"^Request failed with status code \d+: ", "", str(error))
                raise ConnectionError(f"{address}: the job was not taken: {reason}") from error
        time.sleep(1)


def _client(address: str) -> tuple[JobSubmissionClient, str]:
    """Return a client of the job server at an address, and the address as a URL."""
    shown = f"--to {redacted(address)}"
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        host = None
    if not host:
        raise ValueError(
            f"{shown}: expected slurm, or the address of a cluster's dashboard, such as "
            "http://127.0.0.1:8265"
        )
    try:
        connected(host, port).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConnectionError(
            f"{shown}: nothing answers there ({error}); the dashboard's port is 8265 unless "
            "'ray start --head' was given --dashboard-port"
        ) from error
    # Ray's client sends no token unless it is told to, and prefers this address to its argument.
    if os.environ.get("RAY_AUTH_TOKEN") or token_file().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    protect_token()
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        client = within(_ANSWER_S, lambda: JobSubmissionClient(address))
    except RayError as error:
        raise ConnectionError(f"{shown}: {refusal(error)}") from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConnectionError(
            f"{shown}: what answers there is not the dashboard of a Ray cluster, whose port is 8265"
        ) from error
    version = server_version(client)
    if version != ray.__version__:
        raise ConnectionError(
            f"{shown}: the cluster has Ray {version}, this machine {ray.__version__}; install the "
            "same on both"
        )
    return client, address
