"""Where a run lies: the folder on this machine that stands for one in a bucket."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.io.objects import Objects, StoreError
from pipeline.run.plan import resolved_storage
from pipeline.run.start import find_local
from pipeline.run.storage import (
    fetch,
    folders_here,
    hold,
    is_taken,
    local_storage,
    move_aside,
    publish,
    shown,
)
from pipeline.settings import RaySettings


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_stands_for_itself(tmp_path):
    assert local_storage(str(tmp_path / "runs"), "/elsewhere") == tmp_path / "runs"
    assert shown(tmp_path / "runs" / "pose") == f"{tmp_path}/runs/pose"


def test_a_folder_in_a_bucket_has_one_of_its_path_in_the_scratch_folder(tmp_path):
    assert local_storage("s3://bucket/a/runs", str(tmp_path)) == tmp_path / "s3/bucket/a/runs"
    # A trial lies in its sweep, there and here.
    trial = local_storage("s3://bucket/a/runs/sweep", str(tmp_path)) / "trial"
    assert trial.parent.parent == tmp_path / "s3/bucket/a/runs"


def test_a_new_scratch_folder_is_private(temporary):
    local_storage("s3://bucket/runs", "")
    [made] = temporary.iterdir()
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_scratch_folder_that_others_can_write_to_is_refused(temporary):
    local_storage("s3://bucket/runs", "")
    [made] = temporary.iterdir()
    made.chmod(0o777)
    with pytest.raises(ValueError, match=r"ray\.scratch=.* expected a folder of this user alone"):
        local_storage("s3://bucket/runs", "")


def test_a_link_in_place_of_the_scratch_folder_is_refused(temporary):
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"hourglass-ray-{os.getuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(ValueError, match="expected a folder of this user alone"):
        local_storage("s3://bucket/runs", "")


def test_the_place_of_a_file_is_shown_in_the_bucket(tmp_path):
    folder = local_storage("s3://bucket/runs/pose", str(tmp_path))
    folder.mkdir(parents=True)
    (folder / ".mirror.json").write_text('{"location": "s3://bucket/runs/pose", "manifest": null}')
    assert shown(folder / "epoch_0001") == "s3://bucket/runs/pose/epoch_0001"
    assert shown(folder) == "s3://bucket/runs/pose"


def test_only_a_runs_folder_tells_its_place(tmp_path):
    (tmp_path / ".mirror.json").write_text('{"location": "s3://other/runs", "manifest": null}')
    assert shown(tmp_path / "runs" / "pose") == f"{tmp_path}/runs/pose"


def test_a_strangers_folder_is_no_copy_of_a_run_in_a_bucket(tmp_path, memory_store):
    there = tmp_path / "made"
    there.mkdir()
    (there / "checkpoint.json").write_text("of the bucket")
    publish(there, "s3://bucket/evil")
    own = tmp_path / "own" / "letter.txt"
    own.parent.mkdir()
    own.write_text("mine")
    for name in ("run/epoch_0001", "run"):
        folder = tmp_path / "unpacked" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.json").write_text("of the folder")
        (folder / ".mirror.json").write_text('{"location": "s3://bucket/evil", "manifest": null}')
        (folder / "link").symlink_to(own.parent)
        assert find_local(str(folder)) == folder
        assert (folder / "checkpoint.json").read_text() == "of the folder"
        assert shown(folder) == str(folder)
        # Such a copy may also be of a run that others own in the bucket.
        with pytest.raises(ValueError, match="is a copy of a run in a bucket"), hold(folder, "run"):
            pass
    assert own.read_text() == "mine"


def test_a_bucket_alone_is_no_run(tmp_path):
    assert list(folders_here("s3://bucket/", "", str(tmp_path))) == []
    with pytest.raises(ValueError, match="s3://: expected s3://BUCKET/FOLDER"):
        list(folders_here("s3://", "", str(tmp_path)))


@pytest.fixture
def run(tmp_path, memory_store) -> Path:
    """The folder of a run of which a bucket has a copy."""
    folder = local_storage("s3://bucket/runs/pose", str(tmp_path))
    (folder / "epoch_0001").mkdir(parents=True)
    for name in ("journal.jsonl", "epoch_0001/checkpoint.json"):
        (folder / name).write_text(name)
    publish(folder, "s3://bucket/runs/pose")
    return folder


def test_a_checkpoint_that_was_published_alone_comes_with_its_weights(run, tmp_path):
    start = run.with_name(".starts") / "0123"
    start.mkdir(parents=True)
    for name in ("checkpoint.json", "weights.safetensors"):
        (start / name).write_text(name)
    publish(start, "s3://bucket/runs/.starts/0123")
    for _ in range(2):  # as each rank of a node does
        found = find_local("s3://bucket/runs/.starts/0123", scratch=str(tmp_path / "other"))
        assert found == tmp_path / "other/s3/bucket/runs/.starts/0123"
        assert (found / "weights.safetensors").read_text() == "weights.safetensors"


def test_a_run_that_is_moved_aside_lies_beside_it_in_the_bucket(run, tmp_path):
    aside = run.with_name("pose-before-1")
    assert not is_taken(aside, run)
    with hold(run, "run pose") as writer:
        move_aside(run, aside, ["journal.jsonl"], writer)
    assert is_taken(aside, run)
    assert fetch("s3://bucket/runs/pose", str(tmp_path / "other")) is not None
    moved = fetch("s3://bucket/runs/pose-before-1", str(tmp_path / "other"))
    assert (moved / "journal.jsonl").read_text() == "journal.jsonl"
    assert (moved / "epoch_0001/checkpoint.json").exists()
    assert not (moved.with_name("pose") / "journal.jsonl").exists()
    # The run begins anew, with a journal that does not continue the former.
    with hold(run, "run pose"):
        (run / "journal.jsonl").write_text("anew")
    begun = fetch("s3://bucket/runs/pose", str(tmp_path / "third"))
    assert (begun / "journal.jsonl").read_text() == "anew"


def test_a_sweep_that_is_moved_aside_takes_its_trials_along(run, tmp_path):
    sweep, trial = run, run / "trial"
    (trial / "epoch_0001").mkdir(parents=True)
    for name in ("journal.jsonl", "epoch_0001/checkpoint.json"):
        (trial / name).write_text(name)
    publish(trial, "s3://bucket/runs/pose/trial")
    aside = sweep.with_name("pose-before-1")
    with hold(sweep, "sweep pose") as writer:
        (sweep / "sweep.json").write_text("{}")
        move_aside(sweep, aside, ["sweep.json"], writer)
    other = fetch("s3://bucket/runs/pose-before-1", str(tmp_path / "other"))
    assert (other / "trial/epoch_0001/checkpoint.json").exists()
    # A trial of the new sweep starts from nothing.
    assert fetch("s3://bucket/runs/pose/trial", str(tmp_path / "other")) is None
    assert not trial.exists()


def test_a_run_that_can_not_be_moved_aside_stays(run, monkeypatch):
    aside = run.with_name("pose-before-1")
    with hold(run, "run pose") as writer, monkeypatch.context() as away:

        def fail(*arguments):
            raise StoreError("the store does not answer")

        away.setattr(Objects, "create", fail)
        with pytest.raises(StoreError):
            move_aside(run, aside, ["journal.jsonl"], writer)
    assert (run / "journal.jsonl").exists()
    assert not aside.exists()


def test_a_copy_aside_that_a_full_disk_ends_is_removed(run, monkeypatch):
    aside = run.with_name("pose-before-1")

    def fill(source, target, **options):
        target.mkdir()
        shutil.copy(source / "journal.jsonl", target)
        raise OSError(28, "No space left on device")

    with hold(run, "run pose") as writer, monkeypatch.context() as full:
        full.setattr("shutil.copytree", fill)
        with pytest.raises(OSError, match="No space left on device"):
            move_aside(run, aside, ["journal.jsonl"], writer)
    assert (run / "journal.jsonl").exists()
    assert not aside.exists()


def test_a_storage_in_a_bucket_is_resolved_to_itself():
    assert resolved_storage("s3://bucket/runs/") == "s3://bucket/runs"
    assert resolved_storage("file:///disk/runs") == "/disk/runs"


def test_a_storage_that_is_neither_folder_nor_bucket_is_refused():
    with pytest.raises(
        ValueError, match="or one in a bucket: s3://, gs:// or az://, got 'ftp://h'"
    ):
        resolved_storage("ftp://h")
    with pytest.raises(ValueError, match="expected s3://BUCKET/FOLDER"):
        RaySettings(storage="s3://")
