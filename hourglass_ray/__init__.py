"""Stacked hourglass networks for human pose estimation, trained on Ray and recorded in MLflow.

The names below are the Python API; docs/api.md describes it. They are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hourglass_ray.api import (
        Checkpoint,
        Compared,
        Packed,
        Run,
        Sweep,
        TrainingError,
        compare,
        evaluate,
        load,
        pack,
        predict,
        sweep,
        train,
    )

__all__ = [
    "Checkpoint",
    "Compared",
    "Packed",
    "Run",
    "Sweep",
    "TrainingError",
    "compare",
    "evaluate",
    "load",
    "pack",
    "predict",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hourglass_ray.api"), name)
