"""Checkpoints: weights and their moving average in safetensors, a JSON that a person can read, and the optimizer's state."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.joints import JointSet, joint_set
from pipeline.network.hourglass import StackedHourglass
from pipeline.schedule import Plateau
from pipeline.settings import Settings
from pipeline.training import channels_last

WEIGHTS_NAME = "weights.safetensors"
AVERAGE_NAME = "ema.safetensors"
OPTIMIZER_NAME = "optimizer.pt"
RECORD_NAME = "checkpoint.json"
# Where the optimizer's state holds that of the loss's scale.
_SCALER = "scaler"
# Weights of a checkpoint: as trained, or their moving average; auto: the average where there is one.
Weights = Literal["auto", "raw", "ema"]
_FORMAT = 2
# Of format 1 a checkpoint named its joint set, one of those known by name.
_NAMED_FORMAT = 1
# What decides which samples the steps of an epoch see.
_ORDER = ("data.seed", "data.shuffle_window", "optim.batch_size")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training has come: completed epochs, steps and samples over all workers.

    `epoch_steps` are the steps of the epoch under way. With `epochs` they are
    the position in the stream of samples, from which it goes on.
    """

    epochs: int = 0
    epoch_steps: int = 0
    steps: int = 0
    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Record:
    """The JSON of a checkpoint. `metrics` are those of the epoch it was written after.

    `origin` says where weights that were not trained here come from.
    """

    settings: Settings
    joint_set: JointSet
    progress: Progress
    metrics: dict[str, float]
    plateau: Plateau = field(default_factory=Plateau)
    origin: dict[str, str] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    record: Record,
    *,
    average: nn.Module | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write a checkpoint into an existing folder; without an optimizer it serves prediction alone.

    With it the moving `average` of the network, if there is one, and the state of a `scaler` that is in use.
    """
    _save_weights(folder / WEIGHTS_NAME, network)
    if average is not None:
        _save_weights(folder / AVERAGE_NAME, average)
    if optimizer is not None:
        state = optimizer.state_dict()
        if scaler is not None and scaler.is_enabled():
            state[_SCALER] = scaler.state_dict()
        torch.save(state, folder / OPTIMIZER_NAME)
    content = {
        "format": _FORMAT,
        "joint_set": record.joint_set.to_json(),
        "progress": asdict(record.progress),
        "plateau": asdict(record.plateau),
        "metrics": record.metrics,
        "settings": record.settings.shown(),
        "versions": {"torch": torch.__version__},
    }
    if record.origin:
        content["origin"] = record.origin
    (folder / RECORD_NAME).write_text(json.dumps(content, indent=1) + "\n")


def _save_weights(path: Path, network: nn.Module) -> None:
    weights = {
        # safetensors stores plain layouts; channels_last would be refused.
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_file(weights, path)


def read_record(folder: Path) -> Record:
    """Read a checkpoint's JSON. Raises ValueError naming the file and what is wrong."""
    path = folder / RECORD_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: not a checkpoint folder (no {RECORD_NAME})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from error
    form = content.get("format") if isinstance(content, dict) else None
    if form not in (_FORMAT, _NAMED_FORMAT):
        raise ValueError(
            f"{path}: expected a checkpoint of format {_NAMED_FORMAT} or {_FORMAT}, got {form!r}"
        )
    try:
        stored = content["joint_set"]
        return Record(
            settings=Settings.from_flat(content["settings"]),
            joint_set=(joint_set(stored) if form == _NAMED_FORMAT else JointSet.from_json(stored)),
            progress=Progress(**content["progress"]),
            metrics=content["metrics"],
            plateau=Plateau(**content.get("plateau", {})),
            origin=content.get("origin", {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_same_architecture(folder: Path, record: Record, settings: Settings) -> None:
    """Raise ValueError if the checkpoint's network is not the one that `settings` describe."""
    model = [key for key in settings.flat() if key.startswith("model.")]
    _check_same(f"{folder}: a checkpoint of another architecture", record, settings, model)


def check_same_order(folder: Path, record: Record, settings: Settings) -> None:
    """Raise ValueError if `settings` order an epoch's samples otherwise than the checkpoint's did."""
    _check_same(
        f"{folder}: a checkpoint within an epoch of another order", record, settings, _ORDER
    )


def _check_same(what: str, record: Record, settings: Settings, keys: Sequence[str]) -> None:
    theirs, ours = record.settings.flat(), settings.flat()
    for key in keys:
        if theirs[key] != ours[key]:
            raise ValueError(f"{what}: {key} is {theirs[key]} there, expected {ours[key]}")


def check_same_joints(folder: Path, record: Record, joints: JointSet) -> None:
    """Raise ValueError if the checkpoint was trained on other joints than those of the data, `joints`."""
    difference = record.joint_set.difference(joints)
    if difference:
        raise ValueError(
            f"{folder}: checkpoint and data have different joint sets: {difference}; expected the same"
        )


def find_weights(folder: Path, weights: Weights) -> Literal["raw", "ema"]:
    """Which weights of a checkpoint are meant. Raises ValueError if it has no average and that is."""
    has_average = (folder / AVERAGE_NAME).exists()
    if weights == "ema" and not has_average:
        raise ValueError(f"{folder}: no {AVERAGE_NAME}: it was trained with optim.ema_samples=0")
    if weights == "auto":
        return "ema" if has_average else "raw"
    return weights


def load_weights(folder: Path, network: nn.Module, weights: Weights = "raw") -> None:
    """Load a checkpoint's weights. Raises ValueError naming the file if they don't fit."""
    is_average = find_weights(folder, weights) == "ema"
    path = folder / (AVERAGE_NAME if is_average else WEIGHTS_NAME)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: weights can't be loaded: {error}") from error


def load_optimizer(
    folder: Path, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> None:
    """Load a checkpoint's optimizer state, and that of a `scaler` in use; tensors only, no pickled code.

    A scaler that the checkpoint knows nothing of starts anew.
    Raises ValueError naming the file if it is damaged, holds anything else, or is another optimizer's.
    """
    path = folder / OPTIMIZER_NAME
    if not path.exists():
        raise ValueError(f"{folder}: has no {OPTIMIZER_NAME}, so training can't go on from it")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        _fit_groups(state["param_groups"], optimizer.param_groups)
        stored = state.pop(_SCALER, None)
        optimizer.load_state_dict(state)
        if scaler is not None and stored is not None:
            scaler.load_state_dict(stored)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, UnpicklingError) as error:
        raise ValueError(f"{path}: optimizer state can't be loaded: {error}") from error


def _fit_groups(stored: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    """Make stored parameter groups run as this device does. Raises ValueError if there are more or fewer."""
    if len(stored) != len(ours):
        raise ValueError(
            f"it has {len(stored)} parameter groups, expected {len(ours)}: optim.weight_decay was "
            "another, or meant norms and biases too; train anew under another ray.name"
        )
    for group, own in zip(stored, ours, strict=True):
        if "fused" in own:
            # The checkpoint may come from another kind of device.
            group["fused"] = own["fused"]


def load_network(
    folder: Path, device: torch.device, weights: Weights = "auto"
) -> tuple[StackedHourglass, Record]:
    """Rebuild a checkpoint's network for prediction. Raises ValueError naming the file."""
    record = read_record(folder)
    network = channels_last(StackedHourglass(record.settings.model))
    load_weights(folder, network, weights)
    return network.to(device).eval(), record
