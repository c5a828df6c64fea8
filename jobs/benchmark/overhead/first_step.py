"""Time from the command to the first training step, by stage."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs.benchmark.rounds.data import settings_for
from jobs.benchmark.timing import spread
from pipeline.io.console import say
from pipeline.io.installation import module, python_path
from pipeline.settings import Settings
from pipeline.training.probes import STARTUP_FILE, startup_times

# Stages that jobs.train marks, in order, and what each has done by then.
STAGES = {
    "called": "interpreter, settings",
    "planned": "planning",
    "cluster": "cluster start; beside it MLflow's run, sample picture",
    "worker": "trainer start: controller, worker, process group",
    "trainer": "network and data",
    "stepped": "first step",
}


def measure_first_step(data: Path, rounds: int, place: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run the command `rounds` + 1 times on one shard of the packed folder `data`.

    `place` are settings that state where runs lie, which otherwise is beside the data. The first
    run, which creates MLflow's database, is not part of the medians.
    Raises RuntimeError if the command fails.
    """
    found = []
    for number in range(rounds + 1):
        found.append(start_once(data, number, place))
        say(f"  start {number} of {rounds}: first step after {sum(found[-1].values()):.1f} s")
    return first_step(found[1:]) | {"with_new_database": found[0]}


def first_step(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return medians and spread from the seconds of every stage in every round."""
    whole = spread([sum(stages.values()) for stages in rounds])
    by_stage = {stage: statistics.median(stages[stage] for stages in rounds) for stage in STAGES}
    return {"first_step_s": whole.pop("median")} | whole | {"stages": by_stage}


def breakdown(start: float, reached: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of every stage from the time at which each was reached.

    Raises RuntimeError if one was not reached, or not in order.
    """
    times = [start, *(reached.get(stage, float("nan")) for stage in STAGES)]
    seconds = [after - before for before, after in pairwise(times)]
    if not all(passed >= 0 for passed in seconds):
        raise RuntimeError(f"expected the stages {', '.join(STAGES)} in order, got {reached}")
    return dict(zip(STAGES, seconds, strict=True))


def start_once(data: Path, number: int, place: Mapping[str, str] = {}) -> dict[str, float]:
    """Train one step with the command `jobs.train`; return the seconds of every stage."""
    # One shard is one step.
    name = f"start-{number}" + ("-bucket" if "ray.scratch" in place else "")
    changes = {"optim.epochs": 1, "ray.name": name} | dict(place)
    settings = settings_for(data, "train-000000.tar", changes)
    defaults = Settings().flat()
    given = {key: value for key, value in settings.flat().items() if value != defaults[key]}
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    marks = data.parent / f"stages-{name}"
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-m", module("jobs.train"), *words],
        cwd=data.parent,
        env=os.environ | {STARTUP_FILE: str(marks), "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"jobs.train ended with status {done.returncode}: {done.stderr[-2000:]}")
    return breakdown(start, startup_times(marks))
