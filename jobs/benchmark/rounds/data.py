"""Data and settings of training in rounds: rendered people, and a network for two cores."""

from pathlib import Path
from typing import Any

from jobs.pack import pack_here
from pipeline.settings import Settings
from pipeline.settings.packing import SYNTHETIC_NAME, CropSettings, PackSettings

# As large as the quickstart's.
_NETWORK = {
    "model.stacks": 1,
    "model.features": 64,
    "model.input_px": 128,
    "optim.optimizer": "adamw",
    "optim.target_peak": 10.0,
    "optim.batch_size": 24,
}
# More than a batch and less than two: an epoch over one shard is one step.
PEOPLE_PER_SHARD = 40


def pack_rendered(folder: Path, people: int) -> None:
    """Render and pack at least `people` for training, and a few for validation, into `folder`."""
    held_out = 8
    pack_here(
        PackSettings(
            source=SYNTHETIC_NAME,
            out=folder,
            # A scene shows one person or two.
            scenes=people + held_out,
            val_images=held_out,
            people_per_shard=PEOPLE_PER_SHARD,
            crop=CropSettings(person_px=160, margin=1.5),
        )
    )


def settings_for(folder: Path, shards: str, changes: dict[str, Any]) -> Settings:
    """Return settings to train on shards of `folder`, with runs beside it and `changes`."""
    return Settings.from_flat(
        _NETWORK
        | {
            "data.train": str(folder / shards),
            "data.val": str(folder / "val-*.tar"),
            "ray.address": "local",
            "ray.storage": str(folder.parent / "runs"),
            "tracking.uri": f"sqlite:///{folder.parent / 'mlflow.db'}",
        }
        | changes
    )
