"""The journal: a recorded entry survives the end of the process at any moment."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from pipeline.io.redaction import redacted
from pipeline.run import journal as module
from pipeline.run.journal import Journal, RunSpec


def spec(**changes) -> RunSpec:
    fields = {
        "uri": "http://host:5000",
        "experiment": "poses",
        "name": "run",
        "params": {"model.stacks": 2, "ray.shares": (0.5, 1)},
        "tags": {"source": "made"},
        "artifacts": Path("/runs/mlruns"),
    }
    return RunSpec(**fields | changes)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


DATASET = {
    "name": "made-train",
    "digest": "abc",
    "source": "https://anna:secret@host/train.tar",
    "people": "6",
    "context": "training",
}


def test_datasets_are_recorded_without_secrets_and_checked(tmp_path):
    journal = Journal(tmp_path)
    journal.run(spec(datasets=[DATASET]))
    [line] = lines(tmp_path)
    assert line["datasets"] == [DATASET | {"source": "https://***@host/train.tar"}]
    for wrong in ({"name": 3}, {"name": "a"}, "made-train"):
        line["datasets"] = [wrong]
        (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match=r"line 1 is damaged: datasets\[0\]"):
            Journal(tmp_path).entries()
    del line["datasets"]
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    assert Journal(tmp_path).entries()[0].content["name"] == "run"


def test_bytes_that_are_no_utf_8_are_recorded_as_escapes(tmp_path):
    journal = Journal(tmp_path)
    journal.run(spec(params={"data.train": "/\udcff/a.tar"}, tags={"b": "\udcff"}))
    journal.tags({"t": "\udcff"})
    journal.text("\udcff", "a.txt")
    for entry in journal.entries():
        json.dumps(entry.content, ensure_ascii=False).encode()
    assert journal.entries()[0].content["params"] == {"data.train": "/\\udcff/a.tar"}


def test_every_entry_is_a_numbered_line_of_json(tmp_path, monkeypatch):
    times = iter(range(1_000_000_000, 10_000_000_000, 1_000_000_000))
    monkeypatch.setattr(module.time, "time_ns", lambda: next(times))
    journal = Journal(tmp_path / "runs" / "run")
    journal.run(spec(parent="sweep"))
    journal.metrics({"val_loss": 2, "pckh_0.5": 12.5}, 1)
    journal.file(tmp_path / "runs" / "run" / "epoch_0001" / "overlay.png", "overlays")
    journal.file(tmp_path / "runs" / "run" / "overlays" / "1.png", "overlays", 1)
    journal.folder(tmp_path / "runs" / "run" / "epoch_0001", "best")
    journal.text("a\nb", "scores.txt")
    journal.tags({"stage": "done"})
    journal.end("KILLED")
    assert lines(tmp_path / "runs" / "run") == [
        {
            "seq": 1,
            "time_ms": 1000,
            "kind": "run",
            "uri": "http://host:5000",
            "experiment": "poses",
            "name": "run",
            "params": {"model.stacks": "2", "ray.shares": "(0.5, 1)"},
            "tags": {"source": "made"},
            "artifacts": "/runs/mlruns",
            "parent": "sweep",
            "scores": [],
            "datasets": [],
        },
        {
            "seq": 2,
            "time_ms": 2000,
            "kind": "metrics",
            "step": 1,
            "values": {"val_loss": 2.0, "pckh_0.5": 12.5},
        },
        {
            "seq": 3,
            "time_ms": 3000,
            "kind": "file",
            "path": "epoch_0001/overlay.png",
            "folder": "overlays",
        },
        {
            "seq": 4,
            "time_ms": 4000,
            "kind": "file",
            "path": "overlays/1.png",
            "folder": "overlays",
            "step": 1,
        },
        {
            "seq": 5,
            "time_ms": 5000,
            "kind": "folder",
            "path": "epoch_0001",
            "at": "best",
        },
        {"seq": 6, "time_ms": 6000, "kind": "text", "text": "a\nb", "path": "scores.txt"},
        {"seq": 7, "time_ms": 7000, "kind": "tags", "tags": {"stage": "done"}},
        {"seq": 8, "time_ms": 8000, "kind": "end", "status": "KILLED"},
    ]
    assert [entry.seq for entry in Journal(tmp_path / "runs" / "run").entries(after=6)] == [7, 8]


def test_a_run_that_moves_takes_its_files_along(tmp_path):
    before = tmp_path / "before"
    Journal(before).file(before / "curves.png", "")
    after = before.rename(tmp_path / "after")
    journal = Journal(after)
    [inside] = journal.entries()
    assert journal.path_of(inside) == after / "curves.png"


def test_a_step_that_is_taken_again_is_recorded_once(tmp_path):
    Journal(tmp_path).metrics({"val_loss": 3.0}, 1)
    again = Journal(tmp_path)  # another process, after the first was killed
    again.metrics({"val_loss": 3.5}, 1)
    again.metrics({"best": 3.0}, 1)
    again.metrics({"val_loss": 2.0}, 2)
    again.metrics({"val_loss": 9.0}, 2)
    assert [(line["step"], line["values"]) for line in lines(tmp_path)] == [
        (1, {"val_loss": 3.0}),
        (1, {"best": 3.0}),
        (2, {"val_loss": 2.0}),
    ]
    assert again.has_metrics(2)
    assert not again.has_metrics(3)


def test_history_is_by_step_and_its_last_value_counts(tmp_path):
    journal = Journal(tmp_path)
    journal.metrics({"loss": 1.0, "pckh": 10.0}, 2)
    journal.metrics({"loss": 4.0}, 1)
    journal.metrics({"loss": 1.5, "ema": 0.0}, 2)
    assert journal.history(["loss", "pckh", "absent"]) == {
        "loss": [(1, 4.0), (2, 1.5)],
        "pckh": [(2, 10.0)],
        "absent": [],
    }


def test_two_processes_that_take_turns_see_each_others_entries(tmp_path):
    driver, worker = Journal(tmp_path), Journal(tmp_path)
    driver.run(spec())
    worker.metrics({"loss": 1.0}, 1)
    driver.end("FINISHED")
    assert [entry.kind for entry in worker.entries()] == ["run", "metrics", "end"]
    assert [line["seq"] for line in lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_entry(tmp_path, kept):
    journal = Journal(tmp_path)
    journal.metrics({"loss": 2.0}, 1)
    whole = journal.path.read_bytes()
    journal.metrics({"loss": 1.0}, 2)
    second = journal.path.read_bytes()[len(whole) :]
    journal.path.write_bytes(whole + second[:kept])

    resumed = Journal(tmp_path)
    assert resumed.history(["loss"]) == {"loss": [(1, 2.0)]}
    resumed.metrics({"loss": 0.5}, 2)
    assert [(line["seq"], line["values"]["loss"]) for line in lines(tmp_path)] == [
        (1, 2.0),
        (2, 0.5),
    ]


@pytest.mark.parametrize("left", [None, b"", b'{"seq": 1'])
def test_a_journal_that_was_removed_or_cut_is_not_begun_anew_by_the_process_that_wrote_it(
    tmp_path, left
):
    journal = Journal(tmp_path / "run")
    journal.tags({"a": "b"})
    if left is None:
        shutil.rmtree(tmp_path / "run")
    else:
        journal.path.write_bytes(left)
    with pytest.raises(ValueError, match=r"journal\.jsonl: removed or cut .* expected at least"):
        journal.tags({"c": "d"})
    assert not journal.path.exists() if left is None else journal.path.read_bytes() == left


def test_a_journal_whose_only_line_is_torn_starts_over(tmp_path):
    (tmp_path / "journal.jsonl").write_text('{"seq": 1, "time')
    journal = Journal(tmp_path)
    assert list(journal.entries()) == []
    journal.end("FAILED")
    assert [line["seq"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        ('{"seq": 2, "time', "line 2 is damaged: it: not readable as JSON: Unter"),
        ("[2]", "line 2 is damaged: "),
        (
            '{"seq": 2, "kind": "end", "status": "FAILED"}',
            "line 2 is damaged: time_ms must be a whole number of at least 0, got None",
        ),
        (
            '{"seq": 3, "time_ms": 1, "kind": "end", "status": "FAILED"}',
            "line 2 must have seq 2, got 3",
        ),
        (
            '{"seq": 2, "time_ms": 1, "kind": "end"}',
            "line 2 is damaged: status must be a string, got None",
        ),
        (
            '{"seq": 2, "time_ms": 1, "kind": "other"}',
            "line 2 is damaged: kind must be one of run, metrics, ",
        ),
    ],
)
def test_damage_elsewhere_is_named_by_its_line(tmp_path, middle, message):
    Journal(tmp_path).end("FAILED")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(f'{middle}\n{{"seq": 3, "time_ms": 1, "kind": "end", "status": "FAILED"}}\n')
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/journal.jsonl: {message}')}"):
        Journal(tmp_path).entries()


def test_times_are_in_order_though_the_clock_is_set_back(tmp_path, monkeypatch):
    times = iter([5_000_000_000, 2_000_000_000, 6_000_000_000])
    monkeypatch.setattr(module.time, "time_ns", lambda: next(times))
    for step in (1, 2, 3):
        Journal(tmp_path).metrics({"loss": 1.0}, step)
    assert [line["time_ms"] for line in lines(tmp_path)] == [5000, 5000, 6000]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused_by_its_name(tmp_path, value):
    with pytest.raises(
        ValueError, match=r"^metric 'loss' at step 3 must be finite, got (nan|inf)$"
    ):
        Journal(tmp_path).metrics({"fine": 1.0, "loss": value}, 3)
    assert not (tmp_path / "journal.jsonl").exists()


def test_no_password_reaches_the_disk(tmp_path):
    secret = "http://me:pass@word@host:5000/path"
    params = {"tracking.uri": secret, "data.train": f"{secret}/a {secret}/b"}
    journal = Journal(tmp_path)
    journal.run(spec(uri=secret, params=params, tags={"source": secret}))
    journal.tags({"again": secret})
    assert "pass" not in journal.path.read_text()
    assert lines(tmp_path)[0]["params"]["data.train"] == (
        "http://***@host:5000/path/a http://***@host:5000/path/b"
    )


@pytest.mark.parametrize(
    "text", ["sqlite:////runs/a@b.db", "http://host/a@b", "me@host", "tracking.uri=''"]
)
def test_text_without_a_password_stays_as_it_is(text):
    assert redacted(text) == text
