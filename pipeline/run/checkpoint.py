"""Checkpoints on disk: weights and their average (safetensors), training state, and metadata."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.io.own import file_sha256
from pipeline.io.text import briefly
from pipeline.model.build import build_network
from pipeline.model.network import PoseNetwork
from pipeline.model.tensors import load_tensors
from pipeline.run.metadata import (
    METADATA_NAME,
    CheckpointMetadata,
    read_checksums,
    read_metadata,
    write_metadata,
)

WEIGHTS_NAME = "weights.safetensors"
AVERAGE_NAME = "ema.safetensors"
OPTIMIZER_NAME = "optimizer.pt"
# Weights of a checkpoint: as trained or their moving average. auto: the average if there is one.
Weights = Literal["auto", "raw", "ema"]
# What torch's optimizers keep of each parameter.
_STATE = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "RMSprop": {"step", "square_avg"}}
# Beside the optimizer's state, optimizer.pt holds the loss scaler's, the states of torch's random
# generators, and a row of values of each rank.
_SCALER, _RANDOM, _RANKS = "scaler", "random", "ranks"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The content of a checkpoint, copied to CPU memory, so that training can continue meanwhile.

    `training` is what resuming needs, None for prediction alone. `extras` are more files by name.
    """

    metadata: CheckpointMetadata
    weights: dict[str, Tensor]
    average: dict[str, Tensor] | None = None
    training: Mapping[str, Any] | None = None
    extras: Mapping[str, bytes] = field(default_factory=dict)


def take_snapshot(
    network: nn.Module,
    metadata: CheckpointMetadata,
    *,
    average: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
    ranks: Tensor | None = None,
) -> Snapshot:
    """Copy a network, its moving average, and what resuming needs: optimizer, scaler and `ranks`.

    `ranks` (rank, value) holds what differs between ranks. Without an optimizer the checkpoint
    serves prediction alone.
    """
    training = None
    if optimizer is not None:
        training = _copied(optimizer.state_dict()) | {_RANDOM: _random_states()}
        if scaler is not None and scaler.is_enabled():
            training[_SCALER] = scaler.state_dict()
        if ranks is not None:
            training[_RANKS] = ranks
    return Snapshot(
        metadata=metadata,
        weights=_copied(network.state_dict()),
        average=None if average is None else _copied(average.state_dict()),
        training=training,
    )


def _copied(state: Any) -> Any:
    """Copy a nested state to the CPU, keeping the memory layout of its tensors."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state


def _random_states() -> dict[str, Tensor]:
    # Training draws nothing from torch's generators today; later additions might.
    states = {"cpu": torch.get_rng_state()}
    # Not where a GPU is merely there: to ask it would open a context on it, also for a run on CPU.
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def write_checkpoint(folder: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint into an existing folder and sync it to disk. Raises OSError."""
    _save_weights(folder / WEIGHTS_NAME, snapshot.weights)
    names = [WEIGHTS_NAME, *snapshot.extras]
    if snapshot.average is not None:
        _save_weights(folder / AVERAGE_NAME, snapshot.average)
        names.append(AVERAGE_NAME)
    if snapshot.training is not None:
        _save_training(folder / OPTIMIZER_NAME, snapshot.training)
        names.append(OPTIMIZER_NAME)
    for name, content in snapshot.extras.items():
        (folder / name).write_bytes(content)
    write_metadata(folder, snapshot.metadata, {name: file_sha256(folder / name) for name in names})
    for name in (*names, METADATA_NAME):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def _save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    # safetensors stores plain layouts only and refuses channels_last.
    laid_out = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    try:
        save_file(laid_out, path)
    except SafetensorError as error:
        # safetensors wraps the system's errors.
        raise OSError(f"{path}: can't be written: {error}") from error


def _save_training(path: Path, state: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch raises RuntimeError for a short write.
            raise OSError(f"{path}: can't be written: {error}") from error


def check_sound(folder: Path) -> CheckpointMetadata:
    """Verify a checkpoint's files and return its metadata. Raises ValueError naming the file."""
    metadata = read_metadata(folder)
    for name in read_checksums(folder):
        check_file(folder, name)
    return metadata


def check_file(folder: Path, name: str) -> None:
    """Raise ValueError if a file of the checkpoint is missing or modified; ignore other files."""
    path, expected = folder / name, read_checksums(folder).get(name)
    if expected is None:
        return
    if Path(name).name != name or not path.is_file():
        raise ValueError(f"{path}: missing, though the checkpoint was written with it")
    if file_sha256(path) != expected:
        raise ValueError(f"{path}: checksum mismatch: the file was modified after it was written")


def find_weights(folder: Path, weights: Weights) -> Literal["raw", "ema"]:
    """Resolve `weights`. Raises ValueError if "ema" is requested and the checkpoint has none."""
    has_average = (folder / AVERAGE_NAME).exists()
    if weights == "ema" and not has_average:
        raise ValueError(f"{folder}: no {AVERAGE_NAME}: it was trained with optim.ema_samples=0")
    if weights == "auto":
        return "ema" if has_average else "raw"
    return weights


def weights_name(folder: Path, weights: Weights) -> str:
    """Return the name of the file that holds the weights. Raises as `find_weights`."""
    return AVERAGE_NAME if find_weights(folder, weights) == "ema" else WEIGHTS_NAME


def load_weights(folder: Path, network: nn.Module, weights: Weights = "raw") -> None:
    """Load a checkpoint's weights. Raises ValueError naming the file if they don't fit."""
    with reading_weights(folder / weights_name(folder, weights)) as stored:
        network.load_state_dict(stored)


@contextmanager
def reading_weights(path: Path) -> Iterator[dict[str, Tensor]]:
    """Yield a file's tensors by name. Raises ValueError naming it if they can't be read or used."""
    try:
        yield load_file(path)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: weights can't be loaded: {briefly(error)}") from error


def load_training(
    folder: Path, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> Tensor | None:
    """Load what resuming needs beside the weights; return the `ranks` of `take_snapshot`, if any.

    Loads tensors only, no pickled code. A scaler without a stored state starts afresh. Raises
    ValueError naming the file if it is damaged, holds anything else, or fits another optimizer.
    """
    path = folder / OPTIMIZER_NAME
    if not path.exists():
        raise ValueError(f"{folder}: has no {OPTIMIZER_NAME}, so training can't resume from it")
    try:
        state = load_tensors(path)
        _fit_groups(state["param_groups"], optimizer.param_groups)
        _check_state(state, optimizer)
        stored, random = state.pop(_SCALER, None), state.pop(_RANDOM)
        ranks: Tensor | None = state.pop(_RANKS, None)
        if ranks is not None and (ranks.ndim != 2 or not ranks.is_floating_point()):
            raise ValueError(f"{_RANKS} must be a table of numbers, got shape {tuple(ranks.shape)}")
        optimizer.load_state_dict(state)
        if scaler is not None and stored is not None:
            scaler.load_state_dict(stored)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(random["cuda"])
    except Exception as error:  # torch's loaders raise errors of any kind for a damaged file
        raise ValueError(f"{path}: optimizer state can't be loaded: {briefly(error)}") from error
    return ranks


def _fit_groups(stored: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Fit stored parameter groups to this device. Raises ValueError if their number differs."""
    if len(stored) != len(expected):
        raise ValueError(
            f"it has {len(stored)} parameter groups, expected {len(expected)}: optim.optimizer or "
            "optim.weight_decay was changed; use another ray.name to start over"
        )
    for group, own in zip(stored, expected, strict=True):
        # The settings decide, as when it was stored; the device may be of another kind.
        group |= own | {"params": group["params"]}


def _check_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if what is stored for a parameter does not fit it."""
    known = [name for group in state["param_groups"] for name in group["params"]]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = dict(zip(known, own, strict=True))
    names = _STATE[type(optimizer).__name__]
    for key, values in state["state"].items():
        shape = parameters[key].shape
        if values.keys() != names:
            expected = ", ".join(sorted(names))
            raise ValueError(f"state {key} has {', '.join(values)}, expected {expected}")
        for name, value in values.items():
            wanted = torch.Size() if name == "step" else shape
            if value.shape != wanted or not value.is_floating_point():
                raise ValueError(
                    f"{name} of state {key} must be numbers of shape {tuple(wanted)}, got "
                    f"{value.dtype} of shape {tuple(value.shape)}"
                )


def load_network(
    folder: Path, device: torch.device, weights: Weights = "auto"
) -> tuple[PoseNetwork, CheckpointMetadata]:
    """Rebuild a checkpoint's network for prediction. Raises ValueError naming a damaged file."""
    metadata = read_metadata(folder)
    check_file(folder, weights_name(folder, weights))
    network = build_network(metadata.settings.model, 0, device, zero_heads=False)
    load_weights(folder, network, weights)
    return network.eval(), metadata
