"""A run's checkpoints on disk: which stay, which are refused, and a full disk."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import checkpoint, pack_samples, samples

from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import Snapshot, check_sound, write_checkpoint
from pipeline.run.checkpoint_manager import (
    CheckpointManager,
    EpochEntry,
    awaits_evaluation,
    best,
    checkpoint_name,
    checkpoints,
    newest_sound,
)
from pipeline.run.journal import Journal
from pipeline.run.layout import StorageError
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.run.ownership import SupersededError, Writer, own
from pipeline.settings import Settings
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.trainer import Task, Trainer

METRIC = "pckh_0.5"


def snapshot_of(accuracy: float | None = None, weight: float = 0.0) -> Snapshot:
    """A checkpoint of one number."""
    metrics = {} if accuracy is None else {METRIC: accuracy}
    metadata = CheckpointMetadata(
        settings=Settings(), joint_set=MPII, progress=Progress(), metrics=metrics
    )
    return Snapshot(metadata=metadata, weights={"weight": torch.tensor([weight])})


def nothing() -> None:
    pass


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, accuracies: Mapping[str, float | None], keep: int = 2) -> list[str]:
    """Write checkpoints one after another; return the names of those that are left."""
    manager = CheckpointManager(folder, keep, METRIC)
    for name, accuracy in accuracies.items():
        manager.add(name, snapshot_of(accuracy))
        assert manager.close() is None
    return [path.name for path in checkpoints(folder)]


def test_a_run_evaluates_if_its_newest_checkpoint_has_an_epochs_steps_and_no_score(tmp_path):
    assert not awaits_evaluation(tmp_path, METRIC), "it has no checkpoint"
    checkpoint(tmp_path / "epoch_0000+00009")
    assert awaits_evaluation(tmp_path, METRIC)
    checkpoint(tmp_path / "epoch_0001", {METRIC: 1.0})
    assert not awaits_evaluation(tmp_path, METRIC), "it trains the second epoch"
    (within := tmp_path / "epoch_0001+00003").mkdir()
    write_checkpoint(within, within_an_epoch())
    assert not awaits_evaluation(tmp_path, METRIC)
    (within / "checkpoint.json").write_text("{")
    assert not awaits_evaluation(tmp_path, METRIC), "it can't be read"


def within_an_epoch() -> Snapshot:
    progress = Progress(epochs=1, epoch_steps=3)
    metadata = replace(snapshot_of().metadata, progress=progress)
    return replace(snapshot_of(), metadata=metadata)


def test_names_in_alphabetical_order_are_in_the_order_of_training():
    course = [(0, 5), (0, 120), (1, 0), (1, 9), (2, 0), (10, 0)]
    names = [checkpoint_name(Progress(epochs=e, epoch_steps=s)) for e, s in course]
    assert names == [
        *("epoch_0000+00005", "epoch_0000+00120", "epoch_0001", "epoch_0001+00009"),
        *("epoch_0002", "epoch_0010"),
    ]
    assert names == sorted(names)


def test_the_newest_and_the_best_stay(tmp_path):
    accuracies = {"epoch_0001": 50.0, "epoch_0002": 70.0, "epoch_0003": 60.0}
    assert write(tmp_path, accuracies, keep=1) == ["epoch_0002", "epoch_0003"]
    later = {"epoch_0004": 10.0, "epoch_0005": 20.0}
    assert write(tmp_path, later, keep=2) == ["epoch_0002", "epoch_0004", "epoch_0005"]


def test_the_best_by_each_further_metric_stays(tmp_path):
    scores = {"epoch_0001": (5.0, 9.0), "epoch_0002": (9.0, 5.0), "epoch_0003": (1.0, 1.0)}
    manager = CheckpointManager(tmp_path, 1, METRIC, others=["stack_1/" + METRIC])
    for name, (last, first) in scores.items():
        snapshot = snapshot_of(last)
        snapshot.metadata.metrics["stack_1/" + METRIC] = first
        manager.add(name, snapshot)
        assert manager.close() is None
    assert [path.name for path in checkpoints(tmp_path)] == list(scores)
    manager.add("epoch_0004", snapshot_of(2.0))
    assert manager.close() is None
    kept = [path.name for path in checkpoints(tmp_path)]
    assert kept == ["epoch_0001", "epoch_0002", "epoch_0004"]


def test_of_equally_good_ones_the_earliest_is_the_best(tmp_path):
    write(tmp_path, {"epoch_0001": 50.0, "epoch_0002": 70.0, "epoch_0003": 70.0}, keep=3)
    found = best(tmp_path, METRIC)
    assert found is not None
    assert found[0].name == "epoch_0002"


def test_checkpoints_within_an_epoch_are_removed_when_it_is_complete(tmp_path):
    within = {"epoch_0001": 50.0, "epoch_0001+00010": None, "epoch_0001+00020": None}
    assert write(tmp_path, within) == ["epoch_0001", "epoch_0001+00010", "epoch_0001+00020"]
    assert write(tmp_path, {"epoch_0002": 40.0}) == ["epoch_0001", "epoch_0002"]


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path):
    manager = CheckpointManager(tmp_path, 2, METRIC)
    for accuracy in (1.0, 2.0):
        manager.add("epoch_0001", snapshot_of(accuracy))
    manager.close()
    assert check_sound(tmp_path / "epoch_0001").metrics == {METRIC: 2.0}
    assert names_in(tmp_path) == ["epoch_0001"]


def test_an_unfinished_checkpoint_does_not_count_and_is_removed(tmp_path):
    left = tmp_path / ".writing-abc"
    left.mkdir()
    (left / "checkpoint.json").write_text("{}")
    assert checkpoints(tmp_path) == []
    CheckpointManager(tmp_path, 2, METRIC)
    assert not left.exists()


def damage(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_damaged_checkpoints_are_named_and_the_newest_sound_one_is_found(tmp_path):
    write(tmp_path, {"epoch_0001": 1.0, "epoch_0002": 2.0, "epoch_0003": 3.0}, keep=3)
    damage(tmp_path / "epoch_0003")
    metadata = tmp_path / "epoch_0002" / "checkpoint.json"
    metadata.write_text(metadata.read_text().replace("2.0", "99.0"))
    printed: list[str] = []
    found = newest_sound(tmp_path, printed.append)
    assert found is not None
    assert found[0].name == "epoch_0001"
    assert found[1].metrics == {METRIC: 1.0}
    [truncated, tampered] = printed
    assert truncated == (
        f"checkpoint epoch_0003 can't be used: {tmp_path}/epoch_0003/weights.safetensors: checksum "
        "mismatch: the file was modified after it was written"
    )
    assert tampered.startswith(
        f"checkpoint epoch_0002 can't be used: {metadata}: checksum mismatch: "
    )


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path):
    assert newest_sound(tmp_path, lambda _: None) is None
    write(tmp_path, {"epoch_0001": 1.0, "epoch_0002": 2.0})
    for path in checkpoints(tmp_path):
        damage(path)
    with pytest.raises(
        ValueError, match=r"all of its 2 checkpoints are damaged; use another ray\.name"
    ):
        newest_sound(tmp_path, lambda _: None)


def test_an_epoch_is_entered_after_its_checkpoint_and_its_picture(tmp_path, monkeypatch):
    picture = tmp_path / "overlays" / "overlay_0001.png"

    def write(folder: Path, snapshot: Snapshot) -> None:
        assert picture.read_bytes() == b"PNG"
        assert not Journal(tmp_path).entries()
        write_checkpoint(folder, snapshot)

    monkeypatch.setattr("pipeline.run.checkpoint_manager.write_checkpoint", write)
    manager = CheckpointManager(tmp_path, 2, METRIC)
    entry = EpochEntry(epoch=1, metrics={METRIC: 1.0}, picture=b"PNG")
    manager.add("epoch_0001", snapshot_of(1.0), epoch=entry)
    assert manager.close() is None
    assert [entry.kind for entry in Journal(tmp_path).entries()] == ["file", "metrics"]
    # As on a resume.
    manager.enter(EpochEntry(epoch=1, metrics={METRIC: 1.0}))
    assert len(Journal(tmp_path).entries()) == 2


def test_another_error_of_the_thread_is_raised_by_close(tmp_path):
    manager = CheckpointManager(tmp_path, 2, METRIC)
    (tmp_path / "journal.jsonl").write_text("damaged\n")
    manager.add("epoch_0001", snapshot_of(1.0))
    with pytest.raises(ValueError, match=r"journal\.jsonl: line 1 is damaged: "):
        manager.close()
    assert manager.close() is None


# A full disk


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> None:
    """Fill the disk."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**12))
        except OSError:
            return


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


def test_a_checkpoint_that_finds_no_room_leaves_those_before_it(disk):
    manager = CheckpointManager(disk, 2, METRIC)
    manager.add("epoch_0001", snapshot_of(1.0))
    manager.close()
    fill(disk)
    manager.add("epoch_0002", snapshot_of(2.0))
    failure = manager.close()
    assert str(failure).startswith(f"{disk}/epoch_0002: not written, with 0.0 MiB free there: ")
    assert "No space left on device" in str(failure)
    assert names_in(disk) == ["ballast", "epoch_0001"]
    found = newest_sound(disk, pytest.fail)
    assert found is not None
    assert found[0].name == "epoch_0001"


def test_a_journal_on_a_full_disk_keeps_its_entries_and_takes_more_later(disk):
    journal = Journal(disk)
    many = {f"metric {number}": float(number) for number in range(1000)}
    journal.metrics({"first": 1.0}, 1)
    fill(disk)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left on device"):
            journal.metrics(many, 2)
        assert [entry.seq for entry in Journal(disk).entries()] == [1]
    free(disk)
    journal.metrics(many, 2)
    assert [entry.content["step"] for entry in Journal(disk).entries()] == [1, 2]
    assert Journal(disk).entries()[1].content["values"] == many


def trainer_of(folder: Path, epochs: int) -> Trainer:
    """A tiny network on four people, two steps an epoch."""
    settings = {
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 2,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.batch_size": 2,
        "optim.epochs": epochs,
        "evaluation.overlays": 1,
        "ray.checkpoint_minutes": 0.0,
    }
    train = pack_samples(folder / "train", [samples(4)])
    val = pack_samples(folder / "val", [samples(2, first=20)], split="val")
    task = Task(
        settings=settings,
        joint_set=MPII.to_json(),
        train=tuple(map(str, train)),
        val=tuple(map(str, val)),
    )
    return Trainer(task, 0, 1, torch.device("cpu"))


class After(LoopHooks):
    """Acts on the run's disk after an epoch, when its checkpoint's thread has ended."""

    def __init__(self, acts: Mapping[int, Callable[[], None]]) -> None:
        self.acts = acts

    def report(self, metrics: Mapping[str, float]) -> None:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        self.acts.get(int(metrics["epoch"]), nothing)()


def recorded(folder: Path) -> tuple[list[int], list[str]]:
    """The steps of the metrics and the names of the files that a journal has."""
    entries = Journal(folder).entries()
    return (
        [entry.content["step"] for entry in entries if entry.kind == "metrics"],
        [Path(entry.content["path"]).name for entry in entries if entry.kind == "file"],
    )


def test_training_continues_without_a_checkpoint_and_catches_up_when_there_is_room(
    disk, tmp_path, capsys
):
    trainer = trainer_of(tmp_path, 4)
    run = disk / "run"
    usable: list[str] = []

    def look_and_free() -> None:
        found = newest_sound(run, pytest.fail)
        usable.extend([found[0].name] if found else [])
        free(disk)

    with Checkpointer(trainer, run) as checkpointer:
        train(trainer, checkpointer, After({1: lambda: fill(disk), 2: look_and_free}))
    printed = capsys.readouterr().out
    # Of the second epoch neither the checkpoint of its steps nor that of its evaluation.
    assert printed.count("MiB free there") == 2
    for name in ("epoch_0001+00002", "epoch_0002"):
        assert f"{run / name}: not written, with 0.0 MiB free there: " in printed
    assert printed.count("training continues, and retries at the next checkpoint") == 2
    assert usable == ["epoch_0001"]
    pictures = [f"overlay_{epoch:04d}.png" for epoch in (1, 2, 3, 4)]
    assert recorded(run) == ([1, 2, 3, 4], pictures)
    assert names_in(run / "overlays") == pictures
    for path in (run / "overlays").iterdir():
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert [path.name for path in checkpoints(run)][-2:] == ["epoch_0003", "epoch_0004"]
    assert check_sound(run / "epoch_0004").progress.epochs == 4


def test_entries_that_fail_wait_and_are_entered_once(disk, tmp_path, capsys, monkeypatch):
    trainer = trainer_of(tmp_path, 3)
    run = disk / "run"
    original, calls = CheckpointManager._enter_epoch, []

    def full_the_second_time(manager: CheckpointManager, entry: EpochEntry) -> None:
        calls.append(entry.epoch)
        if len(calls) == 2:
            fill(disk)
        original(manager, entry)

    monkeypatch.setattr(CheckpointManager, "_enter_epoch", full_the_second_time)
    with Checkpointer(trainer, run) as checkpointer:
        train(trainer, checkpointer, After({2: lambda: free(disk)}))
    printed = capsys.readouterr().out
    assert (
        f"{run}/epoch_0002: written, but not entered in the journal, with 0.0 MiB free" in printed
    )
    # Tried again with the checkpoint of the next epoch's steps.
    assert calls == [1, 2, 2, 3]
    assert recorded(run) == ([1, 2, 3], [f"overlay_{epoch:04d}.png" for epoch in (1, 2, 3)])


def test_three_failed_checkpoints_in_a_row_end_the_run_which_resumes_later(disk, tmp_path):
    run = disk / "run"
    trainer = trainer_of(tmp_path, 9)
    with (
        pytest.raises(StorageError, match=r"not written, with 0\.0 MiB free there: "),
        Checkpointer(trainer, run) as checkpointer,
    ):
        train(trainer, checkpointer, After({1: lambda: fill(disk)}))
    # Epoch 2 has two checkpoints; the third that fails is found at the fourth.
    assert trainer.state.progress.epochs == 3
    assert recorded(run) == ([1], ["overlay_0001.png"])
    free(disk)
    second = trainer_of(tmp_path / "again", 4)
    with Checkpointer(second, run) as checkpointer:
        train(second, checkpointer, LoopHooks())
    assert recorded(run)[0] == [1, 2, 3, 4]


def test_a_last_checkpoint_without_room_is_an_error_of_the_run(disk, tmp_path):
    trainer = trainer_of(tmp_path, 1)
    checkpointer = Checkpointer(trainer, disk / "run")
    fill(disk)
    with pytest.raises(StorageError, match=r"run/epoch_0001: not written"), checkpointer:
        train(trainer, checkpointer, LoopHooks())
    assert newest_sound(disk / "run", pytest.fail) is None


# A run that another start has taken over


def superseded(folder: Path, begin: Callable[[CheckpointManager], None]) -> list[str]:
    """Let a manager `begin` something, and another start take over; return what changed then."""
    with own(folder, "run mine") as driver:
        worker = Writer.of_worker(folder, driver.owner)
        manager = CheckpointManager(folder, 1, METRIC, 1, writer=worker)
        manager.add("epoch_0001", snapshot_of(10.0))
        manager.add("epoch_0002", snapshot_of(20.0))
        assert manager.close() is None
        Writer.of_worker(folder, driver.owner)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(SupersededError, match="has newer workers"):
            begin(manager)
        after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    return [str(path.relative_to(folder)) for path in after if after[path] != before.get(path)]


def test_a_superseded_writer_adds_no_checkpoint_picture_or_entry(tmp_path):
    def add(manager: CheckpointManager) -> None:
        manager.add("epoch_0003", snapshot_of(30.0))
        manager.close()

    def add_with_picture(manager: CheckpointManager) -> None:
        entry = EpochEntry(epoch=3, metrics={METRIC: 30.0}, picture=b"png")
        manager.add("epoch_0003", snapshot_of(30.0), epoch=entry)

    def enter(manager: CheckpointManager) -> None:
        manager.enter(EpochEntry(epoch=2, metrics={METRIC: 20.0}))

    for number, begin in enumerate((add, add_with_picture, enter)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert superseded(folder, begin) == []
        assert [path.name for path in checkpoints(folder)] == ["epoch_0002"]


@pytest.mark.parametrize("name", ["epoch_0001", "epoch_0002"])
def test_a_writer_that_is_superseded_while_it_renames_a_checkpoint_takes_it_back(
    tmp_path, monkeypatch, name
):
    assert write(tmp_path, {"epoch_0001": 10.0}) == ["epoch_0001"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    manager = CheckpointManager(tmp_path, 1, METRIC)
    checks = iter([None, SupersededError("run mine was taken over")])

    def check() -> None:
        if (found := next(checks)) is not None:
            raise found

    monkeypatch.setattr(manager, "check", check)
    manager.add(name, snapshot_of(20.0))
    with pytest.raises(SupersededError):
        manager.close()
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_superseded_writer_removes_nothing(tmp_path):
    written = {f"epoch_000{number}": float(number) for number in (1, 2, 3)}
    assert write(tmp_path, written, keep=3) == list(written)
    with own(tmp_path, "run mine") as driver:
        writer = Writer.of_worker(tmp_path, driver.owner)
        manager = CheckpointManager(tmp_path, 1, METRIC, writer=writer)
        Writer.of_worker(tmp_path, driver.owner)
        with pytest.raises(SupersededError, match="has newer workers"):
            manager._remove_superseded()
    assert [path.name for path in checkpoints(tmp_path)] == list(written)
