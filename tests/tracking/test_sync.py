"""JournalSync on a real database: every entry of the journal arrives, in order and once."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

import jobs.deliver
from pipeline.run.journal import Journal, RunSpec
from pipeline.run.ownership import Owner, SupersededError, Writer, newest_claim, own
from pipeline.run.storage import publish
from pipeline.tracking import sync
from pipeline.tracking.client import AwayError, DoubtfulError
from pipeline.tracking.recording import end_abandoned, set_aside
from pipeline.tracking.runs import Run, find_or_create_run, state_of
from pipeline.tracking.sync import JournalSync, deliver
from pipeline.tracking.uploader import Uploader


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module")
def uri(database, new_database) -> str:
    return new_database(database)


@pytest.fixture
def begin(uri, tmp_path, request):
    """A function that starts the journal of a run in the test's own experiment."""

    def begun(name: str = "run", **changes) -> Journal:
        journal = Journal(tmp_path / name)
        spec = {"params": {}, "tags": {}, "experiment": request.node.name, "uri": uri} | changes
        journal.run(RunSpec(name=name, artifacts=tmp_path / "artifacts", **spec))
        return journal

    return begun


def recorded(uri: str, experiment: str, name: str = "run"):
    """Return the only run of a name from MLflow."""
    client = MlflowClient(uri)
    place = client.get_experiment_by_name(experiment).experiment_id
    [run] = [run for run in client.search_runs([place]) if run.info.run_name == name]
    return run


def rows(database: Path, run) -> list[tuple]:
    """Return the run's rows of the metrics table, in the order of their insertion."""
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "select key, step, value, timestamp from metrics where run_uuid = ? order by rowid",
            [run.info.run_id],
        ).fetchall()


def waiting(journal: Journal, uri: str) -> dict[str, int]:
    return dict(JournalSync(journal.root, uri).backlog().waiting)


def test_the_end_of_a_run_in_haste_does_not_wait_for_an_artifact(begin, uri, request, monkeypatch):
    reached, released, ended = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(sync, "log_text", lambda *_: (reached.set(), released.wait(60)))
    end_run = sync.end_run
    monkeypatch.setattr(sync, "end_run", lambda *args: (end_run(*args), ended.set()))
    journal = begin()
    journal.text("per joint\n", "scores.txt")
    uploader = Uploader(journal.root, uri)
    assert reached.wait(60)
    journal.end("KILLED")
    uploader.finish()
    assert ended.wait(60)
    assert recorded(uri, request.node.name).info.status == "KILLED"
    assert waiting(journal, uri) == {"text": 1, "end": 1}
    released.set()
    assert not uploader.close(60)


def test_the_end_of_a_run_whose_start_was_not_sent_waits_for_it(begin):
    journal = begin(uri="http://127.0.0.1:1")
    journal.end("KILLED")
    JournalSync(journal.root, "http://127.0.0.1:1").end_ahead()


def test_every_entry_of_a_journal_arrives(begin, uri, database, request, tmp_path):
    journal = begin(params={"model.stacks": 2}, tags={"source": "made"})
    (journal.root / "best" / "deep").mkdir(parents=True)
    (journal.root / "best" / "deep" / "weights").write_bytes(b"12")
    (journal.root / "overlay.png").write_bytes(b"34")
    journal.metrics({"loss": 3.0}, 1)
    journal.file(journal.root / "overlay.png", "overlays")
    journal.metrics({"loss": 2.0}, 2)
    journal.folder(journal.root / "best", "best_checkpoint")
    journal.text("per joint\n", "scores.txt")
    journal.tags({"stage": "done"})
    journal.end("KILLED")
    deliver(journal.root, uri)

    run = recorded(uri, request.node.name)
    times = {entry.seq: entry.time_ms for entry in journal.entries()}
    assert run.data.params == {"model.stacks": "2"}
    assert {key: run.data.tags[key] for key in ("source", "stage")} == {
        "source": "made",
        "stage": "done",
    }
    assert rows(database, run) == [("loss", 1, 3.0, times[2]), ("loss", 2, 2.0, times[4])]
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "KILLED",
        times[1],
        times[8],
    )
    root = tmp_path / "artifacts" / run.info.run_id / "artifacts"
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in files.items()} == {
        "overlays/overlay.png": b"34",
        "best_checkpoint/deep/weights": b"12",
        "scores.txt": b"per joint\n",
    }
    assert not JournalSync(journal.root, uri).backlog()


def test_delivered_entries_are_not_sent_again(begin, uri):
    journal = begin()
    journal.metrics({"loss": 3.0}, 1)
    first, second = JournalSync(journal.root, uri), JournalSync(journal.root, uri)
    first.send()
    assert first.sent == {"run": 1, "metrics": 1}
    journal.metrics({"loss": 2.0}, 2)
    first.send()
    assert first.sent == {"run": 1, "metrics": 2}
    third = JournalSync(journal.root, uri)
    third.send()
    assert third.sent == {}
    # One with an older position sends again, which changes nothing.
    second.send()
    assert second.sent == {"run": 1, "metrics": 2}


def test_system_metrics_arrive_beside_the_entries(begin, uri, database, request):
    journal = begin()
    machine = Journal(journal.root, "system.jsonl")
    journal.metrics({"loss": 3.0}, 1)
    machine.metrics({"system/cpu_utilization_percentage": 50.0}, 1)
    assert waiting(journal, uri) == {"run": 1, "metrics": 1, "system": 1}
    started = JournalSync(journal.root, uri)
    started.send()
    assert started.sent == {"run": 1, "metrics": 1, "system": 1}
    machine.metrics({"system/cpu_utilization_percentage": 60.0}, 2)
    deliver(journal.root, uri)
    stored = rows(database, recorded(uri, request.node.name))
    assert [row[:3] for row in stored] == [
        ("loss", 1, 3.0),
        ("system/cpu_utilization_percentage", 1, 50.0),
        ("system/cpu_utilization_percentage", 2, 60.0),
    ]
    (journal.root / "delivered.json").unlink()
    deliver(journal.root, uri)
    assert rows(database, recorded(uri, request.node.name)) == stored
    assert not JournalSync(journal.root, uri).backlog()


@pytest.mark.parametrize("dies_after", [1, 2, 3])
def test_a_process_killed_before_it_saves_its_position_sends_nothing_twice(
    begin, uri, database, request, monkeypatch, dies_after
):
    journal = begin()
    journal.metrics({"loss": 3.0, "pckh": 0.1}, 1)
    journal.end("FAILED")
    noted = iter(range(1, 10))

    def note(folder, position):
        if next(noted) == dies_after:
            raise KeyboardInterrupt
        write_position(folder, position)

    write_position = sync.write_position
    monkeypatch.setattr(sync, "write_position", note)
    with pytest.raises(KeyboardInterrupt):
        deliver(journal.root, uri)
    monkeypatch.undo()
    pending = JournalSync(journal.root, uri).backlog().waiting
    assert sum(pending.values()) == 3 - (dies_after - 1)

    deliver(journal.root, uri)
    run = recorded(uri, request.node.name)
    [_, entry, end] = journal.entries()
    assert rows(database, run) == [
        ("loss", 1, 3.0, entry.time_ms),
        ("pckh", 1, 0.1, entry.time_ms),
    ]
    assert (run.info.status, run.info.end_time) == ("FAILED", end.time_ms)


def test_a_resumed_run_is_running_again_in_the_same_mlflow_run(begin, uri, database, request):
    journal = begin(params={"optim.epochs": 1})
    journal.metrics({"loss": 3.0}, 1)
    journal.end("FAILED")
    deliver(journal.root, uri)
    begin(params={"optim.epochs": 2}).metrics({"loss": 2.0}, 2)
    deliver(journal.root, uri)
    run = recorded(uri, request.node.name)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"optim.epochs": "1"}
    assert run.data.tags["changed.optim.epochs"] == "2"
    assert [row[:3] for row in rows(database, run)] == [("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_many_entries_go_in_few_requests_in_order(begin, uri, database, request, monkeypatch):
    journal = begin()
    for step in range(1, 6):
        journal.metrics({f"metric_{number:03d}": step * number for number in range(400)}, step)
        journal.text("", f"{step}.txt")
    sizes = []

    def log_points(run, points):
        sizes.append(len(points))
        logged(run, points)

    logged = sync.log_points
    monkeypatch.setattr(sync, "log_points", log_points)
    deliver(journal.root, uri)
    assert sizes == [800, 800, 400]
    stored = rows(database, recorded(uri, request.node.name))
    assert [row[:3] for row in stored] == [
        (f"metric_{number:03d}", step, step * number)
        for step in range(1, 6)
        for number in range(400)
    ]


def test_a_refused_entry_is_named_and_blocks_no_other(begin, uri, request, capsys):
    journal = begin()
    journal.metrics({"fine": 1.0, "not\nfine": 2.0, "good": 3.0}, 1)
    journal.file(journal.root / "absent.png", "overlays")
    journal.metrics({"fine": 0.5}, 2)
    started = JournalSync(journal.root, uri)
    started.send()
    run = recorded(uri, request.node.name)
    assert run.data.metrics == {"fine": 0.5, "good": 3.0}
    assert started.sent == {"run": 1, "metrics": 1}
    refused = [
        json.loads(line) for line in (journal.root / "undeliverable.jsonl").read_text().splitlines()
    ]
    assert [(line["seq"], line["content"]) for line in refused] == [
        (
            2,
            {"name": "not\nfine", "value": 2.0, "step": 1, "time_ms": journal.entries()[1].time_ms},
        ),
        (3, {"path": "absent.png", "folder": "overlays"}),
    ]
    assert "Invalid value" in refused[0]["reason"]
    assert refused[1]["reason"] == f"{journal.root}/absent.png does not exist any more"
    backlog = JournalSync(journal.root, uri).backlog()
    assert str(backlog) == f"MLflow refused 2, listed in {journal.root}/undeliverable.jsonl"
    assert f"skipped line 3 of {journal.path}: " in capsys.readouterr().out


def add_line(journal: Journal, **content) -> None:
    """Append an entry as a stranger may write it."""
    head = {"seq": len(journal.entries()) + 1, "time_ms": 1}
    with journal.path.open("a") as file:
        file.write(json.dumps(head | content) + "\n")


def test_only_files_in_the_runs_folder_are_sent(begin, uri, request, tmp_path):
    journal, key = begin(), tmp_path / "id_rsa"
    key.write_text("a private key")
    folder = journal.root / "figures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "curves.png").symlink_to(key)
    (journal.root / "link.png").symlink_to(key)
    (journal.root / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(journal.root / "pipe")
    for path in (str(key), "../id_rsa", "link.png", "elsewhere/id_rsa", "pipe", "", 7, "a\0b"):
        add_line(journal, kind="file", path=path, folder="")
    add_line(journal, kind="folder", path="figures", at="figures")
    add_line(journal, kind="model", path="elsewhere", name="epoch", step=1)
    started = JournalSync(journal.root, uri)
    started.send()
    refused = (journal.root / "undeliverable.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in refused] == list(range(2, 12))
    assert "leads out of" in json.loads(refused[-1])["reason"]
    assert started.sent == {"run": 1}
    assert not list((tmp_path / "artifacts").rglob("*"))
    assert not JournalSync(journal.root, uri).backlog().waiting


@pytest.mark.parametrize("place", ["../../../x.py", "/tmp/hourglass-x.py", "a/../../x.py"])
def test_an_entry_cannot_choose_a_place_outside_the_runs_artifacts(begin, uri, tmp_path, place):
    journal = begin()
    (journal.root / "figures").mkdir()
    (journal.root / "figures" / "a.png").write_bytes(b"1")
    add_line(journal, kind="text", text="print()", path=place)
    add_line(journal, kind="file", path="figures/a.png", folder=place)
    add_line(journal, kind="folder", path="figures", at=place)
    started = JournalSync(journal.root, uri)
    started.send()
    assert started.sent == {"run": 1}
    assert not list(tmp_path.rglob("x.py"))
    assert not Path("/tmp/hourglass-x.py").exists()


def test_a_picture_of_a_step_is_also_laid_where_the_image_grid_looks(begin, uri, request, tmp_path):
    journal = begin()
    whole, cut = journal.root / "whole.png", journal.root / "cut.png"
    Image.new("RGB", (8, 4)).save(whole)
    cut.write_bytes(whole.read_bytes()[:40])
    journal.file(whole, "overlays", 2)
    journal.file(cut, "overlays", 3)
    started = JournalSync(journal.root, uri)
    started.send()
    (journal.root / "delivered.json").unlink()
    deliver(journal.root, uri)

    run = recorded(uri, request.node.name)
    assert started.sent == {"run": 1, "file": 1}
    assert run.data.tags["mlflow.loggedImages"] == "True"
    kept = tmp_path / "artifacts" / run.info.run_id / "artifacts"
    assert sorted(path.name for path in (kept / "overlays").iterdir()) == ["cut.png", "whole.png"]
    at = f"overlays+step+2+timestamp+{journal.entries()[1].time_ms}+"
    images = sorted(path.name for path in (kept / "images").iterdir())
    assert [name.startswith(at) for name in images] == [True, True]
    assert images[0] == images[1].replace(".webp", "+compressed.webp")
    [refused] = (journal.root / "undeliverable.jsonl").read_text().splitlines()
    assert f"{cut} is not a picture" in json.loads(refused)["reason"]


def test_an_entry_refused_by_a_doubtful_error_is_sent_again(begin, uri, request, monkeypatch):
    journal = begin()
    journal.metrics({"loss": 1.0}, 1)
    monkeypatch.setattr(sync, "_RETRIES_S", (0.0, 0.0))
    answers = iter(["QueuePool limit", "QueuePool limit", ""])

    def log_points(run, points):
        if reason := next(answers):
            raise DoubtfulError(reason)
        logged(run, points)

    logged = sync.log_points
    monkeypatch.setattr(sync, "log_points", log_points)
    deliver(journal.root, uri)
    assert recorded(uri, request.node.name).data.metrics == {"loss": 1.0}
    assert not JournalSync(journal.root, uri).backlog()


def test_a_file_that_cannot_be_stored_blocks_no_other_entry(begin, uri, request, monkeypatch):
    journal = begin()
    journal.metrics({"loss": 3.0}, 1)
    for name in ("a", "b", "c"):
        (journal.root / name).write_text(name)
        journal.file(journal.root / name, "files")
    journal.metrics({"loss": 2.0}, 2)
    taken = []

    def log_file(run, path, folder):
        if path.name == "b" and len(taken) < 2:
            raise AwayError("the store is full")
        taken.append(path.name)

    monkeypatch.setattr(sync, "log_file", log_file)
    with pytest.raises(AwayError, match="the store is full"):
        deliver(journal.root, uri)
    assert recorded(uri, request.node.name).data.metrics == {"loss": 2.0}
    assert taken == ["a", "c"]
    assert waiting(journal, uri) == {"file": 1}
    deliver(journal.root, uri)
    assert taken == ["a", "c", "b"]
    assert waiting(journal, uri) == {}


def test_a_trial_finds_or_makes_the_run_of_its_sweep(begin, uri, request):
    trial, sweep = begin("trial", parent="sweep"), begin("sweep", params={"space": "stacks"})
    deliver(trial.root, uri)
    made = recorded(uri, request.node.name, "sweep")
    sweep.end("FINISHED")
    deliver(sweep.root, uri)
    trial.end("FAILED")
    deliver(trial.root, uri)
    other = begin("other", parent="sweep")
    deliver(other.root, uri)
    parent = recorded(uri, request.node.name, "sweep")
    assert parent.info.run_id == made.info.run_id
    assert parent.data.params == {"space": "stacks"}
    # A trial that comes late does not set its sweep running again.
    assert parent.info.status == "FINISHED"
    for name in ("trial", "other"):
        tags = recorded(uri, request.node.name, name).data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id


def test_two_processes_that_look_for_the_same_run_create_one(uri, request, tmp_path):
    place = (uri, request.node.name, "sweep")
    find_or_create_run(uri, request.node.name, "another", artifacts=tmp_path)
    gate, found = threading.Barrier(4), []

    def look():
        gate.wait()
        found.append(find_or_create_run(*place, artifacts=tmp_path).run_id)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [recorded(uri, request.node.name, "sweep").info.run_id] * 4


def test_a_run_that_was_deleted_waits_until_it_is_restored(begin, uri, request):
    journal = begin()
    deliver(journal.root, uri)
    run_id = recorded(uri, request.node.name).info.run_id
    MlflowClient(uri).delete_run(run_id)
    journal.metrics({"loss": 1.0, "pckh": 2.0}, 1)
    deleted = f"run {run_id} was deleted in MLflow at {uri}; restore it by: "
    with pytest.raises(AwayError, match=f"^{deleted}.* runs restore --run-id {run_id}$"):
        deliver(journal.root, uri)
    assert waiting(journal, uri) == {"metrics": 1}
    MlflowClient(uri).restore_run(run_id)
    deliver(journal.root, uri)
    assert recorded(uri, request.node.name).data.metrics == {"loss": 1.0, "pckh": 2.0}


def test_a_database_that_has_lost_the_run_gets_all_of_it(begin, uri, database, request):
    journal = begin()
    journal.metrics({"loss": 3.0}, 1)
    deliver(journal.root, uri)
    lost = Run(
        uri=uri,
        experiment_id="0",
        run_id=recorded(uri, request.node.name).info.run_id,
    )
    with sqlite3.connect(database) as connection:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            connection.execute(f"delete from {table} where run_uuid = ?", [lost.run_id])
    assert state_of(lost) == "absent"
    journal.metrics({"loss": 2.0}, 2)
    deliver(journal.root, uri)
    run = recorded(uri, request.node.name)
    assert [row[:3] for row in rows(database, run)] == [("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_an_experiment_that_was_deleted_is_an_error_that_loses_nothing(begin, uri, request):
    journal = begin()
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment(request.node.name))
    with pytest.raises(AwayError, match="deleted"):
        deliver(journal.root, uri)
    assert waiting(journal, uri) == {"run": 1}


def test_a_damaged_sync_state_is_named(begin, uri):
    journal = begin()
    (journal.root / "delivered.json").write_text('{"uri": ')
    with pytest.raises(ValueError, match=r"^.*/run/delivered\.json is damaged: "):
        deliver(journal.root, uri)


def test_a_journal_that_does_not_begin_with_a_run_is_named(tmp_path, uri):
    Journal(tmp_path).end("FAILED")
    with pytest.raises(ValueError, match=r"journal\.jsonl: line 1 must be of kind 'run'$"):
        deliver(tmp_path, uri)


# The command


def test_the_command_delivers_several_runs_to_where_they_were_started(begin, uri, capsys):
    one, other = begin("one"), begin("other")
    one.metrics({"loss": 3.0}, 1)
    jobs.deliver.main([str(one.root), str(other.root)])
    assert capsys.readouterr().out.splitlines() == [
        f"{one.root}: sent 2 entries (1 run, 1 metrics) to {uri}",
        f"{other.root}: sent 1 entry (1 run) to {uri}",
    ]


def test_the_command_delivers_a_run_that_lies_in_a_bucket(
    begin, uri, tmp_path, capsys, monkeypatch, memory_store
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    journal = begin("in-a-bucket")
    journal.metrics({"loss": 3.0}, 1)
    publish(journal.root, "s3://bucket/runs/in-a-bucket")
    jobs.deliver.main(["s3://bucket/runs/in-a-bucket"])
    sent = "s3://bucket/runs/in-a-bucket: sent 2 entries (1 run, 1 metrics) to"
    assert sent in capsys.readouterr().out
    with pytest.raises(SystemExit):
        jobs.deliver.main(["s3://bucket/runs/none"])
    assert "s3://bucket/runs/none: no run there, expected" in capsys.readouterr().err


def test_a_server_that_a_journal_names_gets_no_password(begin, monkeypatch):
    journal = begin(uri="http://127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    with pytest.raises(ValueError, match=r"names the server http://127.0.0.1:9/, which would get"):
        jobs.deliver.uri_of(journal.root, "")
    assert jobs.deliver.uri_of(journal.root, "http://127.0.0.1:9/") == "http://127.0.0.1:9/"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    assert jobs.deliver.uri_of(journal.root, "") == "http://127.0.0.1:9/"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    assert jobs.deliver.uri_of(journal.root, "") == "http://127.0.0.1:9/"


def test_the_command_lists_pending_entries(begin, uri, capsys, monkeypatch):
    def log_points(run, points):
        raise AwayError("no answer")

    journal, whole = begin("one"), begin("other")
    journal.metrics({"loss": 3.0}, 1)
    journal.end("FINISHED")
    monkeypatch.setattr(sync, "log_points", log_points)
    with pytest.raises(SystemExit) as end:
        jobs.deliver.main([str(journal.root), str(whole.root)])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"error: MLflow lacks 2 entries (1 metrics, 1 end) of {journal.root} (no answer); "
        f"to send them: python -m jobs.deliver {journal.root}\n"
    )
    assert waiting(whole, uri) == {}


def test_the_command_asks_for_a_password_that_the_journal_does_not_hold(
    begin, uri, capsys, monkeypatch
):
    journal = begin(uri="http://me:secret@host:5000")
    with pytest.raises(SystemExit) as end:
        jobs.deliver.main([str(journal.root)])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {journal.path} has the URI http://***@host:5000 without its secrets; "
        "give the complete one by --tracking-uri or MLFLOW_TRACKING_URI\n"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert jobs.deliver.uri_of(journal.root, "") == "http://me:secret@host:5000"
    jobs.deliver.main([str(journal.root), "--tracking-uri", uri])
    assert waiting(journal, uri) == {}


# Runs without an end

HOLD = """
import sys, time
from pathlib import Path
from pipeline.run.ownership import own
with own(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def driver(tmp_path):
    """A process that owns the run in tmp_path / "run", as its driver does."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_run_whose_driver_was_killed_is_ended_by_the_command(begin, uri, request, driver, capsys):
    journal = begin()
    jobs.deliver.main([str(journal.root)])
    assert recorded(uri, request.node.name).info.status == "RUNNING"
    driver.kill()
    driver.wait()
    capsys.readouterr()
    jobs.deliver.main([str(journal.root)])
    assert recorded(uri, request.node.name).info.status == "KILLED"
    assert capsys.readouterr().out.splitlines() == [
        f"{journal.root}: its driver ended without recording it; the run is marked as KILLED",
        f"{journal.root}: sent 1 entry (1 end) to {uri}",
    ]
    # A second call is a no-op.
    assert not end_abandoned(journal.root)


def test_the_workers_of_an_abandoned_run_that_was_ended_write_no_more(begin, driver):
    journal = begin()
    claim = newest_claim(journal.root)
    worker = Writer.of_worker(journal.root, claim.owner)
    Journal(journal.root, writer=worker).metrics({"val_loss": 1.0}, 1)
    driver.kill()
    driver.wait()
    assert end_abandoned(journal.root)
    with pytest.raises(SupersededError, match="run was taken over by process"):
        Journal(journal.root, writer=worker).metrics({"val_loss": 0.5}, 2)
    assert [entry.kind for entry in journal.entries()] == ["run", "metrics", "end"]


def test_a_run_without_an_owner_is_not_ended(begin):
    assert not end_abandoned(begin().root)


def test_nothing_is_sent_for_a_run_that_another_start_has_taken_over(begin, uri, request):
    root = begin().root
    former = Writer(root, Owner.of_this_process())
    journal = Journal(root, writer=former)
    journal.metrics({"val_loss": 1.0}, 1)
    sync = JournalSync(root, uri, former)
    sync.send()
    journal.metrics({"val_loss": 0.5}, 2)
    with own(root, "run"):
        position = (root / "delivered.json").read_bytes()
        with pytest.raises(SupersededError, match="run was taken over by process"):
            sync.send()
        with pytest.raises(SupersededError):
            JournalSync(root, uri, former).send()
        assert (root / "delivered.json").read_bytes() == position
    assert (
        MlflowClient(uri)
        .get_metric_history(recorded(uri, request.node.name).info.run_id, "val_loss")[-1]
        .value
        == 1.0
    )


# Runs that start over


def test_a_run_that_starts_over_keeps_the_former_one_under_another_name(
    begin, uri, request, tmp_path
):
    former, experiment = begin(), request.node.name
    former.metrics({"val_loss": 3.0}, 1)
    (former.root / "epoch_0001").mkdir()
    deliver(former.root, uri)
    run_id = recorded(uri, experiment).info.run_id
    former.metrics({"val_loss": 2.0}, 2)
    kept = tmp_path / "run-before-2"
    (tmp_path / "run-before-1").mkdir()
    with own(former.root, "run") as writer:
        set_aside(former.root, uri, writer)
        assert [path.name for path in former.root.iterdir()] == ["owners"]
    assert sorted(path.name for path in kept.iterdir()) == [
        *("delivered.json", "epoch_0001", "journal.jsonl")
    ]
    new = begin()
    new.metrics({"val_loss": 1.0}, 1)
    deliver(new.root, uri)
    # Also when all of the former run is sent again.
    (kept / "delivered.json").unlink()
    deliver(kept, uri)
    client, found = MlflowClient(uri), {}
    for name in ("run-before-2", "run"):
        run = recorded(uri, experiment, name)
        history = client.get_metric_history(run.info.run_id, "val_loss")
        found[name] = run.info.status, [(point.step, point.value) for point in history]
    assert found == {
        "run-before-2": ("KILLED", [(1, 3.0), (2, 2.0)]),
        "run": ("RUNNING", [(1, 1.0)]),
    }
    assert recorded(uri, experiment, "run-before-2").info.run_id == run_id


def test_a_run_does_not_start_over_while_mlflow_could_not_tell_it_from_the_former_one(
    begin, uri, tmp_path, monkeypatch
):
    former = begin()

    def away(*_: object) -> None:
        raise AwayError("away")

    monkeypatch.setattr(sync, "reach", away)
    with own(former.root, "run") as writer, pytest.raises(AwayError):
        set_aside(former.root, uri, writer)
    assert sorted(path.name for path in former.root.iterdir()) == ["journal.jsonl", "owners"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert former.entries()[-1].content["tags"]["hourglass.name"] == "run"


def test_a_run_that_was_recorded_elsewhere_starts_over_without_that_server(begin, uri, tmp_path):
    former = begin(uri="http://127.0.0.1:9")
    with own(former.root, "run") as writer:
        set_aside(former.root, uri, writer)
    assert (tmp_path / "run-before-1" / "journal.jsonl").exists()
