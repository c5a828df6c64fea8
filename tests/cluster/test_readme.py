"""README's commands run as they stand."""

import os
import re
import subprocess
import sys
import time

import pytest
from test_documents import ROOT, shell_blocks

from jobs.benchmark.overhead.first_step import breakdown
from jobs.benchmark.rounds.data import pack_rendered
from pipeline.training.probes import STARTUP_FILE, startup_times


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_readmes_commands_run_as_they_stand(tmp_path):
    """But for those that need a cluster, a server that stays, or data that are the reader's."""
    blocks = [
        block
        for block in shell_blocks((ROOT / "README.md").read_text())
        if not re.search(r"hourglass submit|jobs\.ui|jobs\.pack|make ", block)
    ]
    assert [re.search(r"-m (\S+)", block)[1] for block in blocks] == [
        "jobs.train",
        "tune.sweep",
        "jobs.compare",
    ]
    (tmp_path / ".venv").symlink_to(sys.prefix)
    # A smaller dataset in the quickstart's place.
    pack_rendered(tmp_path / "out/synthetic", 30)
    stages = tmp_path / "stages"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        STARTUP_FILE: str(stages),
    }
    script, start = "\n".join(["set -eux", *blocks]), time.time()
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    # The first to note a stage is the training.
    assert min(breakdown(start, startup_times(stages)).values()) > 0
    assert (tmp_path / "runs/two-stacks/epoch_0001/checkpoint.json").exists()
    assert (tmp_path / "runs/stacks/report.html").exists()
    assert "stacks-2" in done.stdout
