"""Settings of the cluster."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.io.location import bucket_and_key, is_store
from pipeline.settings.check import (
    require,
    require_at_least,
    require_name,
)

# Environment of training processes, read when a process starts. glibc hands large blocks back to
# the kernel after each step; taking them again costs up to half of a step on CPU.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    # With an arena per thread the process would grow with every epoch's new threads.
    "MALLOC_ARENA_MAX": "1",
}


# Folder in the storage of runs with what torch.compile made.
COMPILED_NAME = "compiled"
# Names in the folders of runs and sweeps, which may be the storage of others.
_OWN_NAMES = (
    *("journal.jsonl", "system.jsonl", "delivered.json", "undeliverable.jsonl", "checkpoint.json"),
    *("owners", "heartbeats", "hangs", "figures", "overlays", "stop", "tune", "sweep.json"),
    COMPILED_NAME,
)


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """Cluster, resources and checkpoints of a run."""

    address: str = ""
    """Cluster to join; empty: RAY_ADDRESS or the submitted job's cluster, else a new local one."""
    workers: int | str = 1
    """Training workers (DDP ranks). A range such as 1:4 is elastic: it trains with 1 to 4 workers,
    as many as the cluster has room for, which share the samples of each step."""
    cpus_per_worker: float = 0.0
    """CPU cores per worker, also its number of compute threads; 0: one on CPU, with a GPU the cores
    of its node over the node's GPUs."""
    gpus_per_worker: float = 0.0
    """GPUs per worker; 0: train on CPU. A worker computes on one GPU; if it trains alone, also on a
    part of one."""
    storage: str = ""
    """Folder of runs and checkpoints, on a disk that every node sees, or a folder in a bucket:
    s3://, gs:// or az://. Empty: 'runs' in the working folder, or ~/hourglass-ray/runs in a
    submitted job."""
    scratch: str = ""
    """Folder on each machine for what is on its way to ray.storage in a bucket: a run's newest and
    best checkpoints. Empty: hourglass-ray-UID in the folder of temporary files."""
    name: str = ""
    """Name of the run. The same name resumes it; empty: made from settings and data."""
    take_over: bool = False
    """Take a run or sweep over from another process that is alive. That process ends, and writes
    nothing more."""
    on_change: Literal["refuse", "resume", "restart"] = "refuse"
    """If the run or sweep of this name had other data, or other settings that decide the outcome.
    refuse: end with a list of the differences. resume: continue with the new ones. restart: start
    over, and keep what was there under another name."""
    wait_minutes: float = 10.0
    """Minutes to wait for the cluster to have room for the workers, before and within training. The
    run prints each minute who holds it."""
    max_failures: int = 3
    """Restarts from the last checkpoint after failures in a row without progress; 0: none."""
    hang_minutes: float = 10.0
    """Minutes without progress after which a worker counts as hung. It reports its stacks and is
    restarted like a failed one. Must exceed the time of its start, any step, evaluation batch or
    checkpoint write; 0: never. The first step with optim.compile may take six times as long."""
    checkpoint_steps: int = 0
    """Steps between checkpoints within an epoch; 0: only ray.checkpoint_minutes counts. Each epoch
    ends with a checkpoint anyway."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; 0: only ray.checkpoint_steps counts."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, in addition to the best."""

    def __post_init__(self) -> None:
        elastic = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(self.workers))
        if elastic:
            fits = int(elastic[1]) < int(elastic[2])
        else:
            fits = isinstance(self.workers, int) and self.workers >= 1
        require(fits, "ray.workers", "at least 1, or a range such as 1:4", self.workers)
        limits = ("max_failures", "hang_minutes", "checkpoint_steps", "checkpoint_minutes")
        require_at_least(
            self, "ray", 0, *limits, "cpus_per_worker", "gpus_per_worker", "wait_minutes"
        )
        require_at_least(self, "ray", 1, "keep_checkpoints")
        gpus = self.gpus_per_worker
        expected = "at most 1, as a worker computes on one GPU"
        require(gpus <= 1, "ray.gpus_per_worker", expected, gpus)
        require_name("ray.name", self.name)
        if is_store(self.storage):
            bucket_and_key(self.storage)
        expected = "another name, as files of runs and sweeps have this one"
        require(self.name not in _OWN_NAMES, "ray.name", expected, self.name)

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while training."""
        return isinstance(self.workers, str)

    @property
    def fewest_workers(self) -> int:
        """Smallest number of workers that trains."""
        return int(str(self.workers).partition(":")[0])

    @property
    def most_workers(self) -> int:
        """Largest number of workers."""
        return int(str(self.workers).rpartition(":")[2])
