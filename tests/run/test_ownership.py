"""Ownership of a run's folder: the dead are replaced, and the superseded fenced off."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.run import ownership as module
from pipeline.run.journal import Journal
from pipeline.run.ownership import HeldError, Owner, SupersededError, Writer, newest_claim, own

PATIENCE_S = 60.0
HOLD = """
import sys, time
from pathlib import Path
from pipeline.run.ownership import own
with own(Path(sys.argv[1]), "run mine", take_over="take-over" in sys.argv):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the folder."""
    command = [sys.executable, "-c", HOLD, str(folder), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def claim(folder: Path, generation: int, owner: Owner, *, age_s: float = 0.0) -> Path:
    """Write a claim whose owner gave its last sign of life `age_s` seconds ago."""
    path = folder / "owners" / f"{generation:08d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(owner)))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def elsewhere() -> Owner:
    """An owner on another machine."""
    return replace(Owner.of_this_process(), host="far", machine="another boot", pid=7)


def generations(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in (folder / "owners").glob("*.json"))


def test_a_start_claims_a_number_and_gives_the_folder_back_at_its_end(tmp_path):
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 1
        found = newest_claim(tmp_path)
        assert (found.generation, found.owner) == (1, writer.owner)
    assert newest_claim(tmp_path).owner is None
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 3
    with pytest.raises(RuntimeError), own(tmp_path, "run mine"):
        raise RuntimeError
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 7


def test_a_second_start_is_refused_with_who_holds_the_run_and_the_ways_out(tmp_path):
    with holder(tmp_path) as first:
        before = sorted(path.name for path in tmp_path.rglob("*"))
        with pytest.raises(HeldError) as refused, own(tmp_path, "run mine"):
            pass
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        owner = newest_claim(tmp_path).owner
        assert owner.pid == first.pid
        text = str(refused.value)
        assert text.startswith(f"run mine is held by process {first.pid} on host {owner.host}, ")
        assert f"started {owner.since}, last sign of life " in text
        assert text.endswith(
            " s ago: wait until it ends, stop it, or give --ray.take-over true to go on in its "
            "place"
        )


def test_an_owner_that_was_killed_on_this_machine_is_replaced_at_once(tmp_path, capsys):
    with holder(tmp_path) as first:
        first.kill()
        first.wait()
        with own(tmp_path, "run mine") as writer:
            assert writer.check() == 2
    assert capsys.readouterr().out == ""


def test_a_process_number_that_was_given_again_is_not_the_owner(tmp_path):
    owner = Owner.of_this_process()
    claim(tmp_path, 1, replace(owner, ticks=owner.ticks - 1))
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 2


def test_an_owner_that_is_stopped_counts_as_alive_and_a_take_over_lets_it_end_itself(tmp_path):
    with holder(tmp_path) as first:
        first.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(HeldError, match=r"\(stopped, as by SIGSTOP\)"), own(tmp_path, "run"):
            pass
        with own(tmp_path, "run", take_over=True) as writer:
            assert first.wait(PATIENCE_S) == 1
            output, error = first.communicate()
            assert output == ""
            assert error == (
                f"error: {tmp_path.name} was taken over by {writer.owner}: nothing more is "
                "written here\n"
            )
            assert writer.check() == 2
    assert generations(tmp_path) == [1, 2, 3]


def test_an_owner_elsewhere_is_replaced_when_its_lease_is_over(tmp_path, capsys):
    claim(tmp_path, 1, elsewhere(), age_s=31)
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 2
    assert capsys.readouterr().out == ""
    claim(tmp_path, 9, elsewhere(), age_s=29)
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 10
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("run mine: waiting for at most ")
    assert "whether its last owner is alive: process 7 on host far, started " in line


def test_an_owner_elsewhere_that_gives_a_sign_of_life_is_not_replaced(tmp_path, capsys):
    path = claim(tmp_path, 1, elsewhere(), age_s=20)
    threading.Timer(0.3, os.utime, [path]).start()
    with (
        pytest.raises(HeldError, match="run mine is held by process 7 on host far"),
        own(tmp_path, "run mine"),
    ):
        pass
    assert generations(tmp_path) == [1]
    assert "waiting" in capsys.readouterr().out


def test_an_owner_elsewhere_that_ends_meanwhile_is_replaced_at_once(tmp_path):
    former = elsewhere()
    claim(tmp_path, 1, former, age_s=5)
    threading.Timer(0.3, Writer(tmp_path, former).release).start()
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 3


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_SIGN_S", 0.01)
    with own(tmp_path, "run mine"):
        path = newest_claim(tmp_path).path
        os.utime(path, (1000.0, 1000.0))
        end = time.monotonic() + PATIENCE_S
        while path.stat().st_mtime == 1000.0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_of_many_that_start_at_once_one_owns_the_run(tmp_path):
    begin, end, owners, refused = threading.Barrier(8), threading.Event(), [], []

    def start() -> None:
        begin.wait()
        try:
            with own(tmp_path, "run mine") as writer:
                owners.append(writer.check())
                end.wait(PATIENCE_S)
        except HeldError:
            refused.append(1)
            if len(refused) == 7:
                end.set()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (owners, len(refused)) == ([1], 7)


def test_workers_that_start_at_once_have_different_generations(tmp_path):
    with own(tmp_path, "run mine") as driver:
        found, begin = [], threading.Barrier(4)

        def start() -> None:
            begin.wait()
            Writer.of_worker(tmp_path, driver.owner)
            found.append(1)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert generations(tmp_path) == [1, 2, 3, 4, 5]
        assert driver.check() == 5


def test_workers_that_were_cut_off_are_fenced_off_by_the_same_drivers_next_ones(tmp_path):
    with own(tmp_path, "run mine") as driver:
        first = Writer.of_worker(tmp_path, driver.owner)
        Journal(tmp_path, writer=first).metrics({"loss": 3.0}, 1)
        second = Writer.of_worker(tmp_path, driver.owner)
        with pytest.raises(SupersededError, match="has newer workers"):
            Journal(tmp_path, writer=first).metrics({"loss": 9.0}, 2)
        Journal(tmp_path, writer=second).metrics({"loss": 2.0}, 2)
        Journal(tmp_path, writer=driver).end("FINISHED")
    with pytest.raises(SupersededError, match="was ended by its driver"):
        second.check()
    kinds = [(entry.seq, entry.kind) for entry in Journal(tmp_path).entries()]
    assert kinds == [(1, "metrics"), (2, "metrics"), (3, "end")]
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == [2, 3, 3]


def test_workers_of_a_driver_that_was_replaced_can_not_begin(tmp_path):
    former = Owner.of_this_process()
    with own(tmp_path, "run mine"), pytest.raises(SupersededError, match="was taken over by"):
        Writer.of_worker(tmp_path, former)
    assert generations(tmp_path) == [1, 2]


def test_a_disk_without_links_keeps_claims_apart_too(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with own(tmp_path, "run mine") as writer:
        assert newest_claim(tmp_path).owner == writer.owner
        assert not module._create(tmp_path, 1, writer.owner)
    assert generations(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "change", [{"pid": "1"}, {"pid": -1}, {"ticks": None}, {"host": 3}, {"a": 1}]
)
def test_a_claim_of_another_shape_counts_as_one_of_an_unknown_owner(tmp_path, change):
    path = claim(tmp_path, 1, elsewhere(), age_s=40)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    owner = newest_claim(tmp_path).owner
    assert (owner.host, owner.pid) == ("unknown", 0)


@pytest.mark.parametrize("content", ['{"token": "a', "[" * 10**5])
def test_a_claim_that_is_cut_off_counts_as_one_of_an_unknown_owner(tmp_path, content):
    path = claim(tmp_path, 1, elsewhere(), age_s=40)
    path.write_text(content)
    os.utime(path, (1000.0, 1000.0))
    with own(tmp_path, "run mine") as writer:
        assert writer.check() == 2


def test_a_folder_that_was_removed_has_no_owner(tmp_path):
    assert newest_claim(tmp_path / "none") is None
    assert Writer(tmp_path / "none", elsewhere()).check() == 0


def test_a_line_of_a_writer_that_was_stopped_before_its_write_does_not_count(tmp_path):
    def line(seq: int, generation: int | None, value: float, step: int = 1) -> str:
        own = {} if generation is None else {"generation": generation}
        content = {"kind": "metrics", "step": step, "values": {"loss": value}}
        return json.dumps({"seq": seq, "time_ms": seq} | own | content) + "\n"

    path = tmp_path / "journal.jsonl"
    path.write_text(line(1, None, 1.0) + line(2, 4, 2.0, 2) + line(3, 3, 9.0, 3))
    journal = Journal(tmp_path)
    assert journal.history(["loss"]) == {"loss": [(1, 1.0), (2, 2.0)]}
    # The next number is the one that the line of the former owner had.
    journal.metrics({"loss": 3.0}, 3)
    assert Journal(tmp_path).history(["loss"]) == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}
    # Both wrote a fourth line at once.
    with path.open("a") as file:
        file.write(line(4, 4, 9.0, 4) + line(4, 5, 4.0, 5))
    assert [entry.seq for entry in journal.entries()] == [1, 2, 3, 4]
    assert journal.history(["loss"])["loss"][-1] == (5, 4.0)
    assert not journal.has_metrics(4)
