"""The benchmarks of Ray's overhead and of starts: figures, rounds, and the stages of a start."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from factories import pack_samples, samples
from trainers import task_of

from jobs import train
from jobs.benchmark.overhead.first_step import (
    STAGES,
    StartBenchmark,
    breakdown,
    first_step,
    start_once,
    start_report,
)
from jobs.benchmark.overhead.overhead import (
    OverheadBenchmark,
    check_alike,
    cores_beside,
    cpu_ms,
    overhead,
    ray_report,
    samples_per_s,
)
from jobs.benchmark.overhead.storage import storage_report
from jobs.benchmark.rounds.data import PEOPLE_PER_SHARD
from jobs.benchmark.rounds.processes import RoundFiles, stopped, wait_until
from jobs.benchmark.rounds.trainer import RoundTrainer, conditions
from jobs.benchmark.timing import spread
from pipeline.io.processes import descendants
from pipeline.training.probes import STARTUP_FILE, note_startup, startup_times

CPU = torch.device("cpu")
MACHINE = {"device": "a CPU", "threads": 1, "cores": 2, "load_average": 0.5, "torch": "2.13"}
# A start in which every stage takes twice as long as the one before.
REACHED = dict(zip(STAGES, (101.0, 103.0, 107.0, 115.0, 131.0, 163.0), strict=True))


# Overhead


def test_the_overhead_is_the_median_of_the_rounds_own():
    found = overhead(
        {"plain": [110.0, 99.0, 240.0], "ray": [100.0, 100.0, 200.0]},
        {"plain": [4.0, 5.0, 10.0], "ray": [5.0, 5.0, 11.0]},
    )
    assert found["rounds"] == pytest.approx([10.0, -1.0, 20.0])
    assert found["overhead_percent"] == pytest.approx(10.0)
    assert (found["min"], found["max"]) == pytest.approx((-1.0, 20.0))
    assert found["samples_per_s"]["plain"]["median"] == 110.0
    assert found["samples_per_s"]["ray"]["median"] == 100.0
    assert found["cpu_overhead_percent"] == pytest.approx(10.0)
    assert found["cpu_ms"]["ray"] == {
        "median": 5.0,
        "min": 5.0,
        "max": 11.0,
        "rounds": [5.0, 5.0, 11.0],
    }


def test_the_first_five_steps_of_a_round_do_not_count():
    # Ten seconds a step, then one.
    times = [10.0, 20.0, 30.0, 40.0, 50.0, 51.0, 52.0, 53.0]
    assert samples_per_s({"ends": times}, 4) == 4.0
    assert cpu_ms({"cpu_s": times}, 4) == 250.0


def test_other_processes_are_counted_in_cores():
    assert cores_beside({"others_cpu_s": 0.5, "seconds": 4.0}, 4) == 0.125


def test_variants_under_other_conditions_are_not_compared():
    variant = {"ends": [1.0, 2.0], "conditions": {"threads": 1}}
    check_alike({"plain": variant, "ray": variant | {"ends": [7.0, 9.0]}})
    for other in (variant | {"conditions": {"threads": 2}}, variant | {"ends": [1.0]}):
        with pytest.raises(RuntimeError, match="train under other conditions"):
            check_alike({"plain": variant, "ray": other})


def test_a_trainer_waits_for_its_round_and_measures_every_step(tmp_path):
    [train] = pack_samples(tmp_path / "train", [samples(7)])
    [val] = pack_samples(tmp_path / "val", [samples(1, first=9)], split="val")
    task = task_of([train], [val])
    files = RoundFiles(tmp_path)
    trainer = RoundTrainer(files, task, 0, 1, CPU)
    files.go(0).touch()
    [last] = trainer.train_epoch(5.0)
    assert (last.step, trainer.state.progress.epochs) == (3, 1)
    assert json.loads(files.ready(0).read_text()) == {"pid": os.getpid()}
    measured = json.loads(files.done(0).read_text())
    assert len(measured["ends"]) == len(measured["cpu_s"]) == 3
    assert measured["ends"] == sorted(measured["ends"])
    assert measured["conditions"] == conditions()


def test_a_process_that_does_not_answer_is_an_error():
    with pytest.raises(TimeoutError, match=r"did not answer for 0\.02 s"):
        wait_until(lambda: False, 0.02)


def test_a_process_and_its_descendants_stand_still_meanwhile():
    child = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", child]) as process:
        try:
            wait_until(lambda: len(descendants(process.pid)) == 1, 30)
            family = [process.pid, *descendants(process.pid)]
            with stopped(family):
                wait_until(lambda: {_state(pid) for pid in family} == {"T"}, 30)
            wait_until(lambda: "T" not in {_state(pid) for pid in family}, 30)
        finally:
            for pid in (*descendants(process.pid), process.pid):
                os.kill(pid, 9)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# First step


def test_stages_are_noted_where_a_file_is_named_and_the_first_time_counts(tmp_path, monkeypatch):
    path = tmp_path / "stages"
    monkeypatch.delenv("HOURGLASS_STARTUP", raising=False)
    note_startup("planned")
    monkeypatch.setenv("HOURGLASS_STARTUP", str(path))
    before = time.time()
    note_startup("stepped")
    between = time.time()
    note_startup("stepped")
    assert list(startup_times(path)) == ["stepped"]
    assert before <= startup_times(path)["stepped"] <= between


def test_a_stage_takes_the_time_since_the_one_before():
    assert list(breakdown(100.0, REACHED).values()) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


@pytest.mark.parametrize("changes", [{"worker": 99.0}, {"worker": float("nan")}])
def test_a_stage_that_is_missing_or_out_of_order_is_an_error(changes):
    with pytest.raises(RuntimeError, match="expected the stages called, planned, cluster"):
        breakdown(100.0, REACHED | changes)
    with pytest.raises(RuntimeError, match="expected the stages called, planned, cluster"):
        breakdown(100.0, {key: at for key, at in REACHED.items() if key not in changes})


def test_the_whole_and_each_stage_have_medians_of_their_own():
    rounds = [breakdown(start, REACHED) for start in (100.0, 99.0, 95.0)]
    rounds[0] |= {"planned": 12.0}
    found = first_step(rounds)
    assert found["rounds"] == [73.0, 64.0, 68.0]
    assert found["first_step_s"] == 68.0
    assert found["stages"]["called"] == 2.0
    assert found["stages"]["planned"] == 2.0


def test_a_start_is_one_step_of_the_command_on_one_shard(tmp_path, monkeypatch):
    asked = []

    def run(words, **options):
        """Reach every stage, as tests/cluster/test_readme.py sees the command do."""
        asked.append((words, options["cwd"]))
        monkeypatch.setenv(STARTUP_FILE, options["env"][STARTUP_FILE])
        for stage in STAGES:
            note_startup(stage)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr("jobs.benchmark.overhead.first_step.subprocess.run", run)
    assert min(start_once(tmp_path / "data", "start-3").values()) > 0
    [(words, folder)] = asked
    assert (words[:3], folder) == ([sys.executable, "-m", "jobs.train"], tmp_path)
    settings = train.parse(train.Arguments, None, words[3:]).settings
    assert settings.data.train == f"{tmp_path}/data/train-000000.tar"
    assert settings.optim.batch_size <= PEOPLE_PER_SHARD < 2 * settings.optim.batch_size
    assert (settings.optim.epochs, settings.ray.name) == (1, "start-3")
    assert settings.ray.storage == f"{tmp_path}/runs"
    place = {"ray.storage": "s3://b/runs", "ray.scratch": "/scratch", "ray.address": "head:6379"}
    start_once(tmp_path / "data", "bucket-3", place)
    ray = train.parse(train.Arguments, None, asked[-1][0][3:]).settings.ray
    assert (ray.storage, ray.scratch, ray.name) == ("s3://b/runs", "/scratch", "bucket-3")
    assert ray.address == "head:6379"


def test_a_start_that_fails_is_an_error_with_what_the_command_said(tmp_path, monkeypatch):
    def run(words, **_):
        return subprocess.CompletedProcess(words, 2, stderr="error: no shards match")

    monkeypatch.setattr("jobs.benchmark.overhead.first_step.subprocess.run", run)
    with pytest.raises(RuntimeError, match=r"^jobs\.train ended with status 2: error: no shards"):
        start_once(tmp_path / "data", "start-0")


def test_runs_in_a_bucket_are_compared_with_those_in_a_folder():
    steady = {
        name: {place: spread([value]) for place, value in found.items()}
        for name, found in (
            ("cpu_ms", {"folder": 8.0, "bucket": 8.1}),
            ("samples_per_s", {"folder": 100.0, "bucket": 99.0}),
        )
    }
    text = storage_report(
        {
            "cpu_overhead_percent": 1.25,
            "first_step_later_s": 0.5,
            "steady": steady,
            "first_step": {"folder": {"first_step_s": 18.0}, "bucket": {"first_step_s": 18.5}},
            "machine": MACHINE,
        }
    )
    lines = [line.split() for line in text.splitlines()]
    assert ["CPU", "ms", "a", "sample", "8.00", "8.10"] in lines
    assert ["s", "to", "the", "first", "step", "18.00", "18.50"] in lines
    assert lines[-1] == ["cpu_overhead_percent", "1.25", "first_step_later_s", "0.50"]


# The whole


def test_the_report_of_overhead_has_all_measurements():
    steady = overhead({"plain": [103.0], "ray": [100.0]}, {"plain": [8.0], "ray": [10.0]})
    text = ray_report(
        {
            "overhead_percent": steady["overhead_percent"],
            "overhead": steady | {"cores_beside": {"ray": {"median": 0.125}}},
            "machine": MACHINE,
        }
    )
    assert text.endswith("overhead_percent 3.00")
    rows = [line.split() for line in text.splitlines()]
    assert ["plain,", "samples/s", "103.00", "103.00", "103.00"] in rows
    assert ["overhead", "in", "CPU", "time,", "%", "25.00"] in rows


def test_the_report_of_starts_has_all_measurements():
    alone, warm = first_step([breakdown(100.0, REACHED)]), first_step([breakdown(100.5, REACHED)])
    text = start_report(
        {
            "first_step_s": alone["first_step_s"],
            "first_step_warm_s": warm["first_step_s"],
            "floor_s": 5.25,
            "alone": alone | {"with_new_database": breakdown(99.0, REACHED)},
            "warm": warm,
            "machine": MACHINE,
        }
    )
    assert text.endswith("first_step_s 63.00   first_step_warm_s 62.50")
    rows = [line.split() for line in text.splitlines()]
    assert ["first", "step", "32.00", "32.00", "32.00"] in rows
    assert ["all", "63.00", "64.00", "62.50"] in rows
    assert "a worker that loads torch 5.25 s" in text


def test_no_round_is_refused():
    for benchmark in (OverheadBenchmark, StartBenchmark):
        with pytest.raises(ValueError, match="--rounds must be at least 1, got 0"):
            benchmark(rounds=0)
