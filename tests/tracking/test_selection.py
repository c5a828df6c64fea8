"""The runs that a user wants to see in MLflow's interface: by folder, name and id."""

from pathlib import Path

import pytest

from pipeline.io.location import STORES
from pipeline.run.storage import publish
from pipeline.tracking.links import comparison_page, experiment_page, run_page
from pipeline.tracking.runs import Run, start_run
from pipeline.tracking.selection import page_of, selected, store_of
from pipeline.tracking.sync_state import SyncPosition, write_position


@pytest.fixture(autouse=True)
def no_uri_in_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def uri(tmp_path_factory, new_database) -> str:
    """A database with a sweep of two trials, a run, and two runs `twice`."""
    folder = tmp_path_factory.mktemp("mlflow")
    found: str = new_database(folder / "mlflow.db")

    def started(name: str, time_ms: int, parent: Run | None = None, experiment="first") -> Run:
        place = {"params": {}, "tags": {}, "artifacts": folder, "time_ms": time_ms}
        return start_run(found, experiment, name, parent=parent, **place)

    sweep = started("sweep", 1000)
    started("late", 3000, sweep)
    started("early", 2000, sweep)
    started("twice", 5000, experiment="second")
    started("twice", 4000)
    return found


def id_of(uri: str, name: str, experiment: str = "first") -> str:
    place = {"params": {}, "tags": {}, "artifacts": Path()}
    parent = None if name in ("sweep", "twice") else start_run(uri, experiment, "sweep", **place)
    return start_run(uri, experiment, name, parent=parent, **place).run_id


def run_folder(path: Path, number: int, uri: str, name: str = "journal.jsonl") -> Path:
    """Make the folder of a run that MLflow has as `number`."""
    path.mkdir(parents=True)
    (path / name).touch()
    ids = {"experiment_id": "1", "run_id": f"{number:032x}"}
    write_position(path, SyncPosition(uri=uri, **ids))
    return path


def numbers(runs: list[SyncPosition]) -> list[int]:
    return [int(run.run_id, 16) for run in runs]


def test_a_run_is_found_by_folder_name_and_the_folder_of_a_checkpoint(tmp_path, uri):
    folder = run_folder(tmp_path / "runs" / "one", 1, uri)
    (folder / "epoch_0001").mkdir()
    for name in (str(folder), "one", str(folder / "epoch_0001"), "one/epoch_0001"):
        found = selected([name], str(tmp_path / "runs"), uri)
        assert numbers(found) == [1]
        assert page_of([name], found, uri) == run_page(found[0])


@pytest.mark.usefixtures("memory_store")
@pytest.mark.parametrize("scheme", STORES)
def test_a_run_in_a_bucket_is_found_by_its_place_and_by_its_name(
    tmp_path, uri, scheme, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "here"))
    storage = f"{scheme}://bucket/runs"
    sweep = run_folder(tmp_path / "sweep", 2, uri)
    (sweep / "sweep.json").touch()
    for folder, number in ((tmp_path / "one", 1), (sweep / "trial", 3)):
        checkpoint = run_folder(folder, number, uri) / "epoch_0001"
        checkpoint.mkdir()
        (checkpoint / "checkpoint.json").touch()
    for folder in (tmp_path / "one", sweep / "trial", sweep):
        publish(folder, f"{storage}/{folder.relative_to(tmp_path)}")
    expected = {"one": 1, "one/epoch_0001": 1, "sweep": 3, "sweep/trial": 3}
    for name, number in expected.items():
        for names, place in (([f"{storage}/{name}"], ""), ([name], storage)):
            assert store_of(names, place, "") == uri
            assert numbers(selected(names, place, uri)) == [number]
    late = run_folder(tmp_path / "late", 4, "http://other")
    publish(late, f"{storage}/late")
    with pytest.raises(ValueError, match=f"to send it: .*jobs.deliver {storage}/late$"):
        selected(["late"], storage, uri)
    with pytest.raises(ValueError, match=f"RUN='none': .* none of this name in {storage}, and"):
        selected(["none"], storage, uri)


def test_a_sweep_means_its_trials_and_each_run_comes_once(tmp_path, uri):
    sweep = run_folder(tmp_path / "stacks", 1, uri)
    (sweep / "sweep.json").touch()
    run_folder(sweep / "b", 3, uri)
    run_folder(sweep / "a", 2, uri)
    names = [str(sweep / "b"), "stacks"]
    found = selected(names, str(tmp_path), uri)
    assert numbers(found) == [3, 2]
    assert page_of(names, found, uri) == comparison_page(found)


def test_a_sweep_without_trials_in_mlflow_means_its_own_run(tmp_path, uri):
    sweep = run_folder(tmp_path / "stacks", 1, uri)
    (sweep / "sweep.json").touch()
    assert numbers(selected(["stacks"], str(tmp_path), uri)) == [1]


def test_a_sweep_that_mlflow_alone_has_means_its_trials_in_their_order(tmp_path, uri):
    found = selected(["sweep"], str(tmp_path), uri)
    assert [run.run_id for run in found] == [id_of(uri, "early"), id_of(uri, "late")]
    late = id_of(uri, "late")
    assert [run.run_id for run in selected([late], str(tmp_path), uri)] == [late]


def test_a_run_that_is_nowhere_or_twice_is_named(tmp_path, uri):
    with pytest.raises(ValueError, match=r"^RUN='none': no folder .* no run is called so"):
        selected(["none"], str(tmp_path), uri)
    with pytest.raises(ValueError, match=r"^RUN='twice': .* 2 runs are called so: \w+, \w+;"):
        selected(["twice"], str(tmp_path), uri)


def test_a_run_that_was_not_sent_is_named_with_the_command_that_sends_it(tmp_path, uri):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "journal.jsonl").touch()
    with pytest.raises(ValueError, match=f"does not have it yet; .* jobs.deliver {folder}"):
        selected(["one"], str(tmp_path), uri)
    run_folder(tmp_path / "two", 2, "http://other")
    with pytest.raises(ValueError, match="does not have it yet"):
        selected(["two"], str(tmp_path), uri)


def test_without_names_the_newest_run_s_experiment_is_shown(tmp_path, uri, new_database):
    [newest] = selected([], str(tmp_path), uri)
    assert newest.run_id == id_of(uri, "twice", "second")
    assert page_of([], [newest], uri) == experiment_page(newest)
    empty = new_database(tmp_path / "empty.db")
    assert selected([], str(tmp_path), empty) == []
    assert page_of([], [], uri) == ""


def test_the_store_is_the_given_one_then_that_of_the_folder_then_the_default(
    tmp_path, uri, new_database, monkeypatch
):
    run_folder(tmp_path / "one", 1, uri)
    other = new_database(tmp_path / "other.db")
    assert store_of(["one"], str(tmp_path), other) == other
    assert store_of(["none", "one"], str(tmp_path), "") == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert store_of(["none"], str(tmp_path), "") == other
    with pytest.raises(ValueError, match="no such database"):
        store_of([], str(tmp_path), f"sqlite:///{tmp_path}/none.db")


def test_a_store_whose_password_is_not_on_disk_is_taken_from_the_environment(tmp_path, monkeypatch):
    run_folder(tmp_path / "one", 1, "postgresql://***@host/runs")
    with pytest.raises(ValueError, match=r"one has the URI .* without its secrets; give"):
        store_of(["one"], str(tmp_path), "")
    complete = "postgresql://anna:secret@host/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", complete)
    assert store_of(["one"], str(tmp_path), "") == complete
