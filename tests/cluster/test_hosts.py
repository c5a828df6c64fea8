"""Training over hosts with their own addresses, one of which is cut off and comes back.

The hosts are network namespaces of this machine.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from factories import pack_samples, samples
from hosts import Host, cut_off, hosts, start_again, why_not
from test_nodes import resumed

from pipeline.cluster.heartbeats import last_heard
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.journal import Journal

# A cluster over three hosts starts, loses one and has it back.
pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
RAY = (sys.executable, "-m", "ray.scripts.scripts")
DASHBOARD = ("--address", "http://127.0.0.1:8265")
JOB = "pose"
# A machine that is shared may take its time; what is tested is what comes, not when.
PATIENCE_S = 120.0


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """The environment of all programs on the hosts, without this process's own cluster."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A silent host is given up after a few seconds, as in jobs/cluster/README.md.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }


@pytest.fixture
def cluster(tmp_path, environment) -> Iterator[tuple[Host, Host, Host]]:
    """A head without CPUs and two workers of one, each on a host of its own."""
    if missing := why_not():
        pytest.skip(missing)
    with hosts(tmp_path, 3) as (head, one, other):
        leading = ["--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1"]
        start(head, leading, environment)
        with ThreadPoolExecutor() as both:
            list(both.map(join, (one, other), (head, head), (environment, environment)))
        yield head, one, other


def join(host: Host, head: Host, environment: Mapping[str, str]) -> None:
    start(host, [f"--address={head.address}:6379", "--num-cpus=1"], environment)


def start(host: Host, words: list[str], environment: Mapping[str, str]) -> None:
    place = ["--object-store-memory=80000000", "--node-ip-address", host.address]
    run(host, [*RAY, "start", *place, *words], environment)


def run(host: Host, words: list[str], environment: Mapping[str, str]) -> None:
    log = host.folder / "ray-start"
    with host.running(words, log, environment) as started:
        assert started.wait(PATIENCE_S) == 0, log.read_text()


def submission(folder: Path) -> list[str]:
    """The command that submits a training of two elastic workers."""
    people = samples(40)
    paths = pack_samples(folder / "train", [people[:20], people[20:]], members=True)
    shards = ",".join(map(str, paths))
    settings = {
        "data.train": shards,
        "data.val": paths[0],
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 2,
        "model.input-px": 64,
        "optim.batch-size": 4,
        "optim.epochs": 500,
        "ray.workers": "1:2",
        "ray.storage": folder,
        "ray.name": "run",
        "ray.checkpoint-steps": 5,
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    job = [*RAY, "job", "submit", *DASHBOARD, "--working-dir", str(ROOT), "--submission-id", JOB]
    return [*job, "--", sys.executable, "-m", "jobs.train", *words]


def wait_until(is_so: Callable[[], bool], what: str, job: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert job.poll() is None, f"the job ended with {job.returncode} before {what}"
        assert time.monotonic() < end, f"no {what} after {PATIENCE_S:g} s"
        time.sleep(0.1)


def test_a_submitted_run_survives_the_loss_of_a_host_and_grows_again(
    cluster, environment, tmp_path
):
    head, *workers = cluster
    folder, log = tmp_path / "run", tmp_path / "log"
    with head.running(submission(tmp_path), log, environment) as job:
        wait_until(lambda: bool(checkpoints(folder)), "checkpoint", job)
        ranks = [last_heard(folder, rank) for rank in (0, 1)]
        assert {beat.host for beat in ranks} == {host.name for host in workers}
        [lost] = [host for host in workers if host.name == ranks[0].host]
        cut_off(lost, head)
        wait_until(lambda: bool(resumed(log)), "resume after a host was cut off", job)
        start_again(lost, head)
        join(lost, head, environment)
        wait_until(lambda: len(resumed(log)) > 1, "resume with a host more", job)
        run(head, [*RAY, "job", "stop", *DASHBOARD, JOB], environment)
        job.wait(PATIENCE_S)
    assert f"rank 0 (host {lost.name}, pid {ranks[0].pid})" in log.read_text()
    [(seen, left), (later, grown)] = resumed(log)
    assert 0 < seen < later
    assert (left, grown) == (1, 2)
    entries = Journal(folder).entries()
    epochs = [entry.content["step"] for entry in entries if entry.kind == "metrics"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert entries[-1].content["status"] == "KILLED"
