"""Training over several nodes, one of which is lost: raylets on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import pack_samples, samples
from hosts import why_not

from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.journal import Journal

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).resolve().parents[2]
# A machine that is shared may take its time; what is tested is what comes, not when.
PATIENCE_S = 240.0


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster of a head without CPUs and two nodes of one CPU."""
    if not why_not():
        pytest.skip("tests/cluster/test_hosts.py tests the same, and more, on hosts of their own")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80 << 20)


def command(address: str, folder: Path, paths: list[Path]) -> list[str]:
    shards = ",".join(map(str, paths))
    settings = {
        "data.train": shards,
        "data.val": shards,
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 2,
        "model.input-px": 64,
        "optim.batch-size": 3,
        "optim.epochs": 200,
        "ray.address": address,
        "ray.workers": "1:2",
        "ray.storage": folder,
        "ray.name": "run",
        "ray.checkpoint-steps": 5,
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "jobs.train", *words]


def wait_until(is_so: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.poll() is None, f"training ended with {process.returncode} before {what}"
        assert time.monotonic() < end, f"no {what} after {PATIENCE_S:g} s"
        time.sleep(0.2)


def resumed(log: Path) -> list[tuple[int, int]]:
    """(samples, workers) at every resume."""
    found = re.findall(r"resuming from \S+, after ([\d,]+) samples, with (\d) w", log.read_text())
    return [(int(samples.replace(",", "")), int(workers)) for samples, workers in found]


def test_a_run_resumes_with_the_remaining_workers_and_grows_again(nodes, tmp_path):
    people = samples(40)
    paths = pack_samples(tmp_path / "train", [people[:20], people[20:]], members=True)
    kept, lost = add_node(nodes), add_node(nodes)
    nodes.wait_for_nodes()
    run, log = tmp_path / "run", tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        training = subprocess.Popen(
            command(nodes.address, tmp_path, paths), stdout=out, stderr=out, env=environment
        )
    try:
        wait_until(lambda: bool(checkpoints(run)), "checkpoint", training)
        nodes.remove_node(lost, allow_graceful=False)
        wait_until(lambda: bool(resumed(log)), "resume after a node was lost", training)
        reached = len(checkpoints(run)) and resumed(log)[0]
        assert reached[1] == 1
        add_node(nodes)
        wait_until(lambda: len(resumed(log)) > 1, "resume with a node more", training)
        grown = resumed(log)[1]
        assert grown[1] == 2
        assert grown[0] > reached[0]
        training.send_signal(signal.SIGINT)
        assert training.wait(PATIENCE_S) == 130
    finally:
        if training.poll() is None:
            training.kill()
            training.wait()
    entries = Journal(run).entries()
    epochs = [entry.content["step"] for entry in entries if entry.kind == "metrics"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert entries[-1].content["status"] == "KILLED"
    assert kept is not None
