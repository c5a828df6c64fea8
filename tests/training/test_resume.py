"""Runs that are killed at any moment and resumed end bit-identical to uninterrupted ones."""

import itertools
import os
import random
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from trainers import EPOCHS, eventful_task, kept, start_ranks, train_alone

from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.data.sampler import epoch_order
from pipeline.evaluation.evaluate import EVALUATION_NAME
from pipeline.evaluation.per_person import PEOPLE_NAME
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.journal import Journal
from pipeline.run.layout import STOP_NAME
from pipeline.run.metadata import read_metadata
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.distributed import Request
from pipeline.training.loop import LoopHooks, train
from pipeline.training.trainer import Task, Trainer

pytestmark = pytest.mark.slow

# Metrics that differ between identical runs.
TIMED = ("samples_per_s", "input_wait_percent", "memory_mib")
# A kill: "steps" or a function, the rank, and after how many steps or at which call.
Kill = tuple[str, int, int]
WRITING, ENTERING = (
    "pipeline.run.checkpoint_manager.write_checkpoint",
    "pipeline.run.checkpoint_manager.CheckpointManager._enter_epoch",
)


class Killing(Checkpointer):
    """Kills its process after a number of steps."""

    def __init__(self, trainer: Trainer, folder: Path, steps: int) -> None:
        super().__init__(trainer, folder)
        self._left = steps

    def request(self) -> Request:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().request()


def killed_at(name: str, count: int) -> None:
    """Kill this process at the `count`-th call of a function, with half a file written."""
    patch, calls = pytest.MonkeyPatch(), []
    original = resolve_name(name)

    def last(*arguments: object) -> object:
        calls.append(name)
        if len(calls) == count:
            if name == WRITING:
                (arguments[0] / "weights.safetensors").write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    patch.setattr(name, last)


def spoil(bad: int) -> None:
    """Make the images of every batch with the training sample at `bad` not finite."""
    original = SampleLoader.batch

    def batch(loader: SampleLoader, positions: Any, *varied: Any) -> Batch:
        made = original(loader, positions, *varied)
        is_bad = varied and bad in positions.tolist()
        return replace(made, gains=made.gains * float("nan")) if is_bad else made

    pytest.MonkeyPatch().setattr(SampleLoader, "batch", batch)


def train_rank(rank: int, attempt: Path, task: Task, kill: Kill | None, bad: int | None) -> None:
    """Train as one rank until the end or its kill. The sample at `bad` has no finite loss."""
    if bad is not None:
        spoil(bad)
    workers = task.settings["ray.workers"]
    if workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{attempt}", rank=rank, world_size=workers
        )
    what, where, count = kill or ("", -1, 0)
    steps = -1
    if rank == where and what == "steps":
        steps = count
    elif rank == where:
        killed_at(what, count)
    trainer = Trainer(task, rank, workers, torch.device("cpu"))
    with Killing(trainer, Path(task.folder), steps) as checkpointer:
        train(trainer, checkpointer, LoopHooks())


def run(folder: Path, task: Task, kills: list[Kill], bad: int | None = None) -> Path:
    """Train to the end through all kills; return the run's folder. The sample at `bad` is bad."""
    task = replace(task, folder=str(folder / "run"))
    folder.mkdir()
    workers = task.settings["ray.workers"]
    # The rank that survives fails too, and its error may come first.
    expected = (ProcessExitedException, ProcessRaisedException)[:workers]
    for number, kill in enumerate([*kills, None]):
        with pytest.raises(expected) if kill else nullcontext():
            start_ranks(train_rank, (folder / f"meeting-{number}", task, kill, bad), workers)
    return folder / "run"


def left_by(folder: Path) -> dict[str, bytes]:
    """Weights and evaluation of the last checkpoint."""
    assert [path.name for path in checkpoints(folder)][-1] == f"epoch_{EPOCHS:04d}"
    last = checkpoints(folder)[-1]
    files = [*last.glob("*.safetensors"), last / EVALUATION_NAME, last / PEOPLE_NAME]
    return {path.name: path.read_bytes() for path in files}


def recorded(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Every epoch's metrics in the order of the journal, without those that may differ."""
    return [
        (
            entry.content["step"],
            {name: value for name, value in entry.content["values"].items() if name not in TIMED},
        )
        for entry in Journal(folder).entries()
        if entry.kind == "metrics"
    ]


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def straight(request, tmp_path_factory) -> tuple[Task, Path]:
    """A run without any kill."""
    folder = tmp_path_factory.mktemp("straight")
    task = eventful_task(folder, request.param)
    return task, run(folder / "never killed", task, [])


def test_a_run_that_was_killed_repeatedly_ends_bit_identical(straight, tmp_path):
    task, expected = straight
    last = task.settings["ray.workers"] - 1
    kills: list[Kill] = [
        ("steps", last, 1),  # before there is any checkpoint
        (WRITING, 0, 2),
        ("steps", 0, 4),
        (ENTERING, 0, 1),  # its epoch's checkpoint is written, and not yet in the journal
        ("steps", last, random.Random(0).randint(1, 5)),
    ]
    folder = run(tmp_path / "killed", task, kills)
    assert left_by(folder) == left_by(expected)
    assert recorded(folder) == recorded(expected)
    assert [step for step, _ in recorded(folder)] == [1, 2, 3]
    # No unfinished checkpoint is left.
    assert not list(folder.glob(".writing-*"))
    assert kept(folder) == kept(expected)


def test_a_run_ends_early_after_the_same_epoch_through_kills_and_changes_of_workers(tmp_path):
    # Weights that no step changes: no epoch is better than the first.
    changes = {"optim.learning_rate": 1e-300, "optim.stop_after": 2, "optim.epochs": 9}
    task = eventful_task(tmp_path, 1)
    folder = tmp_path / "run"
    starts: list[tuple[int, Kill | None]] = [
        (1, ("steps", 0, 7)),  # in the second epoch
        (2, (WRITING, 0, 4)),  # between the steps and the evaluation of the second epoch
        (1, None),
    ]
    for number, (workers, kill) in enumerate(starts):
        settings = task.settings | changes | {"ray.workers": workers}
        again = replace(task, settings=settings, folder=str(folder))
        expected = (ProcessExitedException, ProcessRaisedException)
        with pytest.raises(expected) if kill else nullcontext():
            start_ranks(train_rank, (tmp_path / f"meeting-{number}", again, kill, None), workers)
    train_alone(again, folder)
    assert [step for step, _ in recorded(folder)] == [1, 2, 3]
    assert kept(folder)[-1] == "epoch_0003"
    plateau = read_metadata(folder / "epoch_0003").plateau
    assert (plateau.epochs_since, plateau.best) == (2, recorded(folder)[0][1]["pckh_0.5"])


def test_bad_steps_are_skipped_and_counted_once_however_a_run_is_killed(tmp_path):
    task, bad = eventful_task(tmp_path, 2), 7
    expected = run(tmp_path / "never killed", task, [], bad)
    kills: list[Kill] = [("steps", 1, 3), (WRITING, 0, 4), ("steps", 0, 4)]
    folder = run(tmp_path / "killed", task, kills, bad)
    assert left_by(folder) == left_by(expected)
    assert recorded(folder) == recorded(expected)
    # Each epoch drops one of eleven samples, a different one each time.
    orders = [epoch_order(np.array([0, 4, 5, 11]), 0, epoch, 2048) for epoch in range(EPOCHS)]
    seen = [int(bad in order[:10].tolist()) for order in orders]
    assert [metrics["bad_steps"] for _, metrics in recorded(folder)] == seen
    last = read_metadata(checkpoints(folder)[-1])
    assert (last.progress.bad_steps, last.progress.epoch_bad_steps) == (sum(seen), 0)
    assert sum(seen) >= 2


class Stopping(LoopHooks):
    """Requests a stop when epoch 1 is reported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def report(self, metrics: Mapping[str, float]) -> None:
        (self._folder / STOP_NAME).touch()


def test_a_run_that_is_asked_to_stop_saves_a_checkpoint_and_resumes(tmp_path):
    task = replace(eventful_task(tmp_path, 1), folder=str(tmp_path / "run"))

    def trainer() -> Trainer:
        return Trainer(task, 0, 1, torch.device("cpu"))

    times = itertools.count()
    stopped = trainer()
    # The clock advances a second per call, so that the stop file is checked after every step.
    checkpointer = Checkpointer(stopped, Path(task.folder), clock=lambda: float(next(times)))
    with checkpointer:
        train(stopped, checkpointer, Stopping(Path(task.folder)))
    assert (stopped.state.progress.epochs, stopped.state.progress.epoch_steps) == (1, 1)
    assert kept(Path(task.folder)) == ["epoch_0001", "epoch_0001+00001"]
    (tmp_path / "run" / STOP_NAME).unlink()
    resumed = trainer()
    with Checkpointer(resumed, Path(task.folder)) as checkpointer:
        train(resumed, checkpointer, LoopHooks())
    straight = trainer()
    with Checkpointer(straight, tmp_path / "straight") as checkpointer:
        train(straight, checkpointer, LoopHooks())
    assert left_by(tmp_path / "run") == left_by(tmp_path / "straight")


def test_a_run_resumes_from_the_newest_sound_checkpoint(tmp_path, capsys):
    task = replace(eventful_task(tmp_path, 1), folder=str(tmp_path / "run"))
    first = Trainer(task, 0, 1, torch.device("cpu"))
    with Checkpointer(first, Path(task.folder)) as checkpointer:
        train(first, checkpointer, LoopHooks())
    expected = left_by(Path(task.folder))
    assert kept(Path(task.folder)) == ["epoch_0002", "epoch_0003"]
    path = tmp_path / "run" / "epoch_0003" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    second = Trainer(task, 0, 1, torch.device("cpu"))
    with Checkpointer(second, Path(task.folder)) as checkpointer:
        train(second, checkpointer, LoopHooks())
    printed = capsys.readouterr().out
    assert f"checkpoint epoch_0003 can't be used: {path}: checksum mismatch" in printed
    assert "resuming from epoch_0002, after 20 samples, with 1 workers" in printed
    assert left_by(Path(task.folder)) == expected
