"""Search spaces: which settings a sweep replaces, by dotted key, and by what."""

from typing import Any, Literal

SpaceName = Literal["stacks", "stacks-modules", "stacks-learning-rate"]

# Stacks as the paper compares them (Newell et al., section 4.3).
_STACKS = (1, 2, 4, 8)
AXES: dict[SpaceName, dict[str, tuple[Any, ...]]] = {
    "stacks": {"model.stacks": _STACKS},
    "stacks-modules": {"model.stacks": _STACKS, "model.modules": (1, 2, 4)},
    "stacks-learning-rate": {
        "model.stacks": _STACKS,
        "optim.learning_rate": (1e-4, 2.5e-4, 1e-3),
    },
}


def trial_name(point: dict[str, Any]) -> str:
    """A trial's name, made of what sets it apart: `stacks-2_learning_rate-0.001`."""
    return "_".join(f"{key.partition('.')[2]}-{value:g}" for key, value in point.items())
