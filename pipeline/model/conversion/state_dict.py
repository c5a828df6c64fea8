"""Tensors of another implementation's file by name, read without executing anything in it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# DataParallel prefixes every key with `module.`, a module that wraps the network with `model.`.
_WRAPPERS = ("module", "model")
_NESTED = "state_dict"


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Tensors by key, without the `prefix` that all keys of the file have."""

    tensors: dict[str, Tensor]
    prefix: str


def read_state_dict(path: Path) -> StateDict:
    """Read a `.safetensors` or `torch.save` file of tensors, or of a `state_dict` beside others.

    torch reads its file with `weights_only`, which admits only tensors and containers. Raises
    ValueError naming the file and the problem.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    if isinstance(content, Mapping) and isinstance(content.get(_NESTED), Mapping):
        content = content[_NESTED]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: expected tensors by name, got {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path}: expected tensors by name, or under {_NESTED!r}; "
                f"{key!r} is of type {type(value).__name__}"
            )
    prefix = _prefix(list(content))
    return StateDict(
        tensors={key.removeprefix(prefix): value for key, value in content.items()}, prefix=prefix
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not readable as safetensors: {error}") from error


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # a damaged pickle is arbitrary instructions
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, UnpicklingError) and foreign:
            raise ValueError(
                f"{path}: holds objects of {foreign[1]}, and reading these executes code; expected "
                "only tensors, as torch.save(network.state_dict()) writes"
            ) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: not readable as a torch.save file: {reason}") from error


def _prefix(keys: list[str]) -> str:
    """Return the wrappers' names that all keys begin with."""
    prefix = ""
    for _ in range(len(_WRAPPERS)):
        for wrapper in _WRAPPERS:
            if all(key.startswith(f"{prefix}{wrapper}.") for key in keys):
                prefix += f"{wrapper}."
    return prefix
