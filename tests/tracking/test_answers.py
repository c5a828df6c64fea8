"""Answers of an MLflow server that never end, lead elsewhere, or have another shape."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import pytest
from answering_server import Answer, Server, answering

from pipeline.tracking import answers
from pipeline.tracking.artifacts import download_folder
from pipeline.tracking.client import AwayError, RefusedError, mlflow_client
from pipeline.tracking.runs import Run


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with answering() as server:
        yield server


def uri(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def whole(body: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def endless(block: bytes, wait: threading.Event | None = None) -> Answer:
    """Answer without an end; with `wait`, slowly."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while wait is None or not wait.wait(0.05):
                handler.wfile.write(block)

    return answer


def test_an_answer_of_more_bytes_than_a_list_of_runs_is_given_up(server, monkeypatch):
    monkeypatch.setattr(answers, "_MOST_BYTES", 2**20)
    server.answer = endless(b" " * 2**16)
    with (
        pytest.raises(AwayError, match="an answer of more than the 1,048,576 bytes expected"),
        mlflow_client(uri(server)) as client,
    ):
        client.search_experiments()


def test_an_answer_that_comes_byte_by_byte_is_given_up(server, monkeypatch):
    monkeypatch.setattr(answers, "_PATIENCE_S", 0.5)
    is_over = threading.Event()
    server.answer = endless(b" ", is_over)
    try:
        with (
            pytest.raises(AwayError, match="bytes that takes too long"),
            mlflow_client(uri(server)) as client,
        ):
            client.search_experiments()
    finally:
        is_over.set()


def test_a_head_that_comes_byte_by_byte_is_given_up(server, monkeypatch):
    monkeypatch.setattr(answers, "_PATIENCE_S", 0.5)
    is_over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        with suppress(OSError):
            while not is_over.wait(0.05):
                handler.wfile.write(b"a")

    server.answer = answer
    try:
        with (
            pytest.raises(AwayError, match=r"no answer within 0\.5"),
            mlflow_client(uri(server)) as client,
        ):
            client.search_experiments()
    finally:
        is_over.set()


def test_a_file_without_end_is_given_up(server, monkeypatch, tmp_path):
    monkeypatch.setattr(answers, "_MOST_FILE_BYTES", 2**20)
    listed = whole(b'{"files": [{"path": "a.txt", "is_dir": false, "file_size": 3}]}')
    run = whole(b'{"run": {"info": {"run_id": "a", "artifact_uri": "mlflow-artifacts:/1/a"}}}')

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "runs/get" in handler.path:
            return run(handler)
        return listed(handler) if "?" in handler.path else endless(b" " * 2**16)(handler)

    server.answer = answer
    with pytest.raises(AwayError, match="an answer of more than the 1,048,576 bytes expected"):
        download_folder(
            Run(uri=uri(server), experiment_id="1", run_id="a" * 32),
            "x",
            tmp_path,
            lambda names: names,
        )
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2**20


def test_a_redirect_of_an_mlflow_server_is_not_followed(server):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answer = answer
    with pytest.raises(AwayError, match="302"), mlflow_client(uri(server)) as client:
        client.get_run("a" * 32)
    assert not [path for path in server.asked if "elsewhere" in path]


@pytest.mark.parametrize(
    "body", [b"[]", b'{"run": 5}', b'{"run": {"info": {"run_id": {}}}}', b"[" * 10**5, b"\xff"]
)
def test_an_answer_of_another_shape_is_one_sentence(server, body):
    server.answer = whole(body)
    with (
        pytest.raises((AwayError, RefusedError), match="MLflow"),
        mlflow_client(uri(server)) as client,
    ):
        client.get_run("a" * 32)
