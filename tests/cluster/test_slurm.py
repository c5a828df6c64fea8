"""The batch script of Slurm on a real Slurm cluster, with a stand-in for Python."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import Slurm, wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[2] / "jobs/cluster/slurm.sbatch"
# In Python's place: it starts no Ray, and its command runs until SIGTERM, or until a file is there.
STAND_IN = """#!/bin/bash
for word in "$@"; do
    case $word in --temp-dir=*) echo 10.77.0.1:1 >"${word#*=}/ray_current_cluster" ;; esac
done
case "$*" in
*--head*) ;;
*--address=*) echo "node $SLURMD_NODENAME with $SLURM_CPUS_ON_NODE CPUs" >>PLACE/nodes ;;
*hourglass_ray*)
    echo "start ${SLURM_RESTART_COUNT:-0} of $3 on $RAY_ADDRESS"
    trap 'echo checkpoint; exit 143' TERM
    until [ -e PLACE/wrong ] || [ -e PLACE/done ]; do sleep 0.1; done
    if [ -e PLACE/wrong ]; then exit 2; fi
    exit 0
    ;;
*) exec python3 "$@" ;;
esac
trap 'exit 143' TERM
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm cluster of two nodes with four CPUs each."""
    with slurm_cluster.slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def started(slurm: Slurm, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """Start a job whose Python is the stand-in; return the job and its output."""
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN.replace("PLACE", str(tmp_path)))
    stand_in.chmod(0o755)

    def start(*options: str) -> tuple[str, Path]:
        output = tmp_path / "output"
        output.unlink(missing_ok=True)
        words = ["env", f"PYTHON={stand_in}", "sbatch", "--parsable", f"--chdir={tmp_path}"]
        words += [f"--output={output}", *options, str(SCRIPT), "train"]
        job = slurm.run(*words)
        wait_until(lambda: said(output) == ["start 0 of train on 10.77.0.1:1"], "start", output)
        return job, output

    return start


def said(output: Path) -> list[str]:
    """Return what the command of a job has printed, without Slurm's own lines."""
    lines = output.read_text().splitlines() if output.exists() else []
    return [line for line in lines if line.startswith(("start", "checkpoint", "job", "error"))]


def test_a_command_that_is_signalled_or_preempted_keeps_a_checkpoint_and_is_requeued(
    slurm, started
):
    job, output = started("--nodes=2")
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    first = ["start 0 of train on 10.77.0.1:1", "checkpoint"]
    first += [
        f"job {job} is requeued: the same command resumes the run",
        "start 1 of train on 10.77.0.1:1",
    ]
    wait_until(lambda: said(output) == first, "second start", output)
    # A job of higher priority that needs both nodes.
    wanted = ["--partition=high", "--nodes=2", "--ntasks-per-node=4", "--output=/dev/null"]
    slurm.run("sbatch", *wanted, "--wrap", "true")
    again = [first[0].replace("0", "2", 1)]
    wait_until(lambda: said(output) == first + first[1:3] + again, "third start", output)
    (output.parent / "done").touch()
    wait_until(lambda: slurm.state(job)["JobState"] == "COMPLETED", "end", output)
    assert len((output.parent / "nodes").read_text().splitlines()) == 3


def test_a_command_that_is_stopped_or_fails_is_not_requeued(slurm, started):
    job, output = started()
    slurm.run("scancel", "--batch", "--signal=INT", job)
    wait_until(lambda: slurm.state(job)["JobState"] == "FAILED", "stop", output)
    assert slurm.state(job)["ExitCode"] == "143:0"
    assert said(output) == ["start 0 of train on 10.77.0.1:1", "checkpoint"]
    job, output = started()
    (output.parent / "wrong").touch()
    wait_until(lambda: slurm.state(job)["JobState"] == "FAILED", "failure", output)
    assert slurm.state(job)["ExitCode"] == "2:0"
    assert said(output) == ["start 0 of train on 10.77.0.1:1"]


def test_tasks_of_an_array_lend_their_nodes_and_come_back(slurm, started):
    job, output = started("--array=0-1", "--cpus-per-task=3")
    nodes = output.parent / "nodes"

    def lent() -> int:
        return len(nodes.read_text().splitlines()) if nodes.exists() else 0

    wait_until(lambda: lent() == 1, "node", output)
    [token] = output.parent.glob(".hourglass-*")
    assert token.name == f".hourglass-{job}"
    assert token.stat().st_mode & 0o077 == 0
    for count, task in ((2, "0"), (3, "1")):
        slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_{task}")
        wait_until(lambda count=count: lent() == count, "node after a requeue", output)
    (output.parent / "done").touch()
    for task in ("0", "1"):
        wait_until(
            lambda task=task: slurm.state(f"{job}_{task}")["JobState"] == "COMPLETED", "end", output
        )
    assert not token.exists()
