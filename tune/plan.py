"""What a sweep will run, planned and checked before any cluster resource is taken."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.pose.joint_sets import Measure
from pipeline.run.plan import Plan, plan_training
from pipeline.settings import Settings
from tune.settings import Budget, EarlySettings, SearchSettings
from tune.spaces import Point, Range, Space, trial_name

# In the sweep's folder: what it is, so that another of its name is told from it.
SWEEP_NAME = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A planned sweep: base settings with nothing left open, the space, and how it is searched.

    `base.ray.storage` is the sweep's own folder. `plans` are of every trial of
    a grid; of drawn points they are of some that lie at the space's ends.
    """

    name: str
    base: Settings
    space: Space
    search: SearchSettings
    early: EarlySettings
    budget: Budget
    points: tuple[Point, ...]
    plans: tuple[Plan, ...]
    register: str = ""
    """Name under which the best trial's best checkpoint is registered at the end; empty: it is not."""

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its report and runs."""
        return Path(self.base.ray.storage)

    @property
    def measure(self) -> Measure:
        """What trials are ranked by."""
        return self.plans[0].measure

    @property
    def is_grid(self) -> bool:
        """Whether every trial is known beforehand."""
        return self.search.method == "grid"

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return len(self.points) if self.is_grid else self.search.trials

    @property
    def epoch_samples(self) -> int:
        """Training samples of an epoch: people that make no whole batch sit it out."""
        return max(samples_of(plan, 1) for plan in self.plans)

    @property
    def samples(self) -> int:
        """Training samples that one trial has at most."""
        return max(samples_of(plan, plan.settings.optim.epochs) for plan in self.plans)

    @property
    def how(self) -> str:
        """How points are chosen and trials stopped, in words."""
        words = [f"search {self.search.method}"]
        if self.search.against != "none":
            words.append(f"accuracy against {self.search.against}")
        if self.early.rule != "none":
            grace = self.early.grace_samples or self.epoch_samples
            words.append(f"{self.early.rule} after {grace:,} samples")
        bounds = [(key.replace("_", " "), bound) for key, bound in asdict(self.budget).items()]
        words += [f"budget of {bound:,g} {name}" for name, bound in bounds if bound]
        return ", ".join(words)

    def identity(self) -> dict[str, Any]:
        """What makes it this sweep and no other, as plain data; how long it may take is not part of it."""
        axes = {
            key: asdict(values) if isinstance(values, Range) else list(values)
            for key, values in self.space.axes.items()
        }
        search = asdict(self.search)
        for free in ("at_once", "retries"):
            del search[free]
        # A run's name ends with the fingerprint of its settings and data.
        return {
            "settings": plan_fingerprint(self.base),
            "axes": axes,
            "points": list(self.space.points),
            "search": search,
            "early": asdict(self.early),
        }


def samples_of(plan: Plan, epochs: int) -> int:
    """Training samples of so many epochs of a run."""
    batch = plan.settings.optim.batch_size
    return epochs * (plan.train.people // batch * batch)


def plan_fingerprint(base: Settings) -> str:
    """Eight digits that stand for everything that decides the outcome of a training with these settings."""
    return base.ray.name.rpartition("-")[2]


def plan_sweep(
    settings: Settings,
    space: Space,
    search: SearchSettings,
    early: EarlySettings,
    budget: Budget,
) -> Sweep:
    """Plan a sweep. Raises ValueError for the first trial that can't be run, or if parts of it don't fit together."""
    _check(space, search, early, budget, settings)
    points = space.grid() if search.method == "grid" else space.samples()
    names = [trial_name(point) for point in points]
    for name in names:
        # As names show six digits of a number, and no more than 200 letters.
        if names.count(name) > 1:
            raise ValueError(f"--space {space.name}: two of its trials would be called {name}")
    given_name = settings.ray.name
    base = plan_training(settings.replaced({"ray.name": "", "tracking.register": ""})).settings
    sweep = Sweep(
        name="",
        base=base,
        space=space,
        search=search,
        early=early,
        budget=budget,
        points=points,
        plans=(),
    )
    text = json.dumps(sweep.identity(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = given_name or f"sweep-{space.name}-{digest}"
    base = base.replaced({"ray.storage": str(Path(base.ray.storage) / name)})
    plans = tuple(
        plan_training(base.replaced(point | {"ray.name": trial_name(point)})) for point in points
    )
    return Sweep(
        name=name,
        base=base,
        space=space,
        search=search,
        early=early,
        budget=budget,
        points=points,
        plans=plans,
        register=settings.tracking.register,
    )


def _check(
    space: Space,
    search: SearchSettings,
    early: EarlySettings,
    budget: Budget,
    settings: Settings,
) -> None:
    if search.method != "grid" and space.points != ({},):
        raise ValueError(
            f"search.method must be grid with --space {space.name}, which lists its trials, "
            f"got {search.method!r}"
        )
    if search.against != "none" and early.rule != "none":
        raise ValueError(
            f"early.rule must be none with search.against={search.against}, since trials that are "
            f"not the most accurate may be wanted, got {early.rule!r}"
        )
    if budget.gpu_hours and not settings.ray.gpus_per_worker:
        raise ValueError(
            f"budget.gpu_hours must be 0 without ray.gpus_per_worker, got {budget.gpu_hours:g}"
        )
    fixed = {"ray.name", "ray.storage", "ray.address"}
    for key in space.keys:
        if key in fixed or key.startswith("tracking."):
            raise ValueError(f"{key} can't vary within a sweep")


def check_same(sweep: Sweep) -> None:
    """Raise ValueError if the sweep's folder holds another sweep; else note there what this one is."""
    path, identity = sweep.folder / SWEEP_NAME, json.loads(json.dumps(sweep.identity()))
    if not path.exists():
        sweep.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(identity, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    different = [part for part in identity if before.get(part) != identity[part]]
    if different:
        raise ValueError(
            f"{sweep.folder} holds another sweep, which differs in {', '.join(different)}: give "
            "another ray.name, or the same arguments as before to go on with it"
        )
