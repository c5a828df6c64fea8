"""Search spaces: which settings a sweep replaces, by dotted key, and by what.

A point holds the replaced settings of one trial. Some spaces are grids, the
product of values a setting; others list their points.
"""

from itertools import product
from typing import Any, Literal

from pipeline.presets import settings_of

SpaceName = Literal[
    "stacks",
    "stacks-modules",
    "stacks-learning-rate",
    "ablation-stacks",
    "ablation-supervision",
    "losses",
]
Point = dict[str, Any]

# Stacks as the paper compares them (Newell et al., section 4.3).
_STACKS = (1, 2, 4, 8)
_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "stacks": {"model.stacks": _STACKS},
    "stacks-modules": {"model.stacks": _STACKS, "model.modules": (1, 2, 4)},
    "stacks-learning-rate": {
        "model.stacks": _STACKS,
        "optim.learning_rate": (1e-4, 2.5e-4, 1e-3),
    },
}
_LISTS: dict[str, tuple[Point, ...]] = {
    # The same depth and about the same parameters in fewer or more stacks (figure 9).
    "ablation-stacks": tuple(
        {"model.stacks": stacks, "model.modules": modules}
        for stacks, modules in ((2, 4), (4, 2), (8, 1))
    ),
    # Where intermediate supervision goes (figure 8).
    "ablation-supervision": tuple(
        settings_of([name]) for name in ("hg", "hg-int", "hg-stacked", "hg-stacked-int")
    ),
    # Which start and scale keep mean squared error from all-zero heatmaps, and what
    # cross-entropy, which has no scale, does instead.
    "losses": tuple(
        {"optim.loss": loss, "optim.target_peak": peak, "optim.zero_heads": zero_heads}
        for loss, peak in (("mse", 1.0), ("mse", 10.0), ("mse", 50.0), ("cross-entropy", 1.0))
        for zero_heads in (True, False)
    ),
}


def points_of(space: SpaceName, given: dict[str, tuple[Any, ...]]) -> tuple[Point, ...]:
    """The points of a space, one a trial.

    `given` values, by dotted key, replace those of a grid or multiply its
    points. Raises ValueError if they are of a setting that a list fixes.
    """
    given = {key: values for key, values in given.items() if values}
    if space in _GRIDS:
        return tuple(_grid(_GRIDS[space] | given))
    listed = _LISTS[space]
    for key in given:
        if key in listed[0]:
            raise ValueError(
                f"--space {space} sets {key} for each of its trials; no values of it can be given"
            )
    return tuple(point | more for point in listed for more in _grid(given))


def _grid(axes: dict[str, tuple[Any, ...]]) -> list[Point]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def trial_name(point: Point) -> str:
    """A trial's name, made of what sets it apart: `stacks-2_learning_rate-0.001`."""
    return "_".join(f"{key.partition('.')[2]}-{_text(value)}" for key, value in point.items())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
