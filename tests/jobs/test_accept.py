"""The acceptance of a machine, on a CPU, where it is small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_benchmark_step import ABSENT, BARE

from jobs.accept import __main__ as command
from jobs.accept.checks import Check, Place, at_least, at_most, equal, fact

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_accepts_a_cpu_with_torch_numpy_and_opencv_alone(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE.format(absent=ABSENT))
    path = tmp_path / "accept.json"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.accept", "--device", "cpu", "--json", path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("accepted\n")
    result = json.loads(path.read_text())
    assert (result["device"], result["failed"], len(result["parts"])) == ("cpu", 0, 10)
    checks = [check for part in result["parts"] for check in part["checks"]]
    bounded = [check for check in checks if check["bound"]]
    assert len(bounded) >= 40
    assert all(check["ok"] for check in checks)
    changes = {check["name"]: check["value"] for check in checks}
    assert changes["tensors that rmsprop changes by a good step"] > 50


def test_a_bound_holds_for_finite_values_alone():
    for value, ok in ((1.0, True), (1.1, False), (float("nan"), False), (-float("inf"), False)):
        assert at_most("a", value, 1.0).ok is ok
    for value, ok in ((1.0, True), (0.9, False), (float("nan"), False), (float("inf"), False)):
        assert at_least("a", value, 1.0).ok is ok
    assert (equal("a", 0, 0).ok, equal("a", "x", "no").ok, fact("a", float("nan")).ok) == (
        *(True, False, True),
    )
    assert at_most("error", 0.5, 0.1).line == "  error: 0.5  (at most 0.1)  FAILED"
    assert fact("GPU", "none").line == "  GPU: none"


def test_a_failed_check_or_part_ends_with_status_1_after_the_other_parts(
    tmp_path, monkeypatch, capsys
):
    path, seen = tmp_path / "accept.json", []

    def broken(place: Place):
        yield fact("first", 1.0)
        raise RuntimeError("no kernel")

    def failing(place: Place):
        # What is known so far is on disk.
        seen.append([part["part"] for part in json.loads(path.read_text())["parts"]])
        yield at_most("error", float("nan"), 0.1)
        yield Check(name="last", value=2.0)

    monkeypatch.setattr(command, "_parts", lambda **_: {"one": broken, "two": failing})
    with pytest.raises(SystemExit) as ended:
        command.main(["--device", "cpu", "--json", str(path)])
    assert ended.value.code == 1
    assert seen == [["one"]]
    printed = capsys.readouterr()
    assert "the part ended early: RuntimeError: no kernel" in printed.out
    assert "2 checks failed" in printed.err + printed.out
    parts = json.loads(path.read_text())["parts"]
    assert [[check["ok"] for check in part["checks"]] for part in parts] == [
        [True, False],
        [False, True],
    ]
    assert parts[1]["checks"][0]["value"] == "nan"


def test_a_gpu_is_refused_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["--device", "cuda"])
    printed = capsys.readouterr()
    assert "--device must be cpu or auto where torch finds no GPU" in printed.err + printed.out
