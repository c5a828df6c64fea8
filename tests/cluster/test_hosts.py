"""Training over hosts that share a bucket and nothing else; one is cut off and comes back.

The hosts are network namespaces of this machine, each with a scratch folder of its own.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
from factories import pack_samples, photograph, samples
from hosts import Host, cut_off, hosts, start_again, why_not
from test_nodes import resumed

from jobs.chaos.store import executable
from pipeline.cluster.heartbeats import last_heard
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.journal import Journal

# A cluster over three hosts starts, loses one and has it back.
pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
RAY = (sys.executable, "-m", "ray.scripts.scripts")
DASHBOARD = ("--address", "http://127.0.0.1:8265")
JOB = "pose"
STORAGE = "s3://pose/runs"
# Uploads the files of a folder, once the store answers.
UPLOAD = """
import sys, time
from pathlib import Path
from pipeline.io.objects import Objects, StoreError
for path in sorted(Path(sys.argv[1]).iterdir()):
    while True:
        try:
            Objects("s3://pose/data").put(path.name, path.read_bytes())
        except StoreError:
            time.sleep(0.5)
        else:
            break
"""
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
        "PYTHONPATH": str(ROOT),
        # Of each host alone, with the scratch folder in it.
        "TMPDIR": "/tmp/ray",
        "AWS_ENDPOINT_URL": "http://10.77.0.1:8333",
        "AWS_ACCESS_KEY_ID": "made",
        "AWS_SECRET_ACCESS_KEY": "made",
        "AWS_REGION": "us-east-1",
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
    try:
        executable()
    except ValueError as error:
        pytest.skip(str(error))
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


@contextmanager
def store(host: Host, environment: Mapping[str, str]) -> Iterator[None]:
    """Run SeaweedFS on a host."""
    options = {
        "dir": "/tmp/ray",
        "ip": host.address,
        "ip.bind": host.address,
        "filer.localSocket": "/tmp/ray/filer.sock",
        "s3": "true",
        "s3.localSocket": "/tmp/ray/s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "iam": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
    }
    words = [executable(), "server", *(f"-{name}={value}" for name, value in options.items())]
    with host.running(words, host.folder / "store", environment):
        yield


def copy_of(host: Host) -> Path:
    """The folder of the run in a host's scratch folder."""
    return host.folder / f"ray/hourglass-ray-{os.getuid()}/s3/pose/runs/run"


def run(host: Host, words: list[str], environment: Mapping[str, str]) -> None:
    log = host.folder / "log"
    with host.running(words, log, environment) as started:
        assert started.wait(PATIENCE_S) == 0, log.read_text()


def submission() -> list[str]:
    """The command that submits a training of two elastic workers."""
    settings = {
        "data.train": "s3://pose/data/train-*.tar",
        "data.val": "s3://pose/data/train-000000.tar",
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 2,
        "model.input-px": 64,
        "optim.batch-size": 4,
        "optim.epochs": 500,
        "ray.workers": "1:2",
        "ray.storage": STORAGE,
        "ray.name": "run",
        "ray.checkpoint-steps": 5,
        "tracking.uri": "sqlite:////tmp/ray/mlflow.db",
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
    cluster, environment, tmp_path, new_database
):
    head, *workers = cluster
    people, log = samples(40), tmp_path / "log"
    pack_samples(tmp_path / "data", [people[:20], people[20:]], members=True)
    new_database(head.folder / "ray/mlflow.db")
    with store(head, environment):
        run(head, [sys.executable, "-c", UPLOAD, str(tmp_path / "data")], environment)
        with head.running(submission(), log, environment) as job:
            wait_until(lambda: bool(checkpoints(copy_of(head))), "checkpoint", job)
            # The host of the rank that writes to the run.
            [lost] = [host for host in workers if last_heard(copy_of(host), 0) is not None]
            [other] = [host for host in workers if host is not lost]
            cut_off(lost, head)
            wait_until(lambda: bool(resumed(log)), "resume after a host was cut off", job)
            start_again(lost, head)
            join(lost, head, environment)
            wait_until(lambda: len(resumed(log)) > 1, "resume with a host more", job)
            run(head, [*RAY, "job", "stop", *DASHBOARD, JOB], environment)
            job.wait(PATIENCE_S)
        [(seen, left), (later, grown)] = resumed(log)
        assert 0 < seen < later
        assert (left, grown) == (1, 2)
        entries = Journal(copy_of(head)).entries()
        epochs = [entry.content["step"] for entry in entries if entry.kind == "metrics"]
        assert epochs == list(range(1, len(epochs) + 1))
        assert entries[-1].content["status"] == "KILLED"
        # A host that has the weights from the bucket alone.
        shutil.rmtree(copy_of(other))
        (tmp_path / "in").mkdir()
        cv2.imwrite(str(tmp_path / "in/0.jpg"), photograph())
        words = [sys.executable, "-m", "jobs.predict", f"{STORAGE}/run", str(tmp_path / "in")]
        run(other, [*words, "--out", "s3://pose/found"], environment)
        assert "written: s3://pose/found/predictions.json" in (other.folder / "log").read_text()
