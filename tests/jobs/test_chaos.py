"""The soak's parts without a cluster: faults, traces, the audit, the report and the clean-up."""

import errno
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering_server import answering
from factories import checkpoint

from jobs.chaos import stage
from jobs.chaos import store as store_module
from jobs.chaos.__main__ import main
from jobs.chaos.books import (
    Account,
    Expected,
    checkpoints_account,
    count_steps,
    metrics_account,
    samples_account,
    system_account,
)
from jobs.chaos.evidence import Evidence, Rank, Taking
from jobs.chaos.faults import OF_STORE, Fault, Kind, draws
from jobs.chaos.programs import Program, free_port, python
from jobs.chaos.report import is_good, report, result_of, stalled_s
from jobs.chaos.soak import Soak
from jobs.chaos.store import Answer, Gate, Store
from pipeline.io.objects import StoreError
from pipeline.io.processes import children, wait_for_end
from pipeline.run.journal import Journal
from pipeline.training.probes import StepTrace

# Two epochs of two steps of two, of five people: one of them is dropped each epoch.
TWO_EPOCHS = Expected(people=5, batch=2, epochs=2)
EPOCH_METRICS = ("epoch", "samples", "train_loss", "val_loss", "learning_rate")


def rank(group: str = "first", number: int = 0, workers: int = 1, begun: float = 0.0) -> Rank:
    return Rank(
        run="run-001", group=group, rank=number, workers=workers, pid=100 + number, begun=begun
    )


def taking(epoch: int, step: int, *positions: int, at: float, by: Rank | None = None) -> Taking:
    return Taking(rank=by or rank(), epoch=epoch, step=step, time=at, positions=positions)


UNDISTURBED = [
    taking(0, 1, 3, 0, at=1.0),
    taking(0, 2, 1, 4, at=2.0),
    taking(1, 1, 2, 0, at=3.0),
    taking(1, 2, 1, 3, at=4.0),
]


def rows(*names: str, epochs: int = 2) -> list[tuple[str, int, float]]:
    return [(name, epoch, 0.5) for name in names for epoch in range(1, epochs + 1)]


COMPLETE = [*rows(*EPOCH_METRICS), ("best_pckh_0.5", 2, 60.0), ("best_epoch", 2, 2.0)]


def test_a_run_without_faults_loses_and_doubles_nothing():
    assert samples_account(UNDISTURBED, TWO_EPOCHS) == Account(expected=8)
    assert count_steps(UNDISTURBED) == (4, 0)


def test_steps_that_are_taken_again_by_another_number_of_workers_count_once():
    pair = [rank("second", number, 2) for number in (0, 1)]
    again = [
        taking(0, 2, 1, at=5.0, by=pair[0]),
        taking(0, 2, 4, at=5.1, by=pair[1]),
        taking(1, 1, 2, at=6.0, by=pair[0]),
        taking(1, 1, 0, at=6.1, by=pair[1]),
        taking(1, 2, 1, at=7.0, by=pair[0]),
        taking(1, 2, 3, at=7.1, by=pair[1]),
    ]
    # The first group was killed when it had begun epoch 1, and its checkpoint was of one step.
    assert samples_account(UNDISTURBED[:3] + again, TWO_EPOCHS) == Account(expected=8)
    assert count_steps(UNDISTURBED[:3] + again) == (4, 2)


def test_a_step_that_no_rank_took_is_lost():
    assert samples_account(UNDISTURBED[:1] + UNDISTURBED[2:], TWO_EPOCHS) == Account(
        expected=8, lost=2
    )


def test_the_part_of_a_rank_that_did_not_take_its_step_is_lost():
    halves = [taking(1, 2, 1, at=9.0, by=rank("second", 0, 2))]
    assert samples_account(UNDISTURBED + halves, TWO_EPOCHS) == Account(expected=8, lost=1)


def test_a_sample_in_two_steps_of_an_epoch_is_doubled_and_the_one_it_replaces_lost():
    wrong = [*UNDISTURBED[:3], taking(1, 2, 0, 3, at=4.0)]
    assert samples_account(wrong, TWO_EPOCHS) == Account(expected=8, lost=1, doubled=1)


def test_a_step_beyond_the_end_of_an_epoch_is_doubled():
    beyond = [*UNDISTURBED, taking(1, 3, 4, at=5.0)]
    assert samples_account(beyond, TWO_EPOCHS) == Account(expected=8, doubled=1)


def test_of_an_epoch_that_is_not_complete_the_steps_of_its_checkpoint_count():
    stopped = replace(TWO_EPOCHS, epochs=1, epoch_steps=1, is_complete=False)
    assert samples_account(UNDISTURBED, stopped) == Account(expected=6)
    assert samples_account(UNDISTURBED[:2], stopped) == Account(expected=6, lost=2)


def test_metrics_that_are_in_the_journal_and_in_mlflow_once_are_neither_lost_nor_doubled():
    # Five metrics of two epochs, and the two that say which epoch was the best.
    assert metrics_account(COMPLETE, [COMPLETE], TWO_EPOCHS) == Account(expected=12)


@pytest.mark.parametrize(
    ("journal", "store", "lost", "doubled"),
    [
        pytest.param(COMPLETE[1:], [COMPLETE], 1, 0, id="the journal lacks one"),
        pytest.param(COMPLETE, [COMPLETE[1:]], 1, 0, id="MLflow lacks one"),
        pytest.param(
            COMPLETE, [[("epoch", 1, 0.7), *COMPLETE[1:]]], 1, 0, id="MLflow has another value"
        ),
        pytest.param(COMPLETE, [COMPLETE[:-1]], 1, 0, id="MLflow lacks one of the end"),
        pytest.param([*COMPLETE, COMPLETE[0]], [COMPLETE], 0, 1, id="the journal has one twice"),
        pytest.param(COMPLETE, [[*COMPLETE, ("epoch", 1, 0.7)]], 0, 1, id="MLflow has one twice"),
        pytest.param(COMPLETE, [COMPLETE, []], 0, 1, id="MLflow has two runs"),
        pytest.param(COMPLETE, [], 12, 0, id="MLflow has no run"),
        pytest.param([], [[]], 12, 0, id="nothing was recorded"),
    ],
)
def test_metrics_that_are_lost_or_doubled_are_counted(journal, store, lost, doubled):
    expected = Account(expected=12, lost=lost, doubled=doubled)
    assert metrics_account(journal, store, TWO_EPOCHS) == expected


def test_faults_depend_on_the_seed_alone():
    first, again, other = (list(islice(draws(seed), 200)) for seed in (7, 7, 8))
    assert first == again != other


def test_traces_of_ranks_are_read_while_they_are_written(tmp_path: Path):
    evidence = Evidence(tmp_path)
    with (
        StepTrace(tmp_path, "run-001", "group", 0, 2) as first,
        StepTrace(tmp_path, "run-001", "group", 1, 2) as second,
    ):
        assert evidence.read_on() == []
        assert [found.rank for found in evidence.ranks] == [0, 1]
        assert evidence.ranks[0].pid == os.getpid()
        first.stepped(0, 1, np.array([4, 1]))
        # A step is taken when its last rank has taken it.
        assert evidence.read_on() == []
        second.stepped(0, 1, np.array([2]))
        [step] = evidence.read_on()
    assert step.position == evidence.furthest == ("run-001", 0, 1)
    assert [found.positions for found in evidence.takings] == [(4, 1), (2,)]


def test_a_line_that_was_cut_off_counts_as_never_written(tmp_path: Path):
    with StepTrace(tmp_path, "run-001", "group", 0, 1) as trace:
        trace.stepped(0, 1, np.array([4]))
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b'{"epoch": 0, "st')
    evidence = Evidence(tmp_path)
    assert len(evidence.read_on()) == 1
    assert evidence.read_on() == []


def step(number: int, at: float, begun: float = 0.0) -> Taking:
    return taking(0, number, at=at, by=rank(begun=begun))


def fault(**changes) -> Fault:
    return Fault(
        **{"kind": Kind.WORKER, "time": 100.0, "before": ("run-001", 0, 5), "is_fatal": True}
        | changes
    )


def test_a_fault_costs_the_time_until_other_ranks_are_further_than_before():
    struck = fault()
    struck.notice(
        [
            step(6, 100.2),  # of ranks that were not struck yet
            step(4, 110.0, begun=108.0),  # taken again
            step(5, 111.0, begun=108.0),
            step(6, 112.5, begun=108.0),
            step(7, 113.0, begun=108.0),
        ]
    )
    assert struck.lost_s == 12.5
    assert struck.is_survived


def test_a_fault_after_which_training_comes_no_further_is_not_survived():
    struck = fault()
    struck.notice([step(6, 99.0, begun=98.0), step(5, 111.0, begun=108.0)])
    assert struck.lost_s is None
    assert not struck.is_survived


def test_an_outage_of_mlflow_is_survived_when_pending_entries_are_delivered():
    away = fault(kind=Kind.SERVER, is_fatal=False, is_settled=False)
    away.notice([step(6, 100.2)])
    assert away.lost_s == pytest.approx(0.2)
    assert not away.is_survived
    away.is_settled = True
    assert away.is_survived


def test_a_fault_after_which_the_driver_gave_up_is_not_survived():
    struck = fault(is_given_up=True)
    struck.notice([step(6, 112.0, begun=108.0)])
    assert not struck.is_survived


def test_training_stands_still_in_gaps_that_are_longer_than_usual():
    assert stalled_s([step(1, 10.0), step(2, 12.0), step(3, 30.0), step(4, 30.1)]) == 18.0


def soaked(totals: Counter[str], *faults: Fault) -> dict[str, Any]:
    """The figures of a soak, as `stage.soak` returns them."""
    return result_of(faults, totals) | {
        "seed": 3,
        "seconds": 1210.0,
        "load": [0.5, 2.25],
        "stalled_s": 65.0,
        "exits": {"killed": 1, "status 0": 2},
        "delivered_s": [2.0, 4.5, 3.0],
        "delivered_by_command": 1,
    }


def test_the_report_has_every_figure():
    totals = Counter(runs=2, epochs=9, steps=300, steps_repeated=17)
    totals.update(Account(expected=2700, lost=4, doubled=5).figures("samples"))
    survived = [fault(recovered=112.5), fault(recovered=103.5), fault(recovered=140.0)]
    text = report(soaked(totals, *survived, fault(kind=Kind.NODE)))
    lines = [line.split() for line in text.splitlines()]
    assert ["worker", "killed", "3", "3", "12.5", "40.0"] in lines
    assert ["node", "lost", "1", "0", "-", "-"] in lines
    assert ["all", "4", "3"] in lines
    assert ["samples", "lost", "4", "2,700"] in lines
    assert ["samples", "seen", "twice", "5", "2,700"] in lines
    assert ["steps", "repeated", "17", "300"] in lines
    assert "20 min 10 s, seed 3, 2 runs of 9 epochs in all" in text
    assert "drivers ended: killed (1 times), status 0 (2 times)" in text
    assert "until it was complete: median 3.0, most 4.5" in text


FINE = Counter(samples=2700, metrics=90, checkpoints=4)


@pytest.mark.parametrize(
    ("totals", "faults", "expected"),
    [
        pytest.param(FINE, [fault(recovered=112.5)], True, id="all is well"),
        pytest.param(FINE, [fault()], False, id="a fault was not survived"),
        pytest.param(FINE + Counter(samples_lost=1), [], False, id="lost"),
        pytest.param(FINE + Counter(samples_doubled=1), [], False, id="twice"),
        pytest.param(FINE + Counter(metrics_lost=1), [], False, id="no metric"),
        pytest.param(FINE + Counter(metrics_doubled=1), [], False, id="two"),
        pytest.param(FINE + Counter(checkpoints_lost=1), [], False, id="no checkpoint"),
        pytest.param(Counter(), [], False, id="nothing was trained"),
    ],
)
def test_a_soak_is_good_when_nothing_is_lost_or_doubled_and_all_survived(totals, faults, expected):
    assert is_good(soaked(totals, *faults)) is expected


def test_a_damaged_checkpoint_and_one_that_only_the_journal_has_are_lost(tmp_path: Path):
    for name in ("epoch_0001", "epoch_0002"):
        checkpoint(tmp_path / name)
    assert checkpoints_account(tmp_path) == Account(expected=2)
    Journal(tmp_path).model(tmp_path / "epoch_0003", 3)
    with (tmp_path / "epoch_0001" / "weights.safetensors").open("ab") as file:
        file.write(b"more")
    assert checkpoints_account(tmp_path) == Account(expected=3, lost=2)


@pytest.mark.parametrize("has_store", [False, True])
def test_a_soak_begins_with_one_fault_of_each_kind(has_store):
    kinds = set(Kind) if has_store else set(Kind) - set(OF_STORE)
    for seed in range(20):
        first = islice(draws(seed, has_store=has_store), len(kinds))
        assert {draw.kind for draw in first} == kinds
    later = [draw.kind for draw in islice(draws(0, has_store=has_store), 300)][len(kinds) :]
    assert set(later) == kinds
    assert later.count(Kind.WORKER) > later.count(Kind.JOIN)


def test_a_fault_of_the_store_waits_until_the_former_is_settled():
    training: Any = Ended("")
    absent: Any = None
    soak = Soak(training, absent, absent, absent, draws(0, has_store=True))
    soak.faults = [Fault(kind=Kind.STORE_FULL, time=0.0, before=("run-001", 0, 1), is_fatal=False)]
    soak.faults[0].recovered = 1.0
    for kind in Kind:
        soak._next = replace(soak._next, kind=kind)
        soak._disturbance = soak.faults[0]
        assert soak._is_due() is (kind not in OF_STORE)
        soak._disturbance = None
        assert soak._is_due()


def asked(gate: Gate, method: str) -> int:
    """Send a request through the gate; return the status of the answer."""
    client = http.client.HTTPConnection("127.0.0.1", gate.server_port, timeout=60)
    client.request(method, "/", b"content" if method == "POST" else None)
    status = client.getresponse().status
    client.close()
    return status


def answer_well(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()


class Ended:
    """Training whose drivers have ended with status 1, the latest after some output."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.driver = self

    def status(self) -> int:
        return 1

    def start_driver(self) -> None:
        pass


@pytest.mark.parametrize(
    ("usual_since", "output", "is_given_up"),
    [
        (0.0, "error: out of memory", False),
        (9.0, "error: out of memory", True),
        (9.0, "error: s3://soak/run-001: the store answers 503 Service Unavailable", False),
        (9.0, "s3://soak/run-001: the store answers 507: training continues\nerror: no", True),
    ],
)
def test_a_driver_may_end_only_by_what_is_wrong_with_the_store(usual_since, output, is_given_up):
    training: Any = Ended(output)
    absent: Any = None
    soak = Soak(training, absent, absent, absent, draws(0))
    soak._started = 0.0
    worker, store = (
        Fault(kind=kind, time=1.0, before=("run-001", 0, 1), is_fatal=False)
        for kind in (Kind.WORKER, Kind.STORE_FULL)
    )
    soak.faults = [worker, store]
    soak._disturbance, soak._usual_since = store, usual_since
    soak._restart()
    assert worker.is_given_up is is_given_up


def test_a_store_that_ends_before_it_answers_is_started_on_other_ports(tmp_path, monkeypatch):
    program, starts = tmp_path / "weed", tmp_path / "starts"
    lines = ("#!/bin/sh", f'echo "$@" >> {starts}', f"[ $(wc -l < {starts}) = 3 ] && sleep 60")
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    monkeypatch.setattr(store_module, "executable", lambda: str(program))

    def put(*_: object) -> None:
        if not starts.exists() or len(starts.read_text().splitlines()) < 3:
            raise StoreError("nobody answers")

    monkeypatch.setattr(store_module.Objects, "put", put)
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    store = Store(folder)
    try:
        store.start()
        store.wait()
        assert store.is_running
    finally:
        store.close()
    used = [
        set(re.findall(r"-(\S+\.port\S*)=([1-9]\d+)", line))
        for line in starts.read_text().splitlines()
    ]
    assert [len({port for _, port in ports}) for ports in used] == [8, 8, 8]
    assert used[0] != used[1] != used[2]
    sockets = re.findall(r"localSocket=(\S+)", starts.read_text())
    assert max(map(len, sockets)) <= 107
    assert not any(Path(path).parent.exists() for path in sockets)


def test_a_gate_passes_on_what_the_store_would_take_and_answers_the_rest():
    with answering() as server:
        server.answer = answer_well
        gate = Gate(server.server_port)
        thread = threading.Thread(target=gate.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert [asked(gate, method) for method in ("GET", "POST")] == [200, 200]
            gate.kind = Answer.FULL
            assert [asked(gate, method) for method in ("GET", "POST")] == [200, 507]
            gate.kind = Answer.REFUSED
            assert [asked(gate, method) for method in ("GET", "POST")] == [503, 503]
            assert len(server.asked) == 3
        finally:
            gate.shutdown()
            gate.server_close()
            thread.join()


def test_a_program_that_was_started_is_a_child_until_it_is_killed(tmp_path: Path):
    words = ["--bind", "127.0.0.1", str(free_port())]
    program = Program([*python("http.server"), *words], tmp_path / "log")
    [child] = children([os.getpid()]) & {program.process}
    assert program.status() is None
    program.kill()
    assert program.status() == -9
    assert child not in children([os.getpid()])


def test_a_soak_of_no_time_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["--minutes", "0"])
    assert stopped.value.code == 2
    assert "minutes must be above 0, got 0" in capsys.readouterr().err


def test_every_system_metric_must_be_in_mlflow_once():
    rows = [("system/cpu", 1, 5.0), ("system/cpu", 2, 6.0)]
    assert system_account(rows, [rows]) == Account(expected=2, lost=0, doubled=0)
    assert system_account(rows, [rows[:1]]) == Account(expected=2, lost=1, doubled=0)
    assert system_account(rows, [[*rows, ("system/cpu", 2, 6.5)]]) == Account(
        expected=2, lost=0, doubled=1
    )


# Clean-up


def test_processes_have_ended_when_the_last_has():
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not wait_for_end([process.pid], 0.2)
        process.send_signal(signal.SIGKILL)
        # It stays a zombie until its status is read.
        assert wait_for_end([process.pid], 30)


def refused(path: Path) -> None:
    raise OSError(errno.ENOTEMPTY, "Directory not empty", "session")


def test_a_folder_that_is_still_written_to_is_removed_in_the_end(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "soak"
    folder.mkdir()
    tries = [shutil.rmtree, refused, refused]
    monkeypatch.setattr(shutil, "rmtree", lambda path: tries.pop()(path))
    stage.remove_folder(folder)
    assert (folder.exists(), tries, capsys.readouterr().out) == (False, [], "")


_WRITER = """
import itertools, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]) / "session" / "logs"
for number in itertools.count():
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.log").write_text("line")
    except FileNotFoundError:
        pass  # removed in between
    if number == 100:
        print("writing", flush=True)
"""


def test_a_folder_into_which_a_process_still_writes_is_removed_after_its_end(tmp_path, capsys):
    folder = tmp_path / "soak"
    command = [sys.executable, "-c", _WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        # Its end comes while the folder is being removed.
        ending = threading.Timer(0.5, writer.kill)
        ending.start()
        wait = threading.Thread(target=stage.remove_folder, args=(folder,))
        wait.start()
        ending.join()
        writer.wait()
        wait.join()
    # What was written after the last try, but before the end, would need another one.
    stage.remove_folder(folder)
    assert (folder.exists(), capsys.readouterr().out) == (False, "")


def test_a_folder_that_stays_is_named_in_a_line_and_the_status_is_still_good(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "rmtree", refused)
    monkeypatch.setattr(stage, "_CLEAN_UP_S", 0.0)
    monkeypatch.setattr(stage, "soak", lambda *_, **__: soaked(FINE, fault(recovered=112.5)))
    main([])
    [folder] = tmp_path.iterdir()
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"could not remove {folder}: Directory not empty"
