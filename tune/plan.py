"""What a sweep will run, planned and checked before any cluster resource is taken."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.joints import Measure
from pipeline.plan import Plan, plan_training
from pipeline.settings import Settings
from tune.spaces import Point, SpaceName, points_of, trial_name


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A planned sweep: base settings with nothing left open, and a point and its plan for each trial.

    `base.ray.storage` is the sweep's own folder.
    """

    name: str
    base: Settings
    points: tuple[Point, ...]
    plans: tuple[Plan, ...]

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The values that each replaced setting takes."""
        return {key: tuple(dict.fromkeys(p[key] for p in self.points)) for key in self.points[0]}

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its table, figures and runs."""
        return Path(self.base.ray.storage)

    @property
    def measure(self) -> Measure:
        """What trials are ranked by."""
        return self.plans[0].measure


def plan_sweep(settings: Settings, space: SpaceName, given: dict[str, tuple[Any, ...]]) -> Sweep:
    """Plan every trial of a space. Raises ValueError for the first that can't be run.

    `given` values, by dotted key, replace those of the named space or add to it.
    """
    points = points_of(space, given)
    base = plan_training(settings).settings
    name = settings.ray.name or _name(space, base, points)
    base = base.replaced({"ray.storage": str(Path(base.ray.storage) / name)})
    plans = tuple(
        plan_training(base.replaced(point | {"ray.name": trial_name(point)})) for point in points
    )
    return Sweep(name=name, base=base, points=points, plans=plans)


def _name(space: SpaceName, base: Settings, points: tuple[Point, ...]) -> str:
    """A name that the same sweep of the same data always has, and no other."""
    # A run's name ends with the fingerprint of its settings and data.
    fingerprint = base.ray.name.rpartition("-")[2]
    text = json.dumps([fingerprint, points], sort_keys=True)
    return f"sweep-{space}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
