"""Read the tensors of somebody else's file by name; nothing in it is executed."""

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

# DataParallel puts `module.` before every key, a wrapper that holds the network `model.`.
_WRAPPERS = ("module", "model")
_NESTED = "state_dict"


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Tensors by their key without `prefix`, which stood before all of them in the file."""

    tensors: dict[str, Tensor]
    prefix: str


def read_state_dict(path: Path) -> StateDict:
    """Read a `.safetensors` file or one of `torch.save`, plain or as `state_dict` among other things.

    A file of torch is read with `weights_only`: of classes, it may hold tensors
    and containers alone. Raises ValueError naming the file and what is wrong.
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
                f"{path}: expected tensors by name, or such under {_NESTED!r}; "
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
    except Exception as error:  # the bytes of a damaged pickle are instructions: anything may come
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, UnpicklingError) and foreign:
            raise ValueError(
                f"{path}: holds objects of {foreign[1]}, which would have to be executed to be "
                "read; expected tensors alone, such as the file of torch.save(network.state_dict())"
            ) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: not readable as a file of torch.save: {reason}") from error


def _prefix(keys: list[str]) -> str:
    """The wrappers' names that stand before every key."""
    prefix = ""
    for _ in range(len(_WRAPPERS)):
        for wrapper in _WRAPPERS:
            if all(key.startswith(f"{prefix}{wrapper}.") for key in keys):
                prefix += f"{wrapper}."
    return prefix
