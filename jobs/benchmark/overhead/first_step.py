"""Time from the command to the first training step, by stage."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray

from jobs.benchmark.rounds.data import PEOPLE_PER_SHARD, pack_rendered, settings_for
from jobs.benchmark.timing import check_counts, environment, machine, machine_line, spread
from pipeline.cluster.start import cluster
from pipeline.io.console import aligned, say
from pipeline.io.installation import module, python_path
from pipeline.settings.config_file import option_words
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


# The least that a start with Ray can take: a cluster, and a worker that loads torch.
_FLOOR = """
import time
import ray
ray.init(address="local", include_dashboard=False, logging_level="ERROR")
@ray.remote
def load():
    import torch
ray.get(load.remote())
print(time.time())
"""


@dataclass(frozen=True, kw_only=True)
class StartBenchmark:
    """Setting: the number of starts of each kind."""

    rounds: int = 10

    def __post_init__(self) -> None:
        check_counts({"--rounds": self.rounds})


def measure_start(settings: StartBenchmark, folder: Path) -> dict[str, Any]:
    """Measure starts on a cluster of their own and on a running one, with `folder` for files.

    Raises RuntimeError if training fails.
    """
    data = folder / "data"
    pack_rendered(data, PEOPLE_PER_SHARD)
    say("1/3 Ray alone, with a worker that loads torch")
    floor = spread([_floor_once(folder) for _ in range(settings.rounds)])
    say("2/3 from the command to the first step")
    alone = measure_first_step(data, settings.rounds)
    say("3/3 the same on a cluster that runs already")
    # Its workers have its environment, not that of the command.
    with environment({STARTUP_FILE: str(_marks(data))}), cluster("local", is_shared=True):
        place = {"ray.address": ray.get_runtime_context().gcs_address}
        warm = measure_first_step(data, settings.rounds, place, name="warm")
    return {
        "first_step_s": alone["first_step_s"],
        "first_step_warm_s": warm["first_step_s"],
        "floor_s": floor["median"],
        "alone": alone,
        "warm": warm,
        "floor": floor,
        "machine": machine("torch", "ray"),
        "settings": asdict(settings),
    }


def _floor_once(folder: Path) -> float:
    start = time.time()
    return float(_output("Ray", ["-c", _FLOOR], folder).split()[-1]) - start


def measure_first_step(
    data: Path, rounds: int, place: Mapping[str, str] = {}, *, name: str = "start"
) -> dict[str, Any]:
    """Run the command `rounds` + 1 times on one shard of the packed folder `data`.

    `place` are settings that state where the runs train and lie; by default on a cluster of their
    own, and beside the data. `name` begins the runs' names. The first run, which creates MLflow's
    database, is not part of the medians. Raises RuntimeError if the command fails.
    """
    found = []
    for number in range(rounds + 1):
        found.append(start_once(data, f"{name}-{number}", place))
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


def start_once(data: Path, name: str, place: Mapping[str, str] = {}) -> dict[str, float]:
    """Train one step with the command `jobs.train`; return the seconds of every stage."""
    # One shard is one step.
    changes = {"optim.epochs": 1, "ray.name": name} | dict(place)
    words = option_words(settings_for(data, "train-000000.tar", changes), ())
    marks = _marks(data)
    marks.unlink(missing_ok=True)
    start = time.time()
    added = {STARTUP_FILE: str(marks), "PYTHONPATH": python_path()}
    _output("jobs.train", ["-m", module("jobs.train"), *words], data.parent, added)
    return breakdown(start, startup_times(marks))


def _output(what: str, words: Sequence[str], folder: Path, added: Mapping[str, str] = {}) -> str:
    """Return what Python printed. Raises RuntimeError with its error if it fails."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | dict(added),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{what} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _marks(data: Path) -> Path:
    return data.parent / "stages"


def start_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured as a table."""
    rows = [["from command to first step", "s", "with a new database", "on a running cluster"]]
    alone, warm = result["alone"], result["warm"]
    for stage, name in STAGES.items():
        found = (alone["stages"], alone["with_new_database"], warm["stages"])
        rows.append([name, *(f"{stages[stage]:.2f}" for stages in found)])
    all_of = (alone["first_step_s"], sum(alone["with_new_database"].values()), warm["first_step_s"])
    rows.append(["all", *(f"{seconds:.2f}" for seconds in all_of)])
    ranges = (f"{held['min']:.2f} to {held['max']:.2f} s" for held in (alone, warm))
    head = machine_line(result["machine"])
    return (
        f"{head}\n\n{aligned(rows)}\nmedians of {len(alone['rounds'])} starts, of "
        f"{', on a running cluster of '.join(ranges)}\nthe least: Ray with a worker that loads "
        f"torch {result['floor_s']:.2f} s\n\nfirst_step_s {result['first_step_s']:.2f}   "
        f"first_step_warm_s {result['first_step_warm_s']:.2f}"
    )
