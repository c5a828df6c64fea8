"""The library of the commands. Its functions for callers are those of `hourglass_ray`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hourglass_ray import compare, evaluate, load, pack, predict, sweep, train

__all__ = ["compare", "evaluate", "load", "pack", "predict", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hourglass_ray.api"), name)
