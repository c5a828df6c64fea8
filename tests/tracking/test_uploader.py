"""Uploader to a real MLflow server that is killed, restarted, and stopped during an answer."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import checkpoint
from waiting import until

import jobs.deliver
from pipeline.run.checkpoint_manager import enter_models
from pipeline.run.journal import Journal, RunSpec
from pipeline.tracking import uploader as module
from pipeline.tracking.client import AwayError
from pipeline.tracking.sync import JournalSync, deliver
from pipeline.tracking.uploader import Uploader

pytestmark = pytest.mark.slow


class Server:
    """A `mlflow server` on a SQLite file, whose processes are signalled together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        store = ("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}")
        files = ("--artifacts-destination", str(self._folder / "artifacts"))
        place = ("--host", "127.0.0.1", "--port", str(self._port), "--workers", "1")
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, *files, *place],
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        until(self._answers, 200)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def points(self, name: str) -> list[tuple]:
        """(metric, step, value, time) of the run called `name`, in the order of insertion."""
        with sqlite3.connect(self._folder / "mlflow.db") as connection:
            return connection.execute(
                "select m.key, m.step, m.value, m.timestamp from metrics m join runs r "
                "on r.run_uuid = m.run_uuid where r.name = ? order by m.rowid",
                [name],
            ).fetchall()

    def artifacts(self) -> dict[str, bytes]:
        files = (self._folder / "artifacts").rglob("*")
        return {path.name: path.read_bytes() for path in files if path.is_file()}

    def files(self, name: str) -> list[Path]:
        return list((self._folder / "artifacts").rglob(name))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory, new_database) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    new_database(folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Check the journal often, and time out early."""
    monkeypatch.setattr(module, "_CHECK_S", 0.05)
    monkeypatch.setattr(module, "_LONGEST_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """The lines that uploaders print."""
    printed: list[str] = []
    for name in ("say", "say_text"):
        monkeypatch.setattr(module, name, printed.append)
    return printed


def begin(folder: Path, uri: str) -> Journal:
    journal = Journal(folder)
    artifacts = folder.parent / "mlruns"
    journal.run(
        RunSpec(uri=uri, experiment="e", name=folder.name, params={}, tags={}, artifacts=artifacts)
    )
    return journal


def add(journal: Journal, *steps: int) -> None:
    for step in steps:
        journal.metrics({"loss": 1 / step, "pckh": step / 3}, step)
        picture = journal.root / f"{journal.root.name}-{step}.png"
        picture.write_text(f"picture {step}")
        journal.file(picture, "overlays")


def expected(journal: Journal) -> list[tuple]:
    """The points in a journal, as the server should have them."""
    return [
        (name, entry.content["step"], value, entry.time_ms)
        for entry in journal.entries()
        if entry.kind == "metrics"
        for name, value in entry.content["values"].items()
    ]


def test_a_restarted_server_has_every_entry_once_and_in_order(server, tmp_path, lines):
    journal = begin(tmp_path / "killed", server.uri)
    uploader = Uploader(journal.root, server.uri)
    add(journal, 1, 2)
    until(lambda: not JournalSync(journal.root, server.uri).backlog())
    assert server.points("killed") == expected(journal)
    server.kill()
    add(journal, 3, 4)
    until(lambda: len(lines) == 1)
    assert lines[0].startswith(
        f"MLflow at {server.uri} does not answer: 4 entries wait on disk, and training continues ("
    )
    assert len(server.points("killed")) == 4
    add(journal, 5)
    server.start()
    until(lambda: server.points("killed") == expected(journal))
    add(journal, 6)
    journal.end("FINISHED")
    assert not uploader.close(60)
    assert lines[1:] == [f"MLflow at {server.uri} is back, and has all that waited"]
    assert [row[:2] for row in server.points("killed")] == [
        (name, step) for step in range(1, 7) for name in ("loss", "pckh")
    ]
    assert server.points("killed") == expected(journal)
    pictures = {name: text for name, text in server.artifacts().items() if "killed" in name}
    assert pictures == {f"killed-{step}.png": f"picture {step}".encode() for step in range(1, 7)}


def test_a_server_that_hangs_blocks_no_run_and_gets_the_rest_by_the_command(
    server, tmp_path, lines, capsys
):
    journal = begin(tmp_path / "hangs", server.uri)
    uploader = Uploader(journal.root, server.uri)
    add(journal, 1)
    until(lambda: not JournalSync(journal.root, server.uri).backlog())
    server.signal(signal.SIGSTOP)
    try:
        add(journal, 2)
        until(lambda: len(lines) == 1)
        add(journal, 3)
        journal.end("FINISHED")
        backlog = uploader.close(0.5)
        assert backlog.waiting == {"metrics": 2, "file": 2, "end": 1}
        assert f"to send them: python -m jobs.deliver {journal.root}" in str(backlog)
    finally:
        server.signal(signal.SIGCONT)
    jobs.deliver.main([str(journal.root)])
    # The server may have handled requests that timed out. They are repeated, and stored once.
    assert f"{journal.root}: sent " in capsys.readouterr().out
    assert server.points("hangs") == expected(journal)
    assert not JournalSync(journal.root, server.uri).backlog()


def test_no_request_is_made_where_the_journal_is_empty(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.5)
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        uploader = Uploader(tmp_path / "none", uri)
        with pytest.raises(TimeoutError):
            listening.accept()
        assert not uploader.close(10)


# Servers that never were there


@pytest.fixture
def silent() -> Iterator[str]:
    """The URI of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URI of a port that is reserved and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("kind", "reason"), [("silent", "no answer within 0.5 s"), ("refusing", "API request to ")]
)
def test_a_server_that_is_away_is_an_error_before_anything_starts(
    request, tmp_path, monkeypatch, kind, reason
):
    uri = request.getfixturevalue(kind)
    # The limit holds for any limit of a single request.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setattr("pipeline.tracking.sync._REACH_S", 0.5)
    journal = begin(tmp_path / "run", uri)
    with pytest.raises(AwayError, match=f"^tracking.uri='{uri}': MLflow: {reason}"):
        deliver(journal.root, uri)
    assert not (journal.root / "delivered.json").exists()


def test_a_run_ends_though_its_server_never_answered(tmp_path, lines, refusing):
    journal = begin(tmp_path / "run", refusing)
    uploader = Uploader(journal.root, refusing)
    until(lambda: len(lines) == 1)
    journal.end("FINISHED")
    backlog = uploader.close(10)
    assert backlog.waiting == {"run": 1, "end": 1}
    assert str(backlog).startswith(
        f"MLflow lacks 2 entries (1 run, 1 end) of {journal.root} (track"
    )
    assert len(lines) == 1


def test_a_run_ends_though_a_request_never_does(tmp_path, monkeypatch, silent):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    journal = begin(tmp_path / "run", silent)
    backlog = Uploader(journal.root, silent).close(0.5)
    assert backlog.waiting == {"run": 1}
    assert backlog.reason == "the upload takes longer than 0.5 s"


def test_a_bug_in_the_upload_is_printed_and_spares_the_run(tmp_path, lines, refusing):
    journal = begin(tmp_path / "run", refusing)
    (journal.root / "delivered.json").write_text("{")
    uploader = Uploader(journal.root, refusing)
    until(lambda: len(lines) == 1)
    assert lines[0].startswith("the upload to MLflow has stopped:\nTraceback")
    with pytest.raises(ValueError, match=r"delivered\.json is damaged"):
        uploader.close(10)


def test_models_reach_a_server_and_are_removed_with_their_files(server, tmp_path, lines, capsys):
    journal = begin(tmp_path / "models", server.uri)
    for number, headline in ((1, 10.0), (2, 20.0)):
        checkpoint(journal.root / f"epoch_{number:04d}", {"pckh_0.5": headline})
        journal.metrics({"pckh_0.5": headline}, number)
        enter_models(journal, journal.root, "pckh_0.5", 1)
        deliver(journal.root, server.uri)
        assert len(server.files("weights.safetensors")) == 1
    journal.register("epoch_0002", "served", "pckh_0.5", 20.0, "people")
    deliver(journal.root, server.uri)
    assert "registered epoch_0002 as served version 1, the champion" in capsys.readouterr().out
    assert not JournalSync(journal.root, server.uri).backlog()
    assert server.points("models") == expected(journal)
