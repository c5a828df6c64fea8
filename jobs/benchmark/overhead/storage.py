"""Cost of runs in a bucket: the same steps as in a folder, and the time to the first one."""

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from jobs.benchmark.overhead.first_step import measure_first_step
from jobs.benchmark.overhead.overhead import (
    OverheadBenchmark,
    cpu_ms,
    percents,
    samples_per_s,
)
from jobs.benchmark.rounds.data import pack_rendered, settings_for
from jobs.benchmark.rounds.processes import RoundFiles, VariantProcess, run_rounds
from jobs.benchmark.rounds.trainer import RoundTrainer
from jobs.benchmark.timing import environment, machine, machine_line, spread
from jobs.chaos.store import BUCKET, Store
from pipeline.cluster.launch import task_of
from pipeline.io.console import aligned, say
from pipeline.run.plan import plan_training
from pipeline.run.storage import hold, working
from pipeline.settings import Settings
from pipeline.settings.ray import KEEP_MEMORY
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train

# Starts of each kind; the rounds are of the training loop.
_STARTS = 5


def measure_storage(settings: OverheadBenchmark, folder: Path) -> dict[str, Any]:
    """Measure steady state and start with runs in a folder and in a bucket of a server here.

    Raises RuntimeError if training fails.
    """
    say("1/3 render and pack people, and start SeaweedFS")
    data = folder / "data"
    pack_rendered(data, settings.steps * settings.batch_size)
    store = Store(folder)
    places = {
        "folder": {"ray.storage": str(folder / "runs")},
        "bucket": {
            "ray.storage": f"s3://{BUCKET}/runs",
            "ray.scratch": str(folder / "scratch"),
        },
    }
    try:
        with environment(store.environment):
            store.start()
            store.wait()
            say("2/3 the same training loop with runs in a folder and in a bucket")
            steady = _measure_steady(data, settings, places)
            say("3/3 from the command to the first step")
            starts = {
                name: measure_first_step(data, _STARTS, place, name=name)
                for name, place in places.items()
            }
    finally:
        store.close()
    later = starts["bucket"]["first_step_s"] - starts["folder"]["first_step_s"]
    return {
        "cpu_overhead_percent": steady.pop("cpu_overhead_percent"),
        "first_step_later_s": later,
        "steady": steady,
        "first_step": starts,
        "machine": machine("torch", "ray"),
        "settings": asdict(settings),
    }


def _measure_steady(
    data: Path, settings: OverheadBenchmark, places: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    changes = {
        "optim.epochs": settings.rounds + 1,
        "optim.batch_size": settings.batch_size,
        "ray.name": "rounds",
    }
    with environment({"OMP_NUM_THREADS": "1"}), ExitStack() as ending:
        variants = {
            name: ending.enter_context(
                VariantProcess(
                    *(name, train_in_storage),
                    settings_for(data, "train-*.tar", changes | dict(place)).flat(),
                    data.parent / f"rounds-{name}",
                    inherits=KEEP_MEMORY,
                )
            )
            for name, place in places.items()
        }
        _, *measured = run_rounds(variants, settings.rounds)
    speeds, costs = (
        {
            name: [figure(of_round[name], settings.batch_size) for of_round in measured]
            for name in places
        }
        for figure in (samples_per_s, cpu_ms)
    )
    return {
        "cpu_overhead_percent": statistics.median(percents(costs["bucket"], costs["folder"])),
        "samples_per_s": {name: spread(found) for name, found in speeds.items()},
        "cpu_ms": {name: spread(found) for name, found in costs.items()},
    }


def train_in_storage(settings: dict[str, Any], folder: Path) -> None:
    """Train in rounds as a worker does, as the run's owner, without Ray and MLflow."""
    plan = plan_training(Settings.from_flat(settings))
    ray = plan.settings.ray
    with hold(plan.folder, f"run {ray.name}") as driver:
        if driver.turns is not None:
            driver.turns.hand_over()
        with working(ray, plan.folder, driver.owner) as writer:
            task = task_of(plan, owner=driver.owner)
            trainer = RoundTrainer(RoundFiles(folder), task, 0, 1, torch.device("cpu"))
            with Checkpointer(trainer, plan.folder, writer=writer) as checkpointer:
                train(trainer, checkpointer, LoopHooks())


def storage_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured as a table."""
    rows = [["", "runs in a folder", "in a bucket"]]
    for key, unit in (("cpu_ms", "CPU ms a sample"), ("samples_per_s", "samples/s")):
        found = result["steady"][key]
        rows.append([unit, *(f"{found[name]['median']:,.2f}" for name in ("folder", "bucket"))])
    starts = [result["first_step"][name]["first_step_s"] for name in ("folder", "bucket")]
    rows.append(["s to the first step", *(f"{seconds:.2f}" for seconds in starts)])
    head = machine_line(result["machine"])
    return (
        f"{head}\n\n{aligned(rows)}\nmedians; each variant trains while the "
        "other is stopped; CPU time is that of the process that trains and uploads\n\n"
        f"cpu_overhead_percent {result['cpu_overhead_percent']:.2f}   "
        f"first_step_later_s {result['first_step_later_s']:.2f}"
    )
