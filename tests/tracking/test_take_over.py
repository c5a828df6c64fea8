"""Two drivers of one run: the second is refused, or takes over and leaves nothing of the first.

The drivers train on this process's copies instead of Ray's workers. A first driver that is stopped
is continued by the second, which waits for its end. One on another machine can't be: there the
first continues after the second has ended.
"""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from factories import packed, settings_of

from pipeline.cluster.heartbeats import remove_heartbeats
from pipeline.cluster.launch import task_of
from pipeline.cluster.watchdog import Watchdog
from pipeline.io.console import fail
from pipeline.run import ownership
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.ownership import HeldError, Owner, SupersededError, Writer
from pipeline.run.plan import plan_training
from pipeline.run.system_metrics import Monitor
from pipeline.settings import Settings
from pipeline.tracking import summary
from pipeline.tracking.recording import record_run
from pipeline.tracking.sync_state import POSITION_NAME
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.probes import ProgressMarker
from pipeline.training.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 120.0


def drive(settings: Settings) -> None:
    """Train, record and conclude a run as `jobs.train` does, with one worker in this process."""
    plan = plan_training(settings)
    with record_run(plan) as record:
        record.begin()
        task = task_of(plan, owner=record.writer.owner)
        writer = Writer.of_worker(plan.folder, Owner(**task.owner))
        marker, generation = ProgressMarker(), writer.check()
        remove_heartbeats(plan.folder, before=generation)
        with (
            Watchdog(marker, plan.folder, generation, 0, 1, PATIENCE_S),
            Monitor(plan.folder, writer),
        ):
            trainer = Trainer(task, 0, 1, torch.device("cpu"), marker)
            with Checkpointer(trainer, plan.folder, writer=writer) as checkpointer:
                train(trainer, checkpointer, LoopHooks())
        summary.conclude(plan, record.journal)


def stop_before(owner: object, name: str, call: int = 1) -> None:
    """Make this process stop itself before the given call of a function."""
    original, calls = getattr(owner, name), []

    def stopping(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(*arguments, **named)

    setattr(owner, name, stopping)


def lock_before(database: sqlite3.Connection, owner: object, name: str) -> None:
    """Make this process lock MLflow's database and stop itself before a function is called."""
    stop_before(owner, name)
    stopping = getattr(owner, name)

    def locking(*arguments: object, **named: object) -> object:
        database.execute("begin immediate")
        return stopping(*arguments, **named)

    setattr(owner, name, locking)


PHASES: dict[str, Callable[[sqlite3.Connection], None]] = {
    "start": lambda _: stop_before(summary, "draw_augmented"),
    "training": lambda _: stop_before(Checkpointer, "request", 4),
    "evaluation": lambda _: stop_before(Trainer, "evaluate_stacks", 2),
    "conclusion": lambda database: lock_before(database, summary, "curves"),
}
# The phase in which the second driver is on the first one's machine.
HERE = "conclusion"


def first_driver(settings: Settings, phase: str, database: Path) -> None:
    error = os.open(f"{settings.ray.storage}/{phase}.error", os.O_CREAT | os.O_WRONLY)
    os.dup2(error, 2)
    PHASES[phase](sqlite3.connect(database, timeout=PATIENCE_S))
    try:
        drive(settings)
    except SupersededError as error:
        fail(str(error))


def second_driver(settings: Settings, phase: str) -> None:
    if phase != HERE:
        ownership._machine = lambda: "another"
    drive(settings)


def content(folder: Path, database: Path) -> dict[str, object]:
    """Everything that a run has recorded, on disk and in MLflow."""
    files: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and POSITION_NAME not in path.name
        # An unfinished checkpoint is none; a thread that was stopped within it fills its folder.
        and not path.parent.name.startswith(".writing-")
    }
    # A thread that was stopped just before a write ends it. A line is no entry then, and a former
    # position of the upload only lets entries be sent again, which changes nothing.
    files[JOURNAL_NAME] = list(map(vars, Journal(folder).entries()))
    with sqlite3.connect(database) as connection:
        run = f"in (select run_uuid from runs where name = '{folder.name}')"
        for table in ("runs", "metrics", "tags", "params"):
            rows = connection.execute(f"select * from {table} where run_uuid {run}").fetchall()
            files[table] = sorted(map(repr, rows))
    return files


def stage(_: int, folder: Path) -> None:
    """Import once, and let twins of each phase be copies of this process."""
    fork = torch.multiprocessing.get_context("fork")
    database = folder / "mlflow.db"
    base = settings_of(
        packed(folder),
        **{
            "optim.batch_size": 2,
            "optim.epochs": 2,
            "ray.storage": str(folder / "runs"),
            "tracking.uri": f"sqlite:///{database}",
        },
    )
    (folder / "runs").mkdir()
    for phase in PHASES:
        settings = base.replaced({"ray.name": phase})
        first = fork.Process(target=first_driver, args=(settings, phase, database))
        first.start()
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            drive(settings)
        except HeldError as error:
            refusal = str(error)
        second = settings.replaced({"ray.take_over": True})
        other = fork.Process(target=second_driver, args=(second, phase))
        other.start()
        other.join(PATIENCE_S)
        run = folder / "runs" / phase
        before = content(run, database)
        os.kill(first.pid, signal.SIGCONT)
        first.join(PATIENCE_S)
        time.sleep(0.5)
        after = content(run, database)
        found = {
            "refusal": refusal,
            "first": first.pid,
            "second": other.pid,
            "statuses": [first.exitcode, other.exitcode],
            "changed": [name for name in before | after if before.get(name) != after.get(name)],
        }
        (folder / f"{phase}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    torch.multiprocessing.spawn(stage, (folder,))
    return folder


@pytest.mark.parametrize("phase", PHASES)
def test_a_driver_that_was_stopped_leaves_nothing_after_another_has_taken_its_run_over(
    staged, phase
):
    found = json.loads((staged / f"{phase}.json").read_text())
    assert found["refusal"].startswith(f"run {phase} is held by process {found['first']} on host ")
    assert "(stopped, as by SIGSTOP)" in found["refusal"]
    assert found["statuses"] == [1, 0]
    assert found["changed"] == []
    [line] = (staged / "runs" / f"{phase}.error").read_text().splitlines()
    assert line.startswith(f"error: {phase} was taken over by process {found['second']} on host ")
    # All of the run is there, once, and in order.
    run = staged / "runs" / phase
    entries = Journal(run).entries()
    trained = [entry.content for entry in entries if "pckh_0.5" in entry.content.get("values", {})]
    assert [content["step"] for content in trained] == [1, 2]
    ends = [entry.content["status"] for entry in entries if entry.kind == "end"]
    assert ends == ["FINISHED"]
    assert not (run / "heartbeats").exists()
    with sqlite3.connect(staged / "mlflow.db") as connection:
        [(status,)] = connection.execute(f"select status from runs where name = '{phase}'")
        assert status == "FINISHED"
