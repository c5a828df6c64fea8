"""Ranks that hang are detected, named with their stacks and ended; the run resumes."""

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from trainers import eventful_task, kept

from pipeline.cluster.heartbeats import (
    Heartbeat,
    Heartbeats,
    last_heard,
    remove_heartbeats,
    stuck,
)
from pipeline.cluster.watchdog import STATUS, Watchdog
from pipeline.data.loader import SampleLoader
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.distributed import Request
from pipeline.training.loop import LoopHooks, train
from pipeline.training.probes import ProgressMarker
from pipeline.training.trainer import Task, Trainer

pytestmark = pytest.mark.slow

# More than ten times what a step of the tiny network takes when the machine has much else to do,
# and what no attempt without trouble comes near to.
PATIENCE_S, AMPLE_S = 3.0, 120.0


def beat(rank: int, *, stage: int = 3, done: int = 5) -> Heartbeat:
    what = f"step {done}"
    return Heartbeat(
        rank=rank,
        host="h",
        pid=70 + rank,
        stage=stage,
        done=done,
        what=what,
        still_s=9,
    )


def heard(*beats: Heartbeat, **ages: float) -> dict[int, tuple[Heartbeat, float]]:
    return {made.rank: (made, ages.get(f"rank_{made.rank}", 0.0)) for made in beats}


def test_the_rank_with_less_progress_is_the_stuck_one():
    found = stuck(heard(beat(0), beat(1, done=4), beat(2)), 3, silent_s=60)
    assert found == {1: "rank 1 (host h, pid 71) is behind the others, still for 9 s since step 4"}
    # An earlier stage is less far, however much was done in it.
    assert list(stuck(heard(beat(0, stage=2, done=9), beat(1)), 2, silent_s=60)) == [0]


def test_a_rank_without_heartbeat_is_the_stuck_one_whatever_its_step():
    found = stuck(heard(beat(0, done=4), beat(1), rank_1=61.0), 2, silent_s=60)
    assert found == {1: "rank 1 (host h, pid 71) has had no heartbeat for 61 s, since step 5"}


def test_no_rank_is_stuck_where_all_have_equal_progress():
    assert stuck(heard(beat(0), beat(1)), 2, silent_s=60) == {}
    assert stuck(heard(beat(0)), 1, silent_s=60) == {}


def test_a_rank_without_any_heartbeat_is_stuck_only_at_the_start():
    assert stuck(heard(beat(0, stage=0)), 2, silent_s=60) == {1: "rank 1 has had no heartbeat yet"}
    assert stuck(heard(beat(0, stage=1)), 2, silent_s=60) == {}


def test_heartbeats_of_another_generation_do_not_count(tmp_path):
    first, second = Heartbeats(tmp_path, 2), Heartbeats(tmp_path, 10)
    first.write(beat(0))
    first.write(beat(1))
    second.write(beat(1, done=7))
    assert list(second.read(1, 2)) == [1]
    assert last_heard(tmp_path, 0) is None
    assert last_heard(tmp_path, 1) == beat(1, done=7)
    remove_heartbeats(tmp_path, before=10)
    # A rank that is cut off from the cluster writes on, and reaches no successor's file.
    first.write(beat(1, done=9))
    assert last_heard(tmp_path, 1) == beat(1, done=7)
    # Nor does one count that a crash has cut off.
    path = tmp_path / "heartbeats" / "00000010" / "rank_00001.json"
    path.with_name("rank_00000.json").write_text('{"rank": 0')
    assert list(second.read(1, 2)) == [1]
    # Ages are those of the files, independent of the clock of the host that reads.
    second.write(beat(0))
    os.utime(path, (1000.0, 1000.0))
    os.utime(path.with_name("rank_00000.json"), (1030.0, 1030.0))
    assert [age for _, age in second.read(0, 2).values()] == [0.0, 30.0]


def test_a_first_step_that_compiles_is_no_hang_and_is_announced(tmp_path, capsys):
    marker = ProgressMarker()
    marker.advance("compiling the network, in step 1 of epoch 1", patience=60.0)
    ended: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", ended.append)
        # It would end this process.
        patch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)
        with Watchdog(marker, tmp_path, 1, 0, 1, patience_s=0.2):
            time.sleep(1.0)
            said = capsys.readouterr().out
            assert "compiling the network, in step 1 of epoch 1 ..." in said
            assert "HANG" not in said
            marker.advance("step 1 of epoch 1")
            until = time.monotonic() + AMPLE_S
            while not ended and time.monotonic() < until:
                time.sleep(0.05)
    assert ended
    assert ended[0] == STATUS
    assert "since step 1 of epoch 1" in capsys.readouterr().out


def stuck_read() -> None:
    """Make the fourth sample's load hang."""
    patch, calls = pytest.MonkeyPatch(), []
    original = SampleLoader.load

    def never_returning(*arguments: object) -> object:
        calls.append(1)
        if len(calls) >= 4:
            time.sleep(1000)
        return original(*arguments)

    patch.setattr(SampleLoader, "load", never_returning)


def in_wish(trouble: Callable[[], object]) -> None:
    """Make the third step end in trouble."""
    patch, calls = pytest.MonkeyPatch(), []

    def request(_: Checkpointer) -> Request:
        calls.append(1)
        if len(calls) == 3:
            trouble()
        return Request.NONE

    patch.setattr(Checkpointer, "request", request)


def stopped() -> None:
    in_wish(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def holding_the_lock() -> None:
    # PyDLL keeps Python's lock, as a faulty extension would.
    in_wish(lambda: ctypes.PyDLL(None).sleep(1000))


def train_rank(rank: int, attempt: Path, task: Task, trouble: Callable[[], None] | None) -> None:
    """Train as one rank; the last one has the trouble."""
    workers, folder = task.settings["ray.workers"], Path(task.folder)
    for stream in (1, 2):
        os.dup2(os.open(f"{attempt}-{rank}-{stream}", os.O_CREAT | os.O_WRONLY), stream)
    if workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{attempt}", rank=rank, world_size=workers
        )
    if trouble and rank == workers - 1:
        trouble()
    marker, patience_s = ProgressMarker(), PATIENCE_S if trouble else AMPLE_S
    generation = int(attempt.name[-1])
    if rank == 0:  # as a worker does
        remove_heartbeats(folder, before=generation)
    trainer = Trainer(task, rank, workers, torch.device("cpu"), marker)
    # From here on, since on a busy machine the network's making takes as long as a hang here.
    marker.begin("the network's making")
    with (
        Watchdog(marker, folder, generation, rank, workers, patience_s),
        Checkpointer(trainer, folder) as checkpointer,
    ):
        train(trainer, checkpointer, LoopHooks())


def train_all(_: int, folder: Path, task: Task, trouble: Callable[[], None]) -> None:
    """Load what all ranks need, and start them twice: with the trouble, then without."""
    import torch._dynamo  # DDP and the optimizers would load it, each rank for itself

    fork = torch.multiprocessing.get_context("fork")
    statuses = []
    for number, happens in enumerate((trouble, None)):
        arguments = (folder / f"attempt-{number}", task, happens)
        ranks = [
            fork.Process(target=train_rank, args=(rank, *arguments))
            for rank in range(task.settings["ray.workers"])
        ]
        for rank in ranks:
            rank.start()
        # One that is stopped is not waited for, but killed with the others, as Ray Train does it.
        for rank in ranks[:1] if trouble is stopped else ranks:
            rank.join()
        for rank in ranks if trouble is stopped and happens else ():
            with suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGKILL)
        for rank in ranks:
            rank.join()
        statuses.append([rank.exitcode for rank in ranks])
    (folder / "statuses").write_text(json.dumps(statuses))
    # Taking torch down again would take as long as all of the above.
    os._exit(0)


def run(folder: Path, workers: int, trouble: Callable[[], None]) -> list[list[int]]:
    """Train with a trouble, then again; return how every rank ended each time."""
    task = replace(eventful_task(folder, workers), folder=str(folder / "run"))
    torch.multiprocessing.spawn(train_all, (folder, task, trouble), nprocs=1)
    return json.loads((folder / "statuses").read_text())


def reports(folder: Path) -> dict[str, str]:
    """The reports of hangs by rank."""
    found = (folder / "run" / "hangs").glob("*.txt")
    return {path.stem.partition("-")[2]: path.read_text() for path in found}


def resumed_from(folder: Path) -> str:
    """The checkpoint that the second attempt resumed from."""
    output = (folder / "attempt-1-0-1").read_text()
    return output.partition("resuming from ")[2].partition(",")[0]


def check_ended(folder: Path) -> None:
    """The second attempt came to the end, and left no heartbeat."""
    assert kept(folder / "run")[-1] == "epoch_0003"
    assert not (folder / "run" / "heartbeats").exists()


def test_a_rank_whose_read_hangs_is_named_with_its_stack_and_the_run_resumes(tmp_path):
    statuses = run(tmp_path, 2, stuck_read)
    assert statuses[0][1] == STATUS
    assert statuses[1] == [0, 0]
    report = reports(tmp_path)["rank_00001"]
    assert report.startswith("HANG: rank 1 of 2 (host ")
    assert "the other ranks wait for this one" in report
    # Where the loop waits comes first, and the thread that it waits for is there.
    assert report.index("look_ahead") < report.index("never_returning")
    assert report in (tmp_path / "attempt-0-1-1").read_text()
    assert resumed_from(tmp_path) == "epoch_0000+00002"
    check_ended(tmp_path)


def test_a_rank_that_is_stopped_is_named_by_the_one_that_waits_for_it(tmp_path):
    statuses = run(tmp_path, 2, stopped)
    assert statuses == [[STATUS, -signal.SIGKILL], [0, 0]]
    report = reports(tmp_path)["rank_00000"]
    assert "rank 1 (host " in report
    assert "has had no heartbeat for" in report
    assert "  this rank only waits" in report
    assert resumed_from(tmp_path) == "epoch_0000+00002"
    check_ended(tmp_path)


def test_a_rank_that_never_lets_go_of_pythons_lock_shows_its_stack_and_ends(tmp_path):
    assert run(tmp_path, 1, holding_the_lock) == [[1], [0]]
    shown = (tmp_path / "attempt-0-0-2").read_text()
    assert "Timeout (0:00:03)!" in shown
    assert "in train_epoch" in shown
    check_ended(tmp_path)
