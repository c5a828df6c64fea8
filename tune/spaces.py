"""What a sweep will run: which settings it replaces, by dotted key, and the plan of every trial."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pipeline.joints import Measure
from pipeline.plan import Plan, plan_training
from pipeline.settings import Settings

SpaceName = Literal["stacks", "stacks-modules", "stacks-learning-rate"]

# Stacks as the paper compares them (Newell et al., section 4.3).
_STACKS = (1, 2, 4, 8)
_AXES: dict[SpaceName, dict[str, tuple[Any, ...]]] = {
    "stacks": {"model.stacks": _STACKS},
    "stacks-modules": {"model.stacks": _STACKS, "model.modules": (1, 2, 4)},
    "stacks-learning-rate": {
        "model.stacks": _STACKS,
        "optim.learning_rate": (1e-4, 2.5e-4, 1e-3),
    },
}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A planned sweep: base settings with nothing left open but the axes, and one plan a trial.

    `axes` are the values of each replaced setting. `base.ray.storage` is the
    sweep's own folder.
    """

    name: str
    base: Settings
    axes: dict[str, tuple[Any, ...]]
    plans: tuple[Plan, ...]

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its table, figures and runs."""
        return Path(self.base.ray.storage)

    @property
    def measure(self) -> Measure:
        """What trials are ranked by."""
        return self.plans[0].measure


def plan_sweep(settings: Settings, space: SpaceName, given: dict[str, tuple[Any, ...]]) -> Sweep:
    """Plan every trial of a grid. Raises ValueError for the first that can't be run.

    `given` values, by dotted key, replace those of the named space or add an axis to it.
    """
    axes = _AXES[space] | {key: values for key, values in given.items() if values}
    base = plan_training(settings).settings
    name = settings.ray.name or f"sweep-{space}-{base.ray.name}"
    base = base.replaced({"ray.storage": str(Path(base.ray.storage) / name)})
    plans = tuple(
        plan_training(base.replaced(point | {"ray.name": trial_name(point)}))
        for point in (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    )
    return Sweep(name=name, base=base, axes=axes, plans=plans)


def trial_name(point: dict[str, Any]) -> str:
    """A trial's name, made of what sets it apart: `stacks-2_learning_rate-0.001`."""
    return "_".join(f"{key.partition('.')[2]}-{value:g}" for key, value in point.items())
