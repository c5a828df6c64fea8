"""jobs.compare: runs are found in folders and in MLflow, and compared in a sentence each."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import jobs.compare
from pipeline.evaluation.per_person import PEOPLE_NAME, PersonResults
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import LSP, MPII, JointSet
from pipeline.run.checkpoint import take_snapshot, write_checkpoint
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.settings import Settings
from pipeline.tracking.artifacts import log_folder
from pipeline.tracking.runs import Run, start_run
from pipeline.tracking.sync_state import SyncPosition, write_position

PEOPLE = 50


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def cases_of(right: int, people: int = PEOPLE, joint_set: JointSet = MPII) -> PersonResults:
    """All joints of the first `right` people are within 0.1 head sizes, the others' beyond 0.5."""
    joints = len(joint_set.joints)
    errors = np.full((people, joints), 0.75)
    errors[:right] = 0.05
    keys = [f"person-{number:03d}" for number in range(people)]
    by_measure = {measure.key: errors for measure in joint_set.measures}
    number = np.arange(people)
    return PersonResults.of(keys, number, number, np.zeros((people, joints, 2)), by_measure)


def checkpoint(
    folder: Path, epoch: int, cases: PersonResults | None, joint_set=MPII, **changes
) -> Path:
    """Write a checkpoint after `epoch` with its people's results, if any, and their PCKh."""
    settings = Settings.from_flat(
        {
            "model.stacks": 1,
            "model.features": 8,
            "model.joints": len(joint_set.joints),
            "model.input_px": 64,
            "ray.name": folder.name,
        }
        | changes
    )
    metrics = {} if cases is None else {"pckh_0.5": float(np.mean(cases.errors["pckh"] <= 0.5))}
    made = CheckpointMetadata(
        settings=settings, joint_set=joint_set, progress=Progress(epochs=epoch), metrics=metrics
    )
    snapshot = take_snapshot(build_network(settings.model, 0, torch.device("cpu")), made)
    extras = {} if cases is None else {PEOPLE_NAME: cases.to_bytes()}
    path = folder / f"epoch_{epoch:04d}"
    path.mkdir(parents=True)
    write_checkpoint(path, replace(snapshot, extras=extras))
    return path


@pytest.fixture
def runs(working_folder) -> Path:
    """Two runs: `one` with 20 of 50 people right, `two` with 30 at its best and 10 at its end."""
    folder = working_folder / "runs"
    checkpoint(folder / "one", 1, cases_of(20))
    checkpoint(folder / "two", 1, cases_of(30), **{"optim.epochs": 7, "data.seed": 3})
    checkpoint(folder / "two", 2, cases_of(10), **{"optim.epochs": 7, "data.seed": 3})
    return folder


def run(*arguments: object) -> None:
    jobs.compare.main([str(argument) for argument in arguments])


def error_on_failure(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.strip()


def test_two_runs_are_compared_at_their_best(runs, capsys):
    run("one", "runs/two", "--json", "c.json", "--csv", "c.csv")
    output = capsys.readouterr().out
    assert output.startswith(
        "settings that differ:\n  data.seed: 0 | 3\n  optim.epochs: 100 | 7\n\n"
    )
    lines = (re.split(r" {2,}", line) for line in output.splitlines())
    rows = {head: cells for head, *cells in lines}
    assert rows["PCKh@0.5"] == rows["PCKh@0.1"] == ["40.00", "60.00", "+20.00"]
    assert rows["left_wrist"] == ["40.00", "60.00", "+20.00"]
    # All that are right are so from 0.05 on, of 0 to 0.5: 45 of 50 hundredths, and half of one.
    assert rows["AUC 0-0.5"] == ["36.40", "54.60", "+18.20"]
    assert "one: epoch 1, 50 people\ntwo: epoch 1, 50 people\n" in output
    sentence = r"^PCKh@0\.5: two is better than one by 20\.00 points, 95% interval \+1"
    assert re.search(sentence, output, re.M)
    assert "note: 50 images are few: the interval holds" in output
    assert output.count("note:") == 1
    content = json.loads(Path("c.json").read_text())
    assert content["settings"] == {"data.seed": [0, 3], "optim.epochs": [100, 7]}
    first, second = content["runs"]
    assert (first["run"], first["differences"]) == ("one", [])
    assert second["run"] == "runs/two"
    half, tenth = second["differences"]
    assert (half["threshold"], half["points"], half["is_resolved"]) == (0.5, 20.0, True)
    # Of 50 people each gains nothing or all: ten of them, whose number varies by the binomial.
    assert (half["low"], half["high"]) == (pytest.approx(10, abs=2), pytest.approx(32, abs=2))
    assert tenth["threshold"] == 0.1
    assert second["scores"]["pooled"]["0.5"] == 60.0
    table = pd.read_csv("c.csv", index_col="metric")
    assert list(table) == ["one", "two", "two vs first"]
    assert table.loc["PCKh@0.5"].tolist() == [40.0, 60.0, 20.0]


def test_a_checkpoint_means_itself_and_a_run_beside_itself_is_equal(runs, capsys):
    run("runs/two/epoch_0002", "runs/two/epoch_0001", "runs/two", "--ray.storage", "elsewhere")
    output = capsys.readouterr().out
    assert "settings: all the same" in output
    assert "two/epoch_0002: epoch 2" in output
    assert "PCKh@0.5: two/epoch_0001 is better than two/epoch_0002 by 40.00" in output
    capsys.readouterr()
    run("runs/two", "runs/two/epoch_0001")
    output = capsys.readouterr().out
    equal = "do not differ significantly: +0.00 points, 95% interval +0.00 to +0.00"
    assert f"PCKh@0.5: two/epoch_0001 and two {equal}" in output


def test_runs_that_share_some_people_are_noted(runs, capsys):
    checkpoint(runs / "more", 1, cases_of(30, people=80))
    run("one", "more")
    output = capsys.readouterr().out
    note = "note: one and more share 50 of 50 and 80 people; the intervals are of these alone"
    assert note in output
    # Of the 50 more has 30 right, of its 80 no more than 37.5 %.
    assert "PCKh@0.5: more is better than one by 20.00 points" in output
    assert re.search(r"^PCKh@0.5 +40.00 +37.50 +-2.50$", output, re.M)


def test_runs_that_cannot_be_compared_are_refused(runs, capsys):
    folder = runs / "other"
    made = checkpoint(folder, 1, cases_of(3, joint_set=LSP), LSP)
    message = error_on_failure(capsys, "one", "other")
    assert message == "error: one and other have different joint sets: mpii and lsp"
    people = made / PEOPLE_NAME
    people.write_bytes(cases_of(3).to_bytes())
    message = error_on_failure(capsys, "one", "other")
    damaged = "checksum mismatch: the file was modified after it was written"
    assert message == f"error: {people}: {damaged}"
    bare = checkpoint(runs / "bare", 3, None)
    message = error_on_failure(capsys, "one", bare)
    assert message.startswith(
        f"error: {bare}: no people.npz, as it was written without an evaluation"
    )
    assert message.endswith(f"--data.val SHARDS --people {bare}/people.npz")
    message = error_on_failure(capsys, "one", "bare")
    assert message == f"error: {runs}/bare: none of its 1 checkpoints has been evaluated yet"
    message = error_on_failure(capsys, "one", "runs")
    assert message == "error: runs: holds no checkpoint, expected the folder of a run or of one"


# MLflow


@pytest.fixture(scope="module")
def database(tmp_path_factory, new_database) -> str:
    """A database with runs `one` and `two`, and two runs `twice`, one without a checkpoint."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = new_database(folder / "mlflow.db")

    def started(experiment: str, name: str) -> Run:
        place = {"params": {}, "tags": {}, "artifacts": folder / "artifacts"}
        return start_run(uri, experiment, name, **place)

    for name, right in (("one", 20), ("two", 30), ("twice", 10)):
        path = checkpoint(folder / "runs" / name, 4, cases_of(right))
        log_folder(started("first", name), path, "best_checkpoint")
    started("second", "twice")
    return uri


@pytest.mark.slow
def test_runs_of_mlflow_are_compared_by_name_and_id(database, runs, capsys):
    found = start_run(database, "first", "two", params={}, tags={}, artifacts=Path())
    # Here there is a `one` too, which comes first; `two` by its id is of MLflow.
    run("one", found.run_id, "--tracking.uri", database)
    output = capsys.readouterr().out
    assert f"one: epoch 1, 50 people\n{found.run_id}: epoch 4, 50 people\n" in output
    elsewhere = ("--ray.storage", "elsewhere", "--tracking.uri", database)
    run("two", "one", *elsewhere)
    output = capsys.readouterr().out
    assert "two: epoch 4, 50 people\none: epoch 4, 50 people\n" in output
    assert "PCKh@0.5: one is worse than two by 20.00 points" in output
    one = start_run(database, "first", "one", params={}, tags={}, artifacts=Path()).run_id
    command = f"python -m jobs.ui {found.run_id} {one} --tracking.uri {database}"
    assert output.endswith(f"to compare them in MLflow:\n  {command}\n")


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        (["one", "two"], ["one", "two"]),
        (["/runs/a/one", "/runs/a/two/"], ["one", "two"]),
        (["runs/a/one", "runs/b/one"], ["a/one", "b/one"]),
        (["a/one", "b/one/epoch_0002", "b/one"], ["a/one", "b/one/epoch_0002", "b/one"]),
        (
            ["runs/one/epoch_0001", "models:/pose/2", "models:/hand/2"],
            ["one/epoch_0001", "models:/pose/2", "models:/hand/2"],
        ),
        (["one", "one/"], ["one", "one/"]),
    ],
)
def test_runs_are_called_by_what_tells_their_folders_apart(runs, labels):
    assert jobs.compare._labels(runs) == labels


def test_runs_in_folders_are_opened_by_these(runs, capsys):
    for name, letter in {"one": "a", "two": "b"}.items():
        position = SyncPosition(uri="sqlite:////m.db", experiment_id="3", run_id=32 * letter)
        write_position(runs / name, position)
    run("one", "runs/two/epoch_0001")
    opening = "to compare them in MLflow:\n  python -m jobs.ui runs/one runs/two\n"
    assert capsys.readouterr().out.endswith(opening)


def test_runs_recorded_at_one_server_are_linked(runs, capsys):
    def recorded(name: str, run_id: str, uri: str = "http://host") -> None:
        position = SyncPosition(uri=uri, experiment_id="3", run_id=run_id)
        write_position(runs / name, position)

    recorded("one", "a" * 32)
    run("one", "two")
    assert "MLflow" not in capsys.readouterr().out
    recorded("two", "b" * 32)
    run("one", "two")
    ids = f"%5B%22{'a' * 32}%22%2C%22{'b' * 32}%22%5D"
    assert capsys.readouterr().out.endswith(
        f"to compare them in MLflow:\n  http://host/#/compare-runs?runs={ids}"
        "&experiments=%5B%223%22%5D&workflowType=machine_learning\n"
    )
    run("two", "runs/two/epoch_0001")
    assert "MLflow" not in capsys.readouterr().out
    recorded("two", "b" * 32, "http://other")
    run("one", "two")
    assert "MLflow" not in capsys.readouterr().out


def test_a_run_that_mlflow_lacks_is_named(database, runs, capsys):
    given = ("--tracking.uri", database)
    message = error_on_failure(capsys, "one", "none", *given)
    place = f"error: tracking.uri={database!r}"
    assert message == f"{place}: no run is 'none'; expected the id or the name of one"
    message = error_on_failure(capsys, "one", "twice", *given)
    [first, second] = re.findall(r"[0-9a-f]{32}", message)
    assert message == (
        f"{place}: 2 runs are called 'twice': {first}, {second}; expected the id or the name of one"
    )
    empty = start_run(database, "second", "twice", params={}, tags={}, artifacts=Path()).run_id
    message = error_on_failure(capsys, "one", empty, *given)
    assert message == f"{place}: MLflow: run {empty} has no folder best_checkpoint"


def test_a_database_that_is_not_there_is_not_made(runs, capsys, working_folder):
    message = error_on_failure(capsys, "one", "none", "--tracking.uri", "sqlite:///none.db")
    refusal = f"error: tracking.uri='sqlite:///{working_folder}/none.db': no such database; "
    assert message.startswith(refusal)
    assert not list(working_folder.glob("*.db"))
