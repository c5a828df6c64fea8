"""Two sweeps are compared at a prompt: best trials, settings, and trials of equal settings."""

import json
from pathlib import Path

import pytest
from factories import checkpoint

import tune.compare
from pipeline.run.journal import Journal, RunSpec
from pipeline.run.start import find_local
from pipeline.run.storage import publish, shown

HEAD = "rank,trial,status,model.stacks,{more}score,best_epoch"


def trial(folder: Path, score: float, end: str = "FINISHED") -> None:
    checkpoint(folder / "epoch_0001", {"pckh_0.5": score})
    journal = Journal(folder)
    spec = {"uri": "", "experiment": "e", "params": {}, "tags": {}, "artifacts": folder}
    journal.run(RunSpec(name=folder.name, **spec))
    journal.end(end)


def sweep(folder: Path, rows: list[str], more: str = "", **facts: str) -> Path:
    """Make the folder of a sweep with a table of its trials, and a checkpoint of the best."""
    folder.mkdir(parents=True)
    shared = {"optim.epochs": "9", "data.val.checksum": "a", "data.val": str(folder)}
    (folder / "sweep.json").write_text(json.dumps({"facts": shared | facts}))
    (folder / "trials.csv").write_text("\n".join([HEAD.format(more=more), *rows]) + "\n")
    trial(folder / "best", 60.0)
    return folder


def lines(*sweeps: Path | str) -> list[str]:
    return "\n".join(tune.compare.compare_sweeps(tuple(map(str, sweeps)), "")).splitlines()


def test_best_trials_settings_and_equal_trials_stand_side_by_side(tmp_path):
    first = sweep(
        tmp_path / "a",
        ["1,s4,finished,4,60.25,9", "2,s2,finished,2,50.0,9", ",s8,failed,8,70.0,3"],
        **{"optim.learning_rate": "0.001"},
    )
    second = sweep(
        tmp_path / "b",
        ["1,t2,finished,2,1e-3,52.5,9", "2,t4,finished,4,0.001,58.25,9", "3,x,finished,4,0.1,1,9"],
        "optim.learning_rate,",
        **{"optim.epochs": "12"},
    )
    found = lines(first, second)
    assert found[1].split() == ["trials", "3", "3"]
    assert found[2].split() == ["failed", "1", "0"]
    assert found[3].split() == ["best", "PCKh@0.5", "60.25", "52.50", "-7.75"]
    assert found[4].split() == ["best", "trial", "s4", "t2"]
    assert found[6:8] == ["settings that differ:", "  optim.epochs: 9 | 12"]
    table = [line.split() for line in found[9:12]]
    assert table[0] == ["model.stacks", "optim.learning_rate", "first", "second", "difference"]
    assert table[1:] == [
        ["4", "0.001", "60.25", "58.25", "-2.00"],
        ["2", "0.001", "50.00", "52.50", "+2.50"],
    ]
    assert found[12:14] == ["only in the first: s8", "only in the second: x"]
    assert found[-1] == f"  python -m jobs.compare {first} {second}"


def test_other_validation_data_and_no_equal_trials_are_said(tmp_path):
    first = sweep(tmp_path / "a", ["1,s4,finished,4,60.25,9"])
    second = sweep(tmp_path / "b", ["1,s2,finished,2,50,9"], **{"data.val.checksum": "b"})
    found = lines(first, second)
    assert "settings: all the same" in found
    assert "note: the validation data differ, so the scores are of other people" in found
    assert "no trial of one has the settings of another" in found


def test_what_is_no_finished_sweep_is_named(tmp_path, capsys):
    first = sweep(tmp_path / "a", ["1,s4,finished,4,60.25,9"])

    def error(second: Path) -> str:
        with pytest.raises(SystemExit) as end:
            tune.compare.main([str(first), str(second), "--ray.storage", str(tmp_path)])
        assert end.value.code == 2
        return capsys.readouterr().err.strip()

    none = tmp_path / "none"
    assert error(none) == (
        f"error: {str(none)!r}: no folder of a sweep, and none of this name in {tmp_path}"
    )
    second = sweep(tmp_path / "b", [])
    (second / "trials.csv").write_text("rank,name\n1,a\n")
    assert error(second) == (
        f"error: {second}/trials.csv: not a table of a sweep's trials: it has no column score"
    )
    (second / "trials.csv").unlink()
    assert error(second).startswith(f"error: {second}: no trials.csv, which a sweep writes at")


def test_a_sweep_means_its_best_trial_that_did_not_fail(tmp_path):
    folder = sweep(tmp_path / "stacks", [])
    trial(folder / "good", 70.0)
    trial(folder / "failed", 90.0, "FAILED")
    assert find_local("stacks", str(tmp_path)) == folder / "good" / "epoch_0001"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match="empty: no trial of this sweep has a checkpoint with a"):
        find_local("empty", str(tmp_path))


def test_of_a_sweep_in_a_bucket_only_the_weights_of_its_best_trial_are_read(tmp_path, memory_store):
    folder, place = sweep(tmp_path / "stacks", []), "s3://bucket/runs/stacks"
    trial(folder / "good", 70.0)
    for name in ("good", "best"):
        (folder / name / "epoch_0001" / "optimizer.pt").touch()
        publish(folder / name, f"{place}/{name}")
    publish(folder, place)
    where = "stacks", "s3://bucket/runs", str(tmp_path / "scratch")
    read = find_local(*where, needs_weights=False)
    assert (read / "checkpoint.json").exists()
    assert not (read / "weights.safetensors").exists()
    found = find_local(*where)
    assert found == read
    assert found == tmp_path / "scratch/s3/bucket/runs/stacks/good/epoch_0001"
    there = [path.name for path in found.parents[1].glob("*/epoch_0001/*")]
    assert there.count("checkpoint.json") == 2
    assert there.count("weights.safetensors") == 1
    assert "optimizer.pt" not in there
    assert shown(found) == f"{place}/good/epoch_0001"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("sweep.json", text) for text in ("[]", "3", '{"facts": []}', '{"facts": {"a": 1}}')),
        ("sweep.json", "[" * 100_000),
        *(("trials.csv", text) for text in ("", "a,b", "rank,trial,status,score\n1,s,x,high")),
        ("trials.csv", f"rank,trial,status,score\n1,{'s' * 200_000},x,1"),
        ("trials.csv", "rank,trial,status,score\n1,\udcff,x,1"),
    ],
)
def test_records_of_a_sweep_that_are_damaged_are_named(tmp_path, name, content):
    first = sweep(tmp_path / "a", ["1,s4,finished,4,60.25,9"])
    second = sweep(tmp_path / "b", ["1,s4,finished,4,60.25,9"])
    (second / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"b/{name}"):
        lines(first, second)
