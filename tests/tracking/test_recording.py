"""The record of a run that a signal ends while it waits: for its owner, MLflow, or an upload."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.run.journal import RunSpec
from pipeline.run.ownership import Owner, own
from pipeline.tracking import recording
from pipeline.tracking.sync_state import SyncPosition

RECORD = """
import sys, threading
from pathlib import Path
from pipeline.io.console import clear_errors
from pipeline.run.journal import RunSpec
from pipeline.run.ownership import own
from pipeline.tracking.recording import record
{patch}
forever = threading.Event().wait

folder = Path(sys.argv[1])
spec = RunSpec(
    uri="http://127.0.0.1:1", experiment="e", name="r", params={{}}, tags={{}}, artifacts=folder
)
with clear_errors(), own(folder, "run r") as writer, record(spec, folder, writer, {prepare}) as run:
    run.begin()
"""
# A server that accepts connections, and does not answer.
MLFLOW = RECORD.format(patch="", prepare="lambda: (print('here', flush=True), forever())")
# An artifact that is sent takes long; the program has done the rest.
UPLOAD = RECORD.format(
    patch="""
from pipeline.tracking import recording
from pipeline.tracking.sync import JournalSync
# A busy machine may take longer than the moment that an interrupted program waits.
recording._HASTE_S = recording._LAST_S = 3.0
JournalSync.send = lambda self: (print("here", flush=True), forever())
JournalSync.end_ahead = lambda self: (folder / "sent").write_text(self._journal.path.read_text())
""",
    prepare="list",
)


def ended_by(number: signal.Signals, program: str, folder: Path, begin: str) -> tuple[int, str]:
    """Send a signal when a program has printed a line that begins so; return status and errors."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(begin)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


def kinds(journal: Path) -> list[str]:
    """List the kinds of a journal's entries, an end by its status."""
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    return [entry.get("status", entry["kind"]) for entry in entries]


def test_a_run_that_waits_for_mlflow_ends_by_a_signal_and_is_recorded_as_killed(tmp_path):
    found = ended_by(signal.SIGTERM, MLFLOW, tmp_path, "here")
    assert found == (143, "error: stopped by SIGTERM\n")
    assert kinds(tmp_path / "journal.jsonl") == ["run", "KILLED"]


def test_a_run_that_waits_for_its_last_upload_ends_by_a_signal_and_sends_its_end_first(tmp_path):
    found = ended_by(signal.SIGINT, UPLOAD, tmp_path, "here")
    assert found == (130, "error: stopped by SIGINT\n")
    assert kinds(tmp_path / "sent") == ["run", "FINISHED"]


def test_a_run_that_waits_for_its_last_owner_ends_by_a_signal_and_records_nothing(tmp_path):
    claims = tmp_path / "owners"
    claims.mkdir()
    owner = replace(Owner.of_this_process(), host="far", machine="another boot")
    (claims / "00000001.json").write_text(json.dumps(asdict(owner)))
    found = ended_by(signal.SIGHUP, MLFLOW, tmp_path, "run r: waiting for at most ")
    assert found == (129, "error: stopped by SIGHUP\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["owners", "00000001.json"]


@pytest.mark.parametrize(
    ("uri", "parent", "wanted"),
    [
        (
            "http://me:secret@mlflow:5000",
            "",
            ["in MLflow: http://mlflow:5000/#/experiments/3/runs/ab?workflowType=machine_learning"],
        ),
        ("http://mlflow:5000", "sweep", []),
        ("sqlite:////mlflow.db", "", []),
    ],
)
def test_a_run_prints_its_page_on_a_server_when_it_begins(
    tmp_path, monkeypatch, capsys, uri, parent, wanted
):
    position = SyncPosition(uri=uri, experiment_id="3", run_id="ab")
    monkeypatch.setattr(recording, "recorded_runs", lambda folders: [position])
    monkeypatch.setattr(recording.RunRecorder, "_upload", lambda self: None)
    given = {"experiment": "e", "name": "r", "params": {}, "tags": {}, "artifacts": tmp_path}
    spec = RunSpec(uri=uri, parent=parent, **given)
    with own(tmp_path, "run r") as writer, recording.record(spec, tmp_path, writer, list) as run:
        capsys.readouterr()
        run.begin()
        assert capsys.readouterr().out.splitlines() == wanted
