"""jobs.ui: it finds or starts the server of a database, prints the link, and ends in order."""

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from answering_server import answering

import jobs.ui
from pipeline.io.processes import descendants, wait_for_end
from pipeline.tracking import ui
from pipeline.tracking.runs import start_run
from pipeline.tracking.sync_state import SyncPosition

RUN = SyncPosition(uri="sqlite:////m.db", experiment_id="3", run_id="a" * 32)
# A server that answers as MLflow's does when it is ready.
READY = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


class Known(BaseHTTPRequestHandler):
    """Answers as an MLflow server that has `RUN` alone."""

    def do_GET(self) -> None:
        has_run = self.path == f"/api/2.0/mlflow/runs/get?run_id={RUN.run_id}"
        self.send_response(200 if has_run else 404)
        self.end_headers()
        info = {"run_id": RUN.run_id, "experiment_id": RUN.experiment_id}
        self.wfile.write(json.dumps({"run": {"info": info}} if has_run else {}).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def running():
    """A server that has `RUN`; yields its port."""
    server = HTTPServer(("127.0.0.1", 0), Known)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def quick(monkeypatch):
    """Start a small server in place of MLflow's."""

    def start(uri: str, port: int, log: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", READY, str(port)]
        return subprocess.Popen(words, start_new_session=True, stderr=log, stdout=log)

    monkeypatch.setattr(ui, "_start", start)


def test_a_server_that_knows_the_run_is_used(running):
    with ui.server("sqlite:////m.db", running, RUN, lambda: True) as found:
        assert found.uri == f"http://127.0.0.1:{running}"
        assert found.process is None


@pytest.mark.parametrize("kind", ["nested", "byte by byte", "redirect"])
def test_what_else_listens_on_a_port_is_no_server_of_ours(monkeypatch, kind):
    monkeypatch.setattr(ui, "_ANSWER_S", 0.5)
    is_over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if kind == "redirect" and "elsewhere" not in handler.path:
            handler.send_response_only(302)
            handler.send_header("Location", "/elsewhere")
            handler.end_headers()
            return
        handler.send_response_only(200)
        handler.end_headers()
        if kind == "nested":
            handler.wfile.write(b"[" * 10**5)
        while kind == "byte by byte" and not is_over.wait(0.05):
            handler.wfile.write(b" ")

    with answering() as server:
        server.answer = answer
        assert not ui._knows(server.server_port, RUN)
        assert not [path for path in server.asked if "elsewhere" in path]
        is_over.set()


def test_a_server_of_another_store_is_passed_over_and_ours_ends_with_us(running, quick):
    other = SyncPosition(uri=RUN.uri, experiment_id="3", run_id="b" * 32)
    with ui.server("sqlite:////m.db", running, other, lambda: True) as found:
        assert found.uri != f"http://127.0.0.1:{running}"
        assert not found.has_ended()
        process = found.process
    assert process.poll() is not None


def test_a_server_that_is_not_wanted_any_more_is_ended_at_once(running, quick):
    with ui.server("sqlite:////m.db", running, None, lambda: False) as found:
        assert found is None


def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(running, monkeypatch):
    def start(uri: str, port: int, log: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", "raise SystemExit('no such table')"]
        return subprocess.Popen(words, start_new_session=True, stderr=log, stdout=log)

    monkeypatch.setattr(ui, "_start", start)
    with (
        pytest.raises(OSError, match=r"sqlite:////m\.db did not start: no such table$"),
        ui.server("sqlite:////m.db", running, None, lambda: True),
    ):
        pass


def test_a_server_that_does_not_answer_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        jobs.ui.main(["none", "--tracking.uri", "http://127.0.0.1:9"])
    assert end.value.code == 2
    assert "tracking.uri='http://127.0.0.1:9'" in capsys.readouterr().err


def test_a_port_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        jobs.ui.main(["--port", "70000"])
    assert end.value.code == 2
    assert "--port must be from 1 to 65515, got 70000" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_s_server_is_started_found_again_and_ended(tmp_path: Path, new_database, running):
    uri = new_database(tmp_path / "mlflow.db")
    run = start_run(uri, "first", "one", params={}, tags={}, artifacts=tmp_path)
    words = [sys.executable, "-m", "jobs.ui", "one", "--tracking.uri", uri]
    words += ["--port", str(running)]
    root = Path(jobs.ui.__file__).parents[1]
    options = {"cwd": root, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen(words, **options)
    try:
        address = first.stdout.readline().strip()
        server, _, page = address.partition("/#/")
        assert page.startswith(f"experiments/1/runs/{run.run_id}?")
        asked = f"{server}/api/2.0/mlflow/runs/get?run_id={run.run_id}"
        with urllib.request.urlopen(asked) as answer:
            assert json.load(answer)["run"]["info"]["run_name"] == "one"
        started = descendants(first.pid)
        assert started
        again = subprocess.run(words, check=True, **options)
        assert again.stdout == f"{address}\na server that runs already shows it\n"
        first.send_signal(signal.SIGINT)
        assert first.stdout.read() == "Ctrl-C ends the server\nthe server has ended\n"
        assert first.wait(60) == 0
        assert wait_for_end(started, 10)
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
