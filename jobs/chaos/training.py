"""The soak's training: one tiny run after another, each by `jobs.train`."""

from pathlib import Path
from typing import Any

from jobs.chaos.programs import Program
from jobs.pack import pack_here
from pipeline.io.installation import module
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
    """Runs one after another, each with the next seed and one command until it is complete."""

    def __init__(self, folder: Path, data: Path, address: str, uri: str, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._settings = _SETTINGS | {
            "data.train": f"{data}/train-*.tar",
            "data.val": f"{data}/val-*.tar",
            "ray.address": address,
            "ray.storage": str(folder / "runs"),
            "tracking.uri": uri,
        }
        self.runs: list[str] = []
        self._program: Program | None = None
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

    def folder_of(self, run: str) -> Path:
        return self._folder / "runs" / run

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
        self._program = Program(module("jobs.train"), words, self.log, {"OMP_NUM_THREADS": "1"})

    def deliver(self, *folders: Path) -> Program:
        """Start `jobs.deliver`, as a run advises that ends before MLflow has everything."""
        self._deliveries.append(Program(module("jobs.deliver"), list(map(str, folders)), self.log))
        return self._deliveries[-1]

    def kill(self) -> None:
        """Kill the driver and the deliveries that still run."""
        for program in [*self._deliveries, self._program]:
            if program is not None and program.status() is None:
                program.kill()
