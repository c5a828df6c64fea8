"""Where a run lies: the folder on this machine that stands for one in a bucket."""

from pathlib import Path

import pytest

from pipeline.run.plan import resolved_storage
from pipeline.run.storage import local_storage, shown
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


def test_the_place_of_a_file_is_shown_in_the_bucket(tmp_path):
    folder = tmp_path / "s3" / "bucket" / "runs" / "pose"
    folder.mkdir(parents=True)
    (folder / ".mirror.json").write_text('{"location": "s3://bucket/runs/pose", "manifest": null}')
    assert shown(folder / "epoch_0001") == "s3://bucket/runs/pose/epoch_0001"


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
