"""Array shapes in annotations: jaxtyping's, or no shapes where it is not installed.

A training step must run on a bare GPU machine with little more than torch. Modules that it needs
take their annotations from here.
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

# Batches of one call may differ in length, so the axis name is not bound (leading underscore).
Positions = Int64[np.ndarray, " _sample"]
