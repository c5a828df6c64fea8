"""The address of a cluster to join: a wrong one is an error at once that names its origin."""

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from ray._private.utils import check_version_info

from pipeline.cluster import address, start
from pipeline.cluster.address import check_answer, named_cluster
from pipeline.cluster.start import refusal
from pipeline.run.plan import SUBMITTED


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("setting", "variable", "expected"),
    [
        ("", None, ("", "")),
        ("local", "192.0.2.1:6379", ("", "")),
        ("", "local", ("", "")),
        ("", "192.0.2.1:6379", ("192.0.2.1:6379", "RAY_ADDRESS")),
        ("192.0.2.2:6379", "192.0.2.1:6379", ("192.0.2.2:6379", "ray.address")),
    ],
)
def test_the_setting_comes_before_the_environment(monkeypatch, setting, variable, expected):
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert named_cluster(setting) == expected


def test_nothing_is_asked_where_a_cluster_is_started():
    check_answer("")
    check_answer("local")


@pytest.mark.parametrize(
    "wrong", ["192.0.2.1", "head", "head:", ":6379", "head:ray", "http://head:8265", "ray://head"]
)
def test_what_is_no_address_is_named_with_an_example(wrong):
    with pytest.raises(ValueError, match=r"^ray\.address='.*': expected host:port, such as ") as e:
        check_answer(wrong)
    assert repr(wrong) in str(e.value)


@pytest.fixture
def closed() -> str:
    """Return an address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_where_nothing_listens_is_an_error_that_names_the_setting(closed):
    with pytest.raises(ConnectionError, match=f"^ray.address='{closed}': nothing answers there"):
        check_answer(closed)
    with pytest.raises(ConnectionError, match=f"^ray.address='ray://{closed}': nothing answers"):
        check_answer(f"ray://{closed}")


def test_or_the_variable(closed, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(ConnectionError, match=f"^RAY_ADDRESS='{closed}': nothing answers there"):
        check_answer("")


def test_a_cluster_that_does_not_answer_is_refused_before_ray_waits_for_it(closed, monkeypatch):
    monkeypatch.setattr(start.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(start.ray, "init", lambda **_: pytest.fail("Ray would wait for minutes"))
    with pytest.raises(ConnectionError, match="nothing answers there"), start.cluster(closed):
        pass


@pytest.mark.parametrize("name", ["nowhere.invalid:6379", "127.0.0.1:70000", f"{'x' * 64}.org:1"])
def test_a_name_without_a_host_and_a_port_that_can_not_be_are_errors(name):
    with pytest.raises(ConnectionError, match="nothing answers there"):
        check_answer(name)


def test_a_look_up_that_hangs_is_given_up(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(address, "_CONNECT_S", 0.1)
    monkeypatch.setattr(address, "_connected", lambda host, port: over.wait(60))
    with pytest.raises(ConnectionError, match=r"nothing answers there \(no answer within 0.1 s\)"):
        check_answer("head:6379")
    over.set()


class Page(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def page() -> Iterator[str]:
    """A web server, such as Ray's dashboard."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_web_server_is_not_a_cluster(page):
    with pytest.raises(ConnectionError, match=f"^ray.address='{page}': what answers there is not"):
        check_answer(page)


def test_a_server_that_says_nothing_is_not_a_cluster(monkeypatch):
    monkeypatch.setattr(address, "_ANSWER_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ConnectionError, match="what answers there is not a Ray cluster"),
    ):
        check_answer(f"127.0.0.1:{silent.getsockname()[1]}")


def test_the_wait_for_an_answer_ends_by_a_signal():
    program = (
        "import sys\n"
        "from pipeline.cluster import address\n"
        "from pipeline.io.console import clear_errors\n"
        "address._ANSWER_S = 600\n"
        "with clear_errors('the same command resumes the run'):\n"
        "    address.check_answer(sys.argv[1])\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-c", program, name]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                connection, _ = server.accept()
                with connection:
                    process.send_signal(signal.SIGTERM)
                    _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
    assert process.returncode == 143
    assert errors == "error: stopped by SIGTERM; the same command resumes the run\n"


def test_auto_without_a_cluster_on_this_machine_names_the_way_out(monkeypatch):
    def none(name: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("pipeline.cluster.ray_private.resolved", none)
    with pytest.raises(ConnectionError, match=r"^ray.address='auto': no Ray cluster runs on this"):
        check_answer("auto")


def test_other_versions_on_the_cluster_are_one_sentence_with_both(monkeypatch):
    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.9.3", "python_version": "3.9.1"}, "10.0.0.1")
    sentence = refusal(raised.value)
    assert re.match(
        r"other versions than here; install the same on both: The cluster was started with: "
        r"Ray: 2\.9\.3 Python: 3\.9\.1 This process on 10\.0\.0\.1 was started with: Ray: 2\.",
        sentence,
    )
    assert "\n" not in sentence


def test_a_token_that_is_missing_or_wrong_is_one_sentence_with_the_way_out():
    # Ray puts the stack of the error into the message of another.
    error = ray.exceptions.AuthenticationError("RPC error: InvalidAuthToken")
    stack = f"Traceback (most recent call last):\nray.exceptions.AuthenticationError: {error}"
    wrapped = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    wrapped.__cause__ = RuntimeError(f"Failed to connect to GCS. Last connection error: {stack}")
    for raised in (error, wrapped):
        assert "copy its ~/.ray/auth_token to this machine and set RAY_AUTH_MODE=token" in refusal(
            raised
        )


def test_a_token_that_others_can_read_is_made_private(monkeypatch, tmp_path, capsys):
    token = tmp_path / "auth_token"
    token.write_text("hunter2")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    start.protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert f"{token} was readable by other users" in capsys.readouterr().out
    start.protect_token()
    assert not capsys.readouterr().out


def test_of_other_errors_the_last_line_is_kept():
    stack = "Traceback (most recent call last):\n  File a.py\nray.exceptions.RpcError: no route"
    assert refusal(RuntimeError(stack)) == (
        "Ray can't join the cluster: ray.exceptions.RpcError: no route"
    )
    assert refusal(TimeoutError()) == "Ray can't join the cluster: TimeoutError"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The arguments of ray.init, which is replaced."""
    arguments: dict[str, object] = {}
    monkeypatch.setattr(start.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(start.ray, "init", lambda **words: arguments.update(words))
    monkeypatch.setattr(start.ray, "shutdown", lambda: None)
    monkeypatch.setattr(start, "check_answer", lambda address: None)
    monkeypatch.delenv(SUBMITTED, raising=False)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
    return arguments


def test_a_cluster_that_is_joined_gets_the_code(given):
    with start.cluster("192.0.2.1:6379"):
        folders = given["runtime_env"]["py_modules"]
    assert [Path(folder).name for folder in folders] == ["pipeline", "jobs", "tune"]


def test_a_submitted_job_has_brought_its_code(given, monkeypatch):
    monkeypatch.setenv(SUBMITTED, "{}")
    with start.cluster("192.0.2.1:6379"):
        assert given["runtime_env"] is None


def test_a_folder_too_long_for_sockets_is_replaced_and_named(given, monkeypatch, capsys):
    # "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store" has 68 bytes.
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + "x" * 38)
    with start.cluster("local"):
        assert given["_temp_dir"] is None
    monkeypatch.setenv("TMPDIR", "/" + "x" * 39)
    with start.cluster("local"):
        assert given["_temp_dir"] == "/tmp/ray"
    assert (
        "too long a path for Ray's sockets; Ray's files go to /tmp/ray" in capsys.readouterr().out
    )


def test_a_start_that_fails_is_tried_once_more(given, monkeypatch, capsys):
    attempts = []

    def init(**words: object) -> None:
        attempts.append(words)
        if len(attempts) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(start.ray, "init", init)
    with start.cluster("local"):
        assert len(attempts) == 2
    assert "Ray did not start (The current node timed out during startup.); trying once more" in (
        capsys.readouterr().out
    )


def test_and_then_it_is_an_error_with_the_reason_and_the_logs(given, monkeypatch):
    def init(**words: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(start.ray, "init", init)
    with (
        pytest.raises(ConnectionError, match=r"in two attempts: The current .*_latest/logs$"),
        start.cluster("local"),
    ):
        pass
