"""Training, evaluation and prediction on a GPU: where the host waits for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def waits(tmp_path_factory) -> dict[str, list[str]]:
    """The waits of each case, on a GPU that computes shapes alone."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fake_gpu.py"],
        cwd=tmp_path_factory.mktemp("gpu"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_host_waits_for_no_step_after_an_optimizers_first(waits):
    steps = {name: found for name, found in waits.items() if name.startswith("step")}
    assert len(steps) == 4
    assert set(map(tuple, steps.values())) == {()}, steps


def test_the_host_waits_for_no_bad_step_until_it_describes_it(waits):
    assert waits["bad step"] == []


def test_the_host_waits_once_for_a_batch_with_each_decoding_and_loss(waits):
    batches = {name: found for name, found in waits.items() if name.startswith("evaluation")}
    assert len(batches) == 6
    assert set(map(tuple, batches.values())) == {("copy to cpu",)}, batches


def test_the_host_waits_once_for_a_predicted_batch(waits):
    assert waits["prediction"] == ["copy to cpu"]
