"""Settings of the cluster."""

import re
from dataclasses import dataclass

from pipeline.settings.check import require

# Environment of training processes. glibc hands large blocks back to the kernel after
# each step; taking them again costs up to half of a step on CPU. Read when a process starts.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    # Memory of its own for each of an epoch's threads would let the process grow with epochs.
    "MALLOC_ARENA_MAX": "1",
}


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """The cluster, and what of it a run takes."""

    address: str = ""
    """Cluster to join; empty: RAY_ADDRESS or the submitted job's cluster, else one is started here."""
    workers: int | str = 1
    """Training workers (DDP ranks); 1:4 is elastic: from 1 to 4, as many as there is room for, fewer when nodes go and more when they come, each step's samples shared among them."""
    cpus_per_worker: float = 1.0
    """CPU cores that a worker takes; also its compute threads."""
    gpus_per_worker: float = 0.0
    """GPUs that a worker takes; 0: train on CPU."""
    storage: str = ""
    """Folder of runs and checkpoints, on a disk that every node sees; empty: 'runs' in the working folder, in a submitted job ~/hourglass-ray/runs."""
    name: str = ""
    """Name of the run, by which it is resumed; empty: made from the settings."""
    max_failures: int = 3
    """Times that training is started again from the last checkpoint when a worker fails."""
    hang_minutes: float = 10.0
    """Minutes without progress after which a worker is taken for hung, named with its stacks, and started again like one that fails; must be longer than its start, any step, evaluation batch or wait for a checkpoint to be written; 0: never."""
    checkpoint_steps: int = 0
    """Steps between the checkpoints within an epoch, so many are lost at most; 0: by ray.checkpoint_minutes alone. One is written at each epoch's end besides."""
    checkpoint_minutes: float = 10.0
    """Minutes between the checkpoints within an epoch; 0: none by the clock."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, besides the best."""

    def __post_init__(self) -> None:
        elastic = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(self.workers))
        require(
            int(elastic[1]) < int(elastic[2])
            if elastic
            else isinstance(self.workers, int) and self.workers >= 1,
            "ray.workers",
            "at least 1, or a range such as 1:4",
            self.workers,
        )
        for name, least in (
            ("max_failures", 0),
            ("hang_minutes", 0),
            ("checkpoint_steps", 0),
            ("checkpoint_minutes", 0),
            ("keep_checkpoints", 1),
        ):
            value = getattr(self, name)
            require(value >= least, f"ray.{name}", f"at least {least}", value)
        require(
            self.cpus_per_worker > 0,
            "ray.cpus_per_worker",
            "above 0",
            self.cpus_per_worker,
        )
        require(
            self.gpus_per_worker >= 0,
            "ray.gpus_per_worker",
            "at least 0",
            self.gpus_per_worker,
        )
        require(
            re.fullmatch(r"[\w.-]*", self.name) is not None,
            "ray.name",
            "made of letters, digits, '.', '_' and '-'",
            self.name,
        )

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while training."""
        return isinstance(self.workers, str)

    @property
    def fewest_workers(self) -> int:
        """Workers without which there is no training."""
        return int(str(self.workers).partition(":")[0])

    @property
    def most_workers(self) -> int:
        """Workers that there are at most."""
        return int(str(self.workers).rpartition(":")[2])
