"""Training and a sweep as jobs of a real Slurm cluster: signalled, preempted, requeued."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import slurm_cluster
from factories import pack_samples, samples
from safetensors.numpy import load_file
from slurm_cluster import Slurm, wait_until
from trainers import train_alone

from pipeline.cluster.launch import task_of
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.plan import plan_training
from pipeline.settings import Settings

# Ray starts seven times.
pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
REQUEUES = 5
# Steps enough for as many interruptions.
EPOCHS, LAST = 4, "epoch_0004"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], str]) -> Path:
    """The folder that the nodes share, with packed people and a database for each run."""
    place = tmp_path_factory.mktemp("slurm")
    people = samples(240)
    pack_samples(place / "data", [people[:120], people[120:]], members=True)
    pack_samples(place / "val", [people[:2]], split="val", members=True)
    for name in ("run", "sweep"):
        new_database(place / f"{name}.db")
    return place


@pytest.fixture(scope="module")
def slurm(place: Path) -> Iterator[Slurm]:
    """A Slurm cluster of two nodes with four CPUs each."""
    with slurm_cluster.slurm(place) as started:
        yield started


def settings(place: Path, name: str, **changes: object) -> dict[str, object]:
    """The settings of a training of a tiny network in float32."""
    chosen = {
        "data.train": f"{place}/data/train-*.tar",
        "data.val": f"{place}/val/val-*.tar",
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 2,
        "model.input_px": 64,
        "optim.batch_size": 2,
        "optim.epochs": EPOCHS,
        "optim.precision": "fp32",
        "ray.checkpoint_steps": 5,
        "ray.name": name,
        "ray.storage": f"{place}/runs",
        "tracking.uri": f"sqlite:///{place}/{name}.db",
    }
    return chosen | changes


def submitted(slurm: Slurm, name: str, words: list[str], chosen: dict[str, object]) -> str:
    """Submit a command as the product does; return the job."""
    options = [word for key, value in chosen.items() for word in (f"--{key}", str(value))]
    command = ["env", f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1", sys.executable, "-m"]
    command += ["jobs.submit", "--to", "slurm", "--detach", "--sbatch", f"chdir={slurm.folder}"]
    command += [f"output={slurm.folder / name}.out", "cpus-per-task=2", "--", *words]
    return slurm.run(*command, *(option.replace("_", "-") for option in options)).split()[1]


def newest(folder: Path) -> str:
    """Return the name of the newest checkpoint, which grows as a run trains."""
    return max((path.name for path in checkpoints(folder)), default="")


def test_a_run_that_is_requeued_five_times_ends_with_the_weights_of_an_uninterrupted_one(
    slurm, place
):
    chosen, run, output = settings(place, "run"), place / "runs/run", slurm.folder / "run.out"
    job = submitted(slurm, "run", ["train"], chosen)
    for count in range(1, REQUEUES + 1):
        before = newest(run)
        wait_until(lambda before=before: newest(run) > before, "training", output)
        if count == 1:
            # A job of higher priority that needs all of the node.
            node = slurm.state(job)["NodeList"]
            wanted = ["--partition=high", f"--nodelist={node}", "--nodes=1", "--ntasks=4"]
            slurm.run("sbatch", *wanted, "--output=/dev/null", "--wrap", "true")
        else:
            slurm.run("scancel", "--batch", "--signal=USR1", job)
        wait_until(
            lambda count=count: slurm.state(job)["Restarts"] == f"{count}", "requeue", output
        )
        assert newest(run) < LAST, "it ended before it was interrupted"
    wait_until(lambda: slurm.state(job)["JobState"] == "COMPLETED", "end", output)
    # Each start has resumed.
    assert output.read_text().count("resuming from") == REQUEUES
    plan = plan_training(Settings().replaced(settings(place, "whole")))
    train_alone(replace(task_of(plan), folder=str(plan.folder)), plan.folder)
    ours, theirs = (load_file(path / LAST / "weights.safetensors") for path in (run, plan.folder))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key].tobytes() != theirs[key].tobytes()] == []


def test_a_sweep_trains_its_trials(slurm, place):
    chosen = settings(place, "sweep", **{"optim.epochs": 1, "optim.batch_size": 20})
    words = ["sweep", "--space", "stacks", "--stacks", "1", "2", "--search.at-once", "2"]
    job, output = submitted(slurm, "sweep", words, chosen), slurm.folder / "sweep.out"
    wait_until(lambda: slurm.state(job)["JobState"] == "COMPLETED", "end", output)
    for name in ("stacks-1", "stacks-2"):
        assert (place / "runs/sweep" / name / "epoch_0001").exists()
