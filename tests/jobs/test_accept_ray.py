"""The acceptance of training on Ray, with two workers on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_two_workers_train_as_one_does_and_as_ever_after_one_was_killed(tmp_path):
    path = tmp_path / "accept.json"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.accept", "--ray", "--device", "cpu", "--json", path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    parts = json.loads(path.read_text())["parts"]
    checks = {check["name"]: check["value"] for part in parts for check in part["checks"]}
    assert checks["half a GPU for each of two workers"] == "refused"
    assert checks["processes killed with SIGKILL"] == 1
    assert checks["addresses beside loopback that listen"] == "none"
    assert checks["largest difference of weights after a worker was killed"] == 0.0
