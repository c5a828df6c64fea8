"""A Slurm cluster: its controller and two nodes of four CPUs, each a host of its own."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import hosts
import pytest

# Every program of Slurm's that is used, and the daemon that knows who sends a message.
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "srun", "munged")
# A machine that is shared may take its time; what is tested is what comes, not when.
PATIENCE_S = 600.0
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={first.name}({first.address})
SlurmUser=root
AuthType=auth/munge
# A requeued job waits as long as credentials hold, two minutes by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Nodes may have several jobs, as many as they have CPUs.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=20
ReturnToService=2
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=100 PreemptMode=REQUEUE State=UP
PartitionName=high Nodes=ALL PriorityTier=9 PreemptMode=OFF State=UP
"""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A cluster whose commands run on its first node, in the folder that all nodes share."""

    nodes: list[hosts.Host]
    folder: Path
    environment: Mapping[str, str]

    def run(self, *words: str) -> str:
        """Return the output of a command, which must succeed."""
        log = self.folder / "command.log"
        with self.nodes[0].running(words, log, self.environment) as program:
            assert program.wait(PATIENCE_S) == 0, f"{words}: {log.read_text()}"
        return log.read_text().strip()

    def state(self, job: str) -> dict[str, str]:
        """Return what Slurm knows of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(word.partition("=")[::2] for word in shown.split())


def wait_until(is_so: Callable[[], bool], what: str, output: Path) -> None:
    """Wait until a condition holds; otherwise fail, and show a job's output."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        shown = output.read_text() if output.exists() else "no output"
        assert time.monotonic() < end, f"no {what} after {PATIENCE_S:g} s: {shown}"
        time.sleep(0.3)


def _why_not() -> str:
    """Return why there can be no such cluster on this machine; empty if there can."""
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            return f"no {program!r}: Debian has it in slurmctld, slurmd, slurm-client or munge"
    return hosts.why_not() or ("" if os.geteuid() == 0 else "slurmd needs root")


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Run a cluster whose files are in a folder. Its jobs inherit this environment, without Ray's.

    Each node has files of its own in /tmp/ray. Skips the test where there can be no such cluster.
    """
    if missing := _why_not():
        pytest.skip(missing)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with ExitStack() as stack:
        nodes = stack.enter_context(hosts.hosts(folder, 2))
        for name in ("state", "munge"):
            (folder / name).mkdir(mode=0o700)
        shown = [
            f"NodeName={node.name} NodeAddr={node.address} CPUs=4 RealMemory=1000 State=UNKNOWN"
            for node in nodes
        ]
        configuration = folder / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(first=nodes[0], folder=folder, nodes="\n".join(shown))
        )
        # A host's /sys has no control groups.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        stack.enter_context(_munged(folder / "munge"))
        environment = inherited | {"TMPDIR": "/tmp/ray", "SLURM_CONF": str(configuration)}
        made = Slurm(nodes=nodes, folder=folder, environment=environment)
        daemons: list[tuple[hosts.Host, Sequence[str]]] = [(nodes[0], ["slurmctld", "-D"])]
        daemons += [(node, ["slurmd", "-D", "-N", node.name]) for node in nodes]
        started = [
            stack.enter_context(node.running(words, folder / f"{words[0]}.out", environment))
            for node, words in daemons
        ]
        _wait_until_idle(made, started)
        yield made


@contextmanager
def _munged(folder: Path) -> Iterator[None]:
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {name: str(folder / name) for name in ("socket", "pid", "log", "seed")}
    command = ["munged", "--foreground", "--force", f"--key-file={key}"]
    command += [f"--socket={files['socket']}", f"--pid-file={files['pid']}"]
    command += [f"--log-file={files['log']}", f"--seed-file={files['seed']}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as munged:
        try:
            yield
        finally:
            munged.terminate()


def _wait_until_idle(made: Slurm, daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + PATIENCE_S
    count = "sinfo --noheader --Node --states=idle --format=%N || true"
    while len(set(made.run("sh", "-c", count).split())) != len(made.nodes):
        logs = "\n".join(log.read_text() for log in made.folder.glob("slurm*.*"))
        assert not any(daemon.poll() for daemon in daemons), logs
        assert time.monotonic() < end, logs
        time.sleep(0.5)
