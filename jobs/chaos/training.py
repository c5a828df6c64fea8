"""The soak's training: one tiny run after another, each by `jobs.train`."""

import shutil
from pathlib import Path
from typing import Any

from jobs.chaos.programs import Program, python
from jobs.pack import pack_here
from pipeline.io.installation import module
from pipeline.io.location import is_store
from pipeline.run.storage import default_scratch, fetch_run, local_storage
from pipeline.settings import RaySettings
from pipeline.settings.packing import SYNTHETIC_NAME, CropSettings, PackSettings

EXPERIMENT = "chaos"
# Status of a run that SIGTERM stopped in order, and of a process that it ended.
STOPPED, TERMINATED = 143, -15
# Two workers take two and three of the five samples of a step.
BATCH = 5
EPOCHS = 8
_SETTINGS: dict[str, Any] = {
    "model.stacks": 1,
    "model.features": 8,
    "model.order": 2,
    "model.input_px": 64,
    "optim.optimizer": "adamw",
    "optim.learning_rate": 0.01,
    "optim.batch_size": BATCH,
    "optim.epochs": EPOCHS,
    "optim.target_peak": 10.0,
    "ray.workers": "1:2",
    "ray.checkpoint_steps": 25,
    # Evaluation should be short, so that most faults hit steps.
    "evaluation.overlays": 1,
    "tracking.experiment": EXPERIMENT,
    # Runs must start while the server is down.
    "tracking.required": "false",
}


def pack(folder: Path) -> int:
    """Render and pack people; return how many are in the training shards."""
    settings = PackSettings(
        source=SYNTHETIC_NAME,
        out=folder,
        scenes=900,
        val_images=20,
        people_per_shard=64,
        crop=CropSettings(person_px=96),
    )
    return int(pack_here(settings).splits()["train"]["people"])


class Training:
    """Runs one after another, each with the next seed and one command until it is complete.

    They lie at `storage`, a folder or one in a bucket, of which the driver's copies are in
    `folder`.
    """

    def __init__(
        self, folder: Path, data: Path, address: str, uri: str, seed: int, storage: str = ""
    ) -> None:
        self._folder, self._seed = folder, seed
        self._storage = storage or str(folder / "runs")
        self._settings = _SETTINGS | {
            "data.train": f"{data}/train-*.tar",
            "data.val": f"{data}/val-*.tar",
            "ray.address": address,
            "ray.storage": self._storage,
            "tracking.uri": uri,
        }
        self.runs: list[str] = []
        self._program: Program | None = None
        self._log_start = 0
        self._deliveries: list[Program] = []

    @property
    def driver(self) -> Program:
        assert self._program is not None
        return self._program

    @property
    def folder(self) -> Path:
        return self.folder_of(self.runs[-1])

    @property
    def log(self) -> Path:
        """File with the output of all drivers."""
        return self._folder / "drivers.log"

    @property
    def location(self) -> str:
        """Where the latest run lies."""
        return f"{self._storage}/{self.runs[-1]}"

    @property
    def output(self) -> str:
        """Output of the latest driver."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def folder_of(self, run: str) -> Path:
        return local_storage(self._storage, str(self._scratch)) / run

    def lose_disk(self) -> None:
        """Remove the driver's copy of the latest run, as if its machine were lost."""
        if is_store(self._storage):
            shutil.rmtree(self.folder, ignore_errors=True)

    def fetch(self) -> None:
        """Bring all runs of a bucket to the driver's disk."""
        for run in self.runs:
            fetch_run(RaySettings(storage=self._storage, scratch=str(self._scratch), name=run))

    @property
    def _scratch(self) -> Path:
        """The driver's default of ray.scratch."""
        return default_scratch(self._folder)

    def begin(self) -> None:
        # Names sort in the order of training.
        self.runs.append(f"run-{len(self.runs) + 1:03d}")
        self.start_driver()

    def start_driver(self) -> None:
        """Start the latest run's command, the first time or again."""
        seed = self._seed + len(self.runs)
        changes = {"ray.name": self.runs[-1], "data.seed": seed, "optim.seed": seed}
        chosen = self._settings | changes
        words = [word for key, value in chosen.items() for word in (f"--{key}", str(value))]
        command = [*python(module("jobs.train")), *words]
        # Each machine has a folder of temporary files, and by default its scratch folder there.
        environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(self._folder)}
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._program = Program(command, self.log, environment)

    def deliver(self, *folders: Path) -> Program:
        """Start `jobs.deliver`, as a run advises that ends before MLflow has everything."""
        command = [*python(module("jobs.deliver")), *map(str, folders)]
        self._deliveries.append(Program(command, self.log))
        return self._deliveries[-1]

    def kill(self) -> None:
        """Kill the driver and the deliveries that still run."""
        for program in [*self._deliveries, self._program]:
            if program is not None and program.status() is None:
                program.kill()
