"""Shapes of arrays in annotations: jaxtyping's, or nothing at all on a machine that lacks it.

A training step must run where there is little more than torch, such as a bare
GPU machine; what it needs takes its annotations from here.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from jaxtyping import Bool, Float, Int64, UInt8
except ModuleNotFoundError:
    if not TYPE_CHECKING:

        class _Anything:
            def __class_getitem__(cls, _: Any) -> Any:
                return Any

        Bool = Float = Int64 = UInt8 = _Anything

__all__ = ["Bool", "Float", "Int64", "Positions", "UInt8"]

# Batches of one call may differ in length, so the axis is named but not bound.
Positions = Int64[np.ndarray, " _sample"]
