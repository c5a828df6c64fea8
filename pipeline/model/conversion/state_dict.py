"""Tensors of another implementation's file by name, read without executing anything in it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.io.text import briefly
from pipeline.model.tensors import load_tensors

# Preferred where a checkpoint holds the weights of several networks.
_NESTED = "state_dict"
_MOST_NESTED = 3
# What a torch.save file is often replaced by: a page of a website, and a pointer of Git LFS.
_MISTAKEN = {b"<": "a web page", b"version https://git-lfs": "a pointer of Git LFS, not the file"}


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Tensors by key, without the `prefix` that all keys of the file have.

    `place` are the keys of the nested dicts that hold them.
    """

    tensors: dict[str, Tensor]
    prefix: str
    place: tuple[str, ...]


def read_state_dict(path: Path) -> StateDict:
    """Read a safetensors or `torch.save` file of tensors by name, at any key of a checkpoint.

    torch reads its file with `weights_only`, which admits only tensors and containers. Raises
    ValueError naming the file and the problem.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected a file of weights")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(64)
    for sign, kind in _MISTAKEN.items():
        if start.lstrip().startswith(sign):
            raise ValueError(f"{path}: not readable as weights: it is {kind}")
    # A safetensors file begins with 8 bytes and JSON.
    is_safe = path.suffix == ".safetensors" or start[8:9] == b"{"
    content, place = _unwrapped(path, _safetensors(path) if is_safe else _torch_file(path))
    prefix = _prefix(list(content))
    tensors = {key.removeprefix(prefix): value for key, value in content.items()}
    return StateDict(tensors=tensors, prefix=prefix, place=place)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not readable as safetensors: {briefly(error)}") from error


def _torch_file(path: Path) -> Any:
    try:
        return load_tensors(path)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle is arbitrary instructions
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, UnpicklingError) and foreign:
            raise ValueError(
                f"{path}: holds objects of {foreign[1]}, and reading these executes code; expected "
                "only tensors, as torch.save(network.state_dict()) writes"
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path}: a TorchScript archive, which is code; expected only tensors, as "
                "torch.save(network.state_dict()) writes"
            ) from error
        # PyTorch's next sentences advise to execute what the file says.
        reason = re.split(r"\n|\. ", str(error))[0] or type(error).__name__
        raise ValueError(
            f"{path}: not readable as a torch.save file, damaged or cut off: {reason}"
        ) from error


def _unwrapped(path: Path, content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors by name in nested dicts, and where they are."""
    place: tuple[str, ...] = ()
    while not _is_state_dict(content):
        if isinstance(content, Mapping) and not content:
            raise ValueError(f"{path}: expected tensors by name, got an empty dict")
        if not isinstance(content, Mapping) or len(place) == _MOST_NESTED:
            kind = type(content).__name__
            raise ValueError(f"{path}: expected tensors by name, got {kind}")
        if _is_of_optimizer(content):
            raise ValueError(
                f"{path}: expected tensors by name, got an optimizer's state; give the network's "
                "state_dict"
            )
        nested = {key: value for key, value in content.items() if _holds_state_dict(value)}
        if len(nested) > 1 and _NESTED not in nested:
            raise ValueError(
                f"{path}: expected tensors by name, got several dicts of them: "
                f"{', '.join(map(repr, nested))}; save the network's alone, under {_NESTED!r}"
            )
        if not nested:
            raise ValueError(f"{path}: expected tensors by name, got {_described(content)}")
        key = _NESTED if _NESTED in nested else next(iter(nested))
        content, place = nested[key], (*place, str(key))
    return dict(content), place


def _is_state_dict(value: Any) -> bool:
    """Whether it is a dict of tensors by name, and not empty."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _holds_state_dict(value: Any) -> bool:
    """Whether it is a state dict or has one inside, other than an optimizer's."""
    if not isinstance(value, Mapping) or _is_of_optimizer(value):
        return False
    return _is_state_dict(value) or any(map(_holds_state_dict, value.values()))


def _is_of_optimizer(content: Mapping[Any, Any]) -> bool:
    return {"state", "param_groups"} <= set(content)


def _described(content: Mapping[Any, Any]) -> str:
    shown = [f"{key!r} of type {type(value).__name__}" for key, value in content.items()]
    return "a dict of " + ", ".join(shown[:4]) + ", ..." * (len(shown) > 4)


def _prefix(keys: list[str]) -> str:
    """Return the names of wrappers, as DataParallel's `module.`, that all keys begin with."""
    prefix = ""
    while True:
        first, _, _ = keys[0].removeprefix(prefix).partition(".")
        longer = f"{prefix}{first}."
        # A layer of the network itself has tensors without a further name.
        if not all(key.startswith(longer) and "." in key.removeprefix(longer) for key in keys):
            return prefix
        prefix = longer
