"""The walk from labels to corrected labels runs as docs/labels.md has it."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from test_documents import ROOT, shell_blocks


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_commands_from_labels_to_corrected_labels_run_as_they_stand(tmp_path, tools_dir):
    """But for the epochs, of which one is enough."""
    blocks = shell_blocks((ROOT / "docs/labels.md").read_text())
    script = "\n".join(["set -eux", *blocks]).replace("python -m", f"{sys.executable} -m")
    script, trainings = re.subn(r"--optim\.epochs \d+", "--optim.epochs 1", script)
    assert trainings == 2
    shutil.copytree(tools_dir / "dlc_openfield", tmp_path / "openfield")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert (tmp_path / "out/mouse/joint-set.png").exists()
    images = json.loads((tmp_path / "out/found/predictions.json").read_text())["images"]
    labelled = [image["frame"] for image in images if image["people"]]
    assert labelled == [0, 100, 200, 300]
    corrected = json.loads((tmp_path / "out/corrected/index.json").read_text())
    assert (
        corrected["joint_set"]
        == json.loads((tmp_path / "out/mouse/index.json").read_text())["joint_set"]
    )
    assert "mouse-corrected: epoch 1, 23 people" in done.stdout
