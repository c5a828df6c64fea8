"""The record of a run that a signal ends while MLflow is contacted."""

import json
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, threading
from pathlib import Path
from pipeline.io.console import clear_errors
from pipeline.run.journal import RunSpec
from pipeline.run.ownership import own
from pipeline.tracking.recording import record

def prepare():
    print("here", flush=True)
    threading.Event().wait()  # a server that accepts connections, and does not answer

folder = Path(sys.argv[1])
spec = RunSpec(
    uri="http://127.0.0.1:1", experiment="e", name="r", params={}, tags={}, artifacts=folder
)
with clear_errors(), own(folder, "run r") as writer, record(spec, folder, writer, prepare) as run:
    run.begin()
"""


def test_a_run_that_waits_for_mlflow_ends_by_a_signal_and_is_recorded_as_killed(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "error: stopped by SIGTERM\n")
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["kind"] for entry in entries] == ["run", "end"]
    assert "KILLED" in lines[-1]
