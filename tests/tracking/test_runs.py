"""MLflow on a real database: runs are found again, with all that was logged."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.artifacts import log_file, log_folder, log_text
from pipeline.tracking.client import AwayError, machine_lock, ui_command
from pipeline.tracking.runs import Run, end_run, start_run


@pytest.fixture(scope="module")
def database(tmp_path_factory, new_database) -> str:
    return new_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


@pytest.fixture
def start(database, tmp_path, request):
    """A function that starts a run in the test's own experiment."""

    def started(name: str = "run", parent: Run | None = None, **changes) -> Run:
        given = {"params": {}, "tags": {}, "artifacts": tmp_path / "artifacts"} | changes
        return start_run(database, request.node.name, name, parent=parent, **given)

    return started


def stored(run: Run):
    return MlflowClient(run.uri).get_run(run.run_id)


def test_a_run_has_its_parameters_and_tags(start):
    run = stored(start(params={"model.stacks": 2, "data.flip": True}, tags={"source": "made"}))
    assert run.data.params == {"model.stacks": "2", "data.flip": "True"}
    assert run.data.tags["source"] == "made"
    assert run.info.run_name == "run"
    assert run.info.status == "RUNNING"


def test_a_run_of_the_same_name_resumes(start):
    first = start()
    end_run(first, "FAILED")
    assert stored(first).info.status == "FAILED"
    assert start() == first
    assert stored(first).info.status == "RUNNING"
    assert start("other").run_id != first.run_id


def test_a_name_counts_within_its_parent(start):
    one, other = start("sweep-1"), start("sweep-2")
    trials = [start("trial", parent=one), start("trial", parent=other), start("trial")]
    assert len({run.run_id for run in trials}) == 3
    # And each is found again where it was.
    assert [start("trial", parent=one), start("trial", parent=other), start("trial")] == trials
    assert stored(trials[0]).data.tags["mlflow.parentRunId"] == one.run_id
    assert "mlflow.parentRunId" not in stored(trials[2]).data.tags


def test_a_changed_parameter_keeps_its_first_value_and_is_tagged(start):
    start(params={"optim.epochs": 10, "data.seed": 0})
    run = stored(start(params={"optim.epochs": 20, "data.seed": 0, "data.threads": 2}))
    assert run.data.params == {"optim.epochs": "10", "data.seed": "0", "data.threads": "2"}
    changed = {key: value for key, value in run.data.tags.items() if key.startswith("changed.")}
    assert changed == {"changed.optim.epochs": "20"}


def test_artifacts_are_stored_in_their_folders(start, tmp_path):
    run = start()
    folder = tmp_path / "checkpoint"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(b"12")
    (folder / "deep" / "record").write_text("34")
    log_text(run, "per joint\n", "scores.txt")
    log_file(run, folder / "weights", "overlays")
    log_folder(run, folder, "best_checkpoint")
    root = tmp_path / "artifacts" / run.run_id / "artifacts"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {
        "scores.txt",
        "overlays/weights",
        "best_checkpoint/weights",
        "best_checkpoint/deep/record",
    }
    assert (root / "scores.txt").read_text() == "per joint\n"
    assert (root / "best_checkpoint" / "deep" / "record").read_text() == "34"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_run_ends_with_the_given_status(start, status):
    run = start(f"ends-{status}")
    end_run(run, status)
    assert stored(run).info.status == status
    assert stored(run).info.end_time is not None


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Bound, so that no other process gets it, but not listening.
        yield taken.getsockname()[1]


def test_a_server_that_is_away_is_an_error_within_seconds(closed_port, tmp_path):
    uri = f"http://127.0.0.1:{closed_port}"
    began = time.monotonic()
    with pytest.raises(ValueError, match=f"^{re.escape(f'tracking.uri={uri!r}: MLflow: ')}"):
        start_run(uri, "any", "run", params={}, tags={}, artifacts=tmp_path)
    assert time.monotonic() - began < 30


def test_a_database_that_is_none_is_refused_by_its_uri(tmp_path):
    path: Path = tmp_path / "file.db"
    path.write_text("no database, however long one looks at it")
    uri = f"sqlite:///{path}"
    with pytest.raises(ValueError, match=f"^{re.escape(f'tracking.uri={uri!r}: MLflow: ')}"):
        start_run(uri, "any", "run", params={}, tags={}, artifacts=tmp_path)


def test_the_command_that_opens_the_ui_depends_on_the_uri():
    assert ui_command("http://host:5000") == "open http://host:5000"
    assert ui_command("sqlite:////runs/mlflow.db") == (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server "
        "--backend-store-uri sqlite:////runs/mlflow.db --host 127.0.0.1 --port 5000 --workers 1"
    )


def test_a_process_that_never_finishes_a_task_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("pipeline.tracking.client._LOCK_S", 0.1)
    with machine_lock("this task"):
        with machine_lock("another task"):
            pass
        with (
            pytest.raises(
                AwayError, match=r"held /\S+\.lock for 0\.1 s: .* may be stopped or hang$"
            ),
            machine_lock("this task"),
        ):
            raise AssertionError("two processes have the task")
    with machine_lock("this task"):
        pass
