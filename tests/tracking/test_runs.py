"""MLflow on a real database: runs are found again, with all that was logged."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.store.db.utils import _get_managed_session_maker
from sqlalchemy.orm import sessionmaker

from pipeline.run.journal import Journal, RunSpec
from pipeline.run.plan import _STORES
from pipeline.tracking.artifacts import log_file, log_folder, log_text
from pipeline.tracking.client import AwayError, machine_lock, mlflow_client
from pipeline.tracking.long_values import record_long
from pipeline.tracking.runs import Run, end_run, set_tags, start_run
from pipeline.tracking.sync import JournalSync


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


def test_the_schemes_that_are_let_through_are_mlflow_s():
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    # The empty one is a folder's.
    assert {*_STORES, ""} == set(_tracking_store_registry._registry)


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    database, tmp_path, request
):
    given = {"params": {}, "tags": {}, "artifacts": tmp_path / "artifacts"}
    name = request.node.name
    run = start_run(database, name, "run", **given)
    MlflowClient(database).delete_experiment(run.experiment_id)
    message = (
        f"tracking.experiment={name!r} was deleted in MLflow; restore it by: MLFLOW_TRACKING_URI="
        f"{database} mlflow experiments restore -x {run.experiment_id}, or give another name"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        start_run(database, name, "run", **given)
    MlflowClient(database).restore_experiment(run.experiment_id)
    assert start_run(database, name, "other", **given).experiment_id == run.experiment_id


def test_long_values_are_cut_and_lie_whole_in_artifacts(database, tmp_path, request):
    shards, note = ",".join(f"/data/train-{n:06d}.tar" for n in range(400)), "word " * 2000
    journal = Journal(tmp_path / "run")
    params, tags = {"data.train": shards, "model.stacks": 2}, {"mlflow.note.content": note}
    spec = RunSpec(
        uri=database,
        experiment=request.node.name,
        name="run",
        params=params,
        tags=tags,
        artifacts=tmp_path / "artifacts",
    )
    for _ in range(2):
        journal.run(spec)
        record_long(journal, params, tags)
    JournalSync(journal.root, database).deliver()
    client = MlflowClient(database)
    experiment = client.get_experiment_by_name(request.node.name)
    [run] = client.search_runs([experiment.experiment_id])
    shown, described = run.data.params["data.train"], run.data.tags["mlflow.note.content"]
    assert (len(shown), len(described)) == (6000, 8000)
    assert shown.startswith("/data/train-000000.tar,")
    assert "... (9,199 characters, whole in whole/data.train.txt, SHA-256 " in shown
    assert "... (10,000 characters, whole in whole/mlflow.note.content.txt, SHA-256 " in described
    named = {key: value for key, value in run.data.tags.items() if key.startswith("whole.")}
    assert named == {
        "whole.data.train": "whole/data.train.txt",
        "whole.mlflow.note.content": "whole/mlflow.note.content.txt",
    }
    assert not any(key.startswith("changed.") for key in run.data.tags)
    folder = tmp_path / "artifacts" / run.info.run_id / "artifacts" / "whole"
    assert (folder / "data.train.txt").read_text() == shards
    assert (folder / "mlflow.note.content.txt").read_text() == note


def test_the_data_of_a_run_are_its_inputs_also_after_another_start(database, tmp_path, request):
    def described(split: str, source: str, context: str) -> dict[str, str]:
        names = {"name": f"made-{split}", "digest": "0a1b2c", "source": source}
        return names | {"people": "12", "context": context}

    datasets = [
        described("train", "s3://pose/train-*.tar?token=secret", "training"),
        described("val", "/data/val.tar,/data/more.tar", "validation"),
        described("x" * 600, "https://host/val.tar", "test"),
    ]
    given = {"params": {}, "tags": {}, "artifacts": tmp_path / "artifacts"}
    for _ in range(2):
        run = start_run(database, request.node.name, "run", datasets=datasets, **given)
    found = {
        item.dataset.name[:12]: (
            item.dataset.digest,
            item.dataset.source_type,
            json.loads(item.dataset.source),
            json.loads(item.dataset.profile),
            {tag.key: tag.value for tag in item.tags},
        )
        for item in MlflowClient(database).get_run(run.run_id).inputs.dataset_inputs
    }
    people, context = {"people": "12"}, "mlflow.data.context"
    train = {"uri": "s3://pose/train-*.tar?token=***"}
    assert found == {
        "made-train": ("0a1b2c", "s3", train, people, {context: "training"}),
        "made-val": (
            *("0a1b2c", "local", {"uri": "/data/val.tar,/data/more.tar"}),
            *(people, {context: "validation"}),
        ),
        "made-xxxxxxx": (
            *("0a1b2c", "http", {"url": "https://host/val.tar"}, people, {context: "test"}),
        ),
    }


def test_a_long_tag_that_is_set_later_is_cut_too(start):
    run = start()
    set_tags(run, {"mlflow.note.content": "x" * 8001})
    tags = stored(run).data.tags
    assert len(tags["mlflow.note.content"]) == 8000
    assert tags["whole.mlflow.note.content"] == "whole/mlflow.note.content.txt"


def test_a_store_of_artifacts_that_is_away_is_named_itself(database, request):
    # No folder can be made there, whoever asks.
    place = Path("/proc/nowhere")
    given = {"params": {}, "tags": {}, "artifacts": place}
    run = start_run(database, request.node.name, "run", **given)
    store = f"the store of artifacts file:///proc/nowhere/{run.run_id}/artifacts"
    with pytest.raises(
        AwayError, match=f"^tracking.uri='{re.escape(database)}': {store}: "
    ) as away:
        log_text(run, "text", "a.txt")
    assert away.value.summary == f"{store} does not answer"


def test_the_lock_of_a_task_is_no_file_of_another(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with machine_lock("a task"):
        pass
    [lock], victim = list(tmp_path.iterdir()), tmp_path / "victim"
    victim.write_text("kept")
    for plant in (lambda: lock.symlink_to(victim), lambda: os.mkfifo(lock), lock.mkdir):
        lock.unlink()
        plant()
        with (
            pytest.raises(AwayError, match=r"is not a plain file of this user .* by TMPDIR$"),
            machine_lock("a task"),
        ):
            raise AssertionError("a link was followed")
    assert victim.read_text() == "kept"


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


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute("begin immediate")
print("locked", flush=True)
time.sleep(600)
"""


def test_a_locked_database_is_one_line_that_names_the_process(tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table runs (name)")
    uri, pipe = f"sqlite:///{path}", subprocess.PIPE
    engine = sqlalchemy.create_engine(uri, connect_args={"timeout": 0})
    # MLflow's own sessions wait 20 seconds first.
    session = _get_managed_session_maker(sessionmaker(bind=engine), "")
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=pipe) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            holder.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
            with pytest.raises(AwayError) as through_mlflow, mlflow_client(uri), session() as held:
                held.execute(sqlalchemy.text("insert into runs values ('mine')"))
            with pytest.raises(AwayError) as direct, mlflow_client(uri), engine.begin() as begun:
                begun.execute(sqlalchemy.text("insert into runs values ('mine')"))
        finally:
            holder.kill()
            engine.dispose()
    assert str(through_mlflow.value) == str(direct.value)
    assert str(direct.value) == (
        f"tracking.uri='{uri}': MLflow: database is locked by process {holder.pid} "
        "(stopped, as by SIGSTOP)"
    )
    assert caplog.text == ""
