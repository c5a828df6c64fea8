"""Commands whose results, and whose model, lie in a bucket."""

import json
from pathlib import Path

import cv2
import pytest
from factories import checkpoint, pack_samples, photograph, samples

import hourglass_ray
import jobs.evaluate
import jobs.inspect
import jobs.pack
import jobs.predict
from jobs.options import output_at
from pipeline.data.shards.index import Index
from pipeline.io.objects import Objects
from pipeline.run.storage import publish
from pipeline.tracking.reuse import settings_of_config


@pytest.fixture
def bucket(memory_store, monkeypatch, tmp_path) -> Objects:
    """A bucket in memory, which all clients reach; and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return Objects("s3://pose")


def names(bucket: Objects, below: str) -> set[str]:
    return {found.name.removeprefix(f"{below}/") for found in bucket.found(below)}


def predict(*words: str) -> None:
    jobs.predict.main(
        ["run", "in", "--threads", "1", "--device", "cpu", "--ray.storage", "s3://pose/runs"]
        + ["--out", "s3://pose/found", *words]
    )


@pytest.fixture
def run(bucket) -> None:
    """A run in the bucket, and a photograph here."""
    checkpoint(Path("made/epoch_0001"), {"pckh_0.5": 1.0})
    publish(Path("made"), "s3://pose/runs/run")
    Path("in").mkdir()
    cv2.imwrite("in/0.jpg", photograph())


def test_predictions_by_a_run_in_a_bucket_go_to_a_bucket(bucket, run, capsys):
    predict("--formats", "json", "csv")
    assert names(bucket, "found") == {
        *("job.json", "parts/000001.json", "predictions.json", "predictions.csv"),
    }
    printed = capsys.readouterr().out
    assert "written: s3://pose/found/predictions.json" in printed
    assert not Path("out").exists()


def test_python_gets_the_address_of_what_it_wrote(bucket, run):
    found = hourglass_ray.predict("s3://pose/runs/run", "in", out="s3://pose/found")
    assert found == "s3://pose/found"
    assert "predictions.json" in names(bucket, "found")


def test_predictions_in_a_bucket_resume(bucket, run, capsys):
    predict()
    cv2.imwrite("in/1.jpg", photograph(seed=1))
    capsys.readouterr()
    predict()
    assert "2 images; 1 of them were done before" in capsys.readouterr().out
    content = json.loads(bucket.get("found/predictions.json")[0])
    assert [image["file"] for image in content["images"]] == ["in/0.jpg", "in/1.jpg"]


def test_predictions_of_another_job_in_the_bucket_are_refused(bucket, run, capsys):
    predict()
    with pytest.raises(SystemExit):
        predict("--exact")
    assert "error: --out s3://pose/found: has results for exact" in capsys.readouterr().err


def test_a_checkpoint_is_named_by_its_place_in_the_bucket(bucket, run, capsys):
    jobs.predict.main(["s3://pose/runs/run/epoch_0001", "in", "--out", "s3://pose/found"])
    assert "epoch_0001: mpii" in capsys.readouterr().out
    # The folder of the checkpoint is no run of its own from now on.
    [scratch] = Path().glob("hourglass-ray-*/s3/pose/runs")
    assert [str(path.relative_to(scratch)) for path in scratch.rglob(".mirror.json")] == [
        "run/.mirror.json"
    ]


def test_settings_of_a_run_in_a_bucket_are_read_without_its_weights(run, tmp_path):
    assert settings_of_config("s3://pose/runs/run")
    there = {path.name for path in tmp_path.glob("hourglass-ray-*/s3/**/epoch_0001/*")}
    assert "checkpoint.json" in there
    assert "weights.safetensors" not in there


def test_a_run_that_the_bucket_does_not_have_is_named(bucket, run, capsys):
    with pytest.raises(SystemExit):
        jobs.predict.main(["none", "in", "--ray.storage", "s3://pose/runs", "--out", "found"])
    assert "MODEL='none': no such folder, and none of this name in s3://pose/runs" in (
        capsys.readouterr().err
    )


def test_an_evaluated_checkpoint_is_named_by_its_place_in_the_bucket(bucket, run, capsys):
    pack_samples(Path("data"), [samples(2)], split="val")
    words = ["--data.val", "data/*.tar", "--json", "scores.json", "--threads", "1"]
    jobs.evaluate.main(["s3://pose/runs/run", *words, "--device", "cpu"])
    place = "s3://pose/runs/run/epoch_0001"
    assert f"checkpoint: {place}\n" in capsys.readouterr().out
    assert json.loads(Path("scores.json").read_text())["checkpoint"] == place


@pytest.mark.slow
def test_a_card_and_its_page_go_to_a_bucket(bucket, capsys):
    bucket.put("card/joints-stored.png", b"left from an earlier run")
    pack_samples(Path("data"), [samples(3)])
    jobs.inspect.main(["data/*.tar", "--out", "s3://pose/card/"])
    written = names(bucket, "card")
    assert {"index.html", "card.json"} < written
    assert "written: s3://pose/card/index.html" in capsys.readouterr().out


@pytest.fixture
def here(monkeypatch) -> None:
    """Pack in this process in place of Ray's."""
    monkeypatch.setattr(
        jobs.pack,
        "_run",
        lambda settings, missing, output: {
            str(job.name): jobs.pack._pack_shard(settings, job, output.location) for job in missing
        },
    )
    monkeypatch.setattr("pipeline.cluster.start.check_answer", lambda address: None)


def pack() -> None:
    with output_at("s3://pose/people") as output:
        words = ["synthetic", "--out", output.location, "--scenes", "6", "--val-images", "2"]
        arguments = jobs.pack.parse(jobs.pack.Arguments, None, [*words, "--people-per-shard", "3"])
        jobs.pack.pack(arguments.settings_in(output.folder), "", output)


def test_a_pack_into_a_bucket_resumes_and_leaves_what_one_into_a_folder_does(
    bucket, here, capsys, monkeypatch
):
    from contextlib import nullcontext

    monkeypatch.setattr("pipeline.cluster.start.cluster", lambda address: nullcontext())
    ready = jobs.pack._run

    def interrupted(settings, missing, output):
        ready(settings, missing[:1], output)
        raise OSError("the machine is lost")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.pack, "_run", interrupted)
        with pytest.raises(OSError, match="lost"):
            pack()
    assert not any(name == "index.json" for name in names(bucket, "people"))
    pack()
    assert "resuming: 1 of 3 shards are complete" in capsys.readouterr().out
    assert names(bucket, "people") == {
        *("train-000000.tar", "train-000001.tar", "val-000000.tar"),
        *("index.json", "members.npz"),
    }
    Path("here").mkdir()
    with output_at("s3://pose/people") as output:
        output.fetch("index.json")
        index = Index.read(output.folder)
        for entry in index.shards:
            output.fetch(entry.name)
            assert (output.folder / entry.name).stat().st_size == entry.bytes
    pack()
    assert "already packed" in capsys.readouterr().out
