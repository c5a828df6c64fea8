"""Links to pages of MLflow's interface."""

from pathlib import Path

import pytest

from pipeline.io.redaction import redacted
from pipeline.tracking.links import (
    comparison_page,
    experiment_page,
    how_to_open,
    link,
    recorded_runs,
    run_page,
    shown_folder,
)
from pipeline.tracking.sync_state import SyncPosition, write_position

URI = "http://host:5000"
# MLflow's part for training of its interface.
TRAINING = "workflowType=machine_learning"


def recorded(number: int, experiment: str = "7", uri: str = URI) -> SyncPosition:
    return SyncPosition(uri=uri, experiment_id=experiment, run_id=f"{number:032x}")


def test_a_run_has_a_page_in_its_experiment():
    page = run_page(recorded(10))
    assert link(URI, page) == f"{URI}/#/experiments/7/runs/{'a':0>32}?{TRAINING}"


def test_a_comparison_names_runs_and_experiments_as_quoted_json():
    page = comparison_page([recorded(1), recorded(2, "8"), recorded(3)])
    one, two, three = (f"{n:032d}" for n in (1, 2, 3))
    assert link(URI, page) == (
        f"{URI}/#/compare-runs?runs=%5B%22{one}%22%2C%22{two}%22%2C%22{three}%22%5D"
        f"&experiments=%5B%227%22%2C%228%22%5D&{TRAINING}"
    )


def test_a_comparison_has_the_first_fifty_runs_of_many():
    page = comparison_page([recorded(number) for number in range(60)])
    assert page.count("%22") == 2 * (50 + 1)
    assert f"{49:032x}" in page


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://host", "https://host/"),
        ("https://host/mlflow/", "https://host/mlflow/"),
        ("http://[::1]:5000", "http://[::1]:5000/"),
        ("http://anna:secret@host:1", "http://host:1/"),
        ("http://anna:se@/cret@host:1/a", "http://host:1/a/"),
        ("http://***@host:1", "http://host:1/"),
        ("https://host?token=secret", "https://host/"),
    ],
)
def test_a_link_has_the_server_s_address_without_a_password(uri, address):
    assert link(uri, run_page(recorded(1))) == f"{address}#/{run_page(recorded(1))}?{TRAINING}"
    assert link(uri, "") == address


def test_printed_links_are_whole():
    views = [
        experiment_page(recorded(1), f"scores_{score}")
        for score in ("pckh_0.5", "pck_torso_0.2", "coco_ap")
    ]
    compared = comparison_page([recorded(1), recorded(2)])
    for page in (run_page(recorded(1)), compared, *views, ""):
        assert redacted(link(URI, page)) == link(URI, page)


def test_an_experiment_has_a_page_of_its_runs():
    assert link(URI, experiment_page(recorded(1))) == f"{URI}/#/experiments/7/runs?{TRAINING}"


def test_a_server_is_opened_by_a_link_and_a_database_by_a_command():
    assert how_to_open(URI, "a", ["runs/one"]) == f"{URI}/#/a?{TRAINING}"
    opening = how_to_open("sqlite:////runs/m.db", "a", ["my runs/one"])
    assert opening == "python -m jobs.ui 'my runs/one'"


def test_of_a_workspace_no_page_s_address_is_known():
    assert how_to_open("databricks://team", "a", []) == "open the workspace of databricks://team"


def test_a_folder_is_named_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_folder(tmp_path / "runs" / "one") == "runs/one"
    assert shown_folder(Path("/elsewhere/one")) == "/elsewhere/one"


def test_runs_that_mlflow_does_not_have_are_left_out(tmp_path: Path):
    for name, position in {
        "sent": recorded(1),
        "not": SyncPosition(uri=URI),
        "other": recorded(2, uri="sqlite:////m.db"),
    }.items():
        (tmp_path / name).mkdir()
        write_position(tmp_path / name, position)
    folders = [tmp_path / name for name in ("sent", "not", "none", "other")]
    assert recorded_runs(folders) == [recorded(1), recorded(2, uri="sqlite:////m.db")]


@pytest.mark.parametrize(
    "content",
    [
        '{"run_id": 3}',
        '{"uri": "a", "later": [], "run_id": 3}',
        '{"uri": "a", "later": [-1]}',
        '{"uri": "a", "later": [], "seq": null}',
        "[" * 10**5,
        "5",
    ],
)
def test_a_damaged_position_is_named(tmp_path: Path, content: str):
    (tmp_path / "delivered.json").write_text(content)
    with pytest.raises(ValueError, match=r"delivered\.json is damaged"):
        recorded_runs([tmp_path])
