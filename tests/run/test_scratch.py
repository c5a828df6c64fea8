"""Copies of runs on the scratch disk: which are removed, and which are kept."""

import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.io.own import open_own
from pipeline.run import mirror as mirrors
from pipeline.run import scratch
from pipeline.run.mirror import Mirror
from pipeline.run.scratch import tidy
from pipeline.run.storage import hold, local_storage, publish

pytestmark = pytest.mark.usefixtures("memory_store")


def a_copy(scratch: Path, name: str = "pose") -> Path:
    """Make the copy of a run that lies in the bucket."""
    folder = local_storage(f"s3://bucket/runs/{name}", str(scratch))
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("an entry\n")
    publish(folder, f"s3://bucket/runs/{name}")
    return folder


def age(folder: Path, seconds: float = 7200.0) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_copy_that_the_bucket_has_and_no_process_uses_is_removed(tmp_path):
    folder = a_copy(tmp_path)
    age(folder)
    tidy(tmp_path)
    assert not folder.exists()
    assert Mirror(folder, "s3://bucket/runs/pose").pull()
    assert (folder / "journal.jsonl").read_text() == "an entry\n"


def test_what_else_lies_in_the_scratch_folder_is_left_alone(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / ".mirror.json").write_text('{"location": "s3://bucket/runs/x", "manifest": null}')
    age(folder)
    tidy(tmp_path)
    assert folder.exists()


def test_a_copy_that_was_used_within_an_hour_is_kept(tmp_path):
    folder = a_copy(tmp_path)
    age(folder)
    (folder / "owners").mkdir()
    (folder / "owners" / "00000001.json").touch()
    tidy(tmp_path)
    assert folder.exists()


def test_a_copy_is_used_from_the_moment_a_start_or_a_reader_looks_at_it(tmp_path, monkeypatch):
    folder = a_copy(tmp_path)
    for is_light in (False, True):
        age(folder)
        Mirror(folder, "s3://bucket/runs/pose").pull(is_light=is_light)
        tidy(tmp_path)
        assert folder.exists()
    age(folder)

    def pull_meanwhile(folder: Path) -> bool:
        return Mirror(folder, "s3://bucket/runs/pose").pull()

    monkeypatch.setattr(scratch, "_is_dispensable", pull_meanwhile)
    tidy(tmp_path)
    assert folder.exists()


def test_a_copy_that_a_process_keeps_or_changes_is_kept(tmp_path):
    folder = a_copy(tmp_path)
    mirror = Mirror(folder, "s3://bucket/runs/pose")
    for use in (mirror.keep, mirror.alone):
        with use():
            age(folder)
            tidy(tmp_path)
            assert folder.exists()
    tidy(tmp_path)
    assert not folder.exists()


def test_a_copy_is_kept_while_a_process_is_about_to_own_it(tmp_path, monkeypatch):
    folder, await_end = a_copy(tmp_path), Mirror.await_end

    def wait_long(mirror: Mirror, what: str) -> None:
        age(folder)
        tidy(tmp_path)
        await_end(mirror, what)

    monkeypatch.setattr(Mirror, "await_end", wait_long)
    with hold(folder, "run pose"):
        assert (folder / "journal.jsonl").exists()


def test_a_start_that_waits_while_its_copy_is_removed_brings_it_anew(tmp_path, monkeypatch):
    folder = a_copy(tmp_path)
    opened = []

    def open_late(path: Path):
        file = open_own(path)
        if not opened:
            folder.rename(folder.with_name(".removed"))
        opened.append(path)
        return file

    monkeypatch.setattr(mirrors, "open_own", open_late)
    assert Mirror(folder, "s3://bucket/runs/pose").pull()
    assert (folder / "journal.jsonl").read_text() == "an entry\n"
    assert len(opened) == 2


def test_a_copy_with_what_the_bucket_lacks_is_kept(tmp_path):
    folder = a_copy(tmp_path)
    (folder / "journal.jsonl").write_text("an entry\nanother\n")
    age(folder)
    tidy(tmp_path)
    assert (folder / "journal.jsonl").read_text() == "an entry\nanother\n"


def test_a_copy_with_what_counts_no_more_is_removed(tmp_path):
    folder, other = a_copy(tmp_path / "one"), tmp_path / "other/s3/bucket/runs/pose"
    (folder / "journal.jsonl").write_text("an entry\nanother\n")
    age(folder)
    # The run starts over from another machine.
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns(".mirror*"))
    Mirror(folder, "s3://bucket/runs/pose").remove()
    publish(other, "s3://bucket/runs/pose")
    tidy(tmp_path / "one")
    assert not folder.exists()


def test_a_copy_with_what_a_new_bucket_lacks_is_kept(tmp_path):
    folder = a_copy(tmp_path)
    (folder / "journal.jsonl").write_text("an entry\nanother\n")
    age(folder)
    Mirror(folder, "s3://bucket/runs/pose").remove()
    tidy(tmp_path)
    assert (folder / "journal.jsonl").read_text() == "an entry\nanother\n"


def test_a_sweep_goes_after_all_of_its_trials(tmp_path):
    sweep, trial = a_copy(tmp_path, "sweep"), a_copy(tmp_path, "sweep/trial")
    (trial / "journal.jsonl").write_text("an entry\nanother\n")
    age(sweep)
    tidy(tmp_path)
    assert (trial / "journal.jsonl").exists()
    (trial / "journal.jsonl").write_text("an entry\n")
    age(sweep)
    tidy(tmp_path)
    assert not trial.exists()
    age(sweep)
    tidy(tmp_path)
    assert not sweep.exists()
