"""A sweep's plan, checked before any cluster resource is taken."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.io.inside import read_whole
from pipeline.io.parsing import parse_json
from pipeline.pose.joint_sets import Measure
from pipeline.run.changes import differences, facts_of, listed
from pipeline.run.journal import Journal
from pipeline.run.layout import SWEEP_NAME
from pipeline.run.ownership import check_free
from pipeline.run.plan import Plan, plan_training
from pipeline.run.storage import fetch_run, local_storage, shown
from pipeline.settings import Settings
from tune.settings import Budget, EarlySettings, SearchSettings
from tune.spaces import Point, Range, Space, trial_name

# Part of a sweep's identity that stands for its settings and data, and these one by one.
_SETTINGS, _FACTS = "settings", "facts"
_STACKS = "model.stacks"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A trial that is not trained: the network of the trial at the point `whole`, cut.

    Its own `point` differs from `whole` in having fewer `model.stacks`.
    """

    point: Point
    whole: Point


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A planned sweep: resolved base settings, the space, and how it is searched.

    `base.ray.storage` is the sweep's own folder, or its place in a bucket. `plans` has every trial
    of a grid; for drawn points, trials at the ends of the space. `cuts` are trials that are not
    trained: a sweep has some if one training is for all numbers of stacks.
    """

    name: str
    base: Settings
    space: Space
    search: SearchSettings
    early: EarlySettings
    budget: Budget
    points: tuple[Point, ...]
    plans: tuple[Plan, ...]
    register: str
    """Name under which the best trial's best checkpoint is registered; empty: not registered."""
    facts: Mapping[str, str]
    """Settings and checksums that decide the outcome of the trials, except those that vary."""
    cuts: tuple[Cut, ...] = ()
    restarts: bool = False
    """Whether the folder holds another sweep, which is to be kept under another name."""

    @property
    def folder(self) -> Path:
        """Folder of the sweep's report and runs; of a sweep in a bucket its copy here."""
        return local_storage(self.base.ray.storage, self.base.ray.scratch)

    @property
    def measure(self) -> Measure:
        """Measure of the primary metric."""
        return self.plans[0].measure

    @property
    def is_grid(self) -> bool:
        """Whether every trial is known beforehand."""
        return self.search.method == "grid"

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.points) if self.is_grid else self.search.trials

    @property
    def epoch_samples(self) -> int:
        """Training samples of an epoch; people beyond the last whole batch are dropped.

        The least over the trials, whose batches may differ.
        """
        return min(samples_of(plan, 1) for plan in self.plans)

    @property
    def samples(self) -> int:
        """Most training samples of a trial."""
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
        """Return what tells the sweep from others as plain data.

        The budget, retries and the number of trials at once are not part of it.
        """
        search = asdict(self.search)
        for name in ("at_once", "retries"):
            del search[name]
        return {
            # A run's name ends with the fingerprint of its settings and data.
            _SETTINGS: self.base.ray.name.rpartition("-")[2],
            "axes": {
                key: asdict(values) if isinstance(values, Range) else list(values)
                for key, values in self.space.axes.items()
            },
            "points": list(self.space.points),
            "search": search,
            "early": asdict(self.early),
            # Sweeps from before had no such part.
            **({"from_one": True} if self.cuts else {}),
        }


def samples_of(plan: Plan, epochs: int) -> int:
    """Return the training samples of `epochs` epochs of a run."""
    batch = plan.settings.optim.batch_size
    return epochs * (plan.train.people // batch * batch)


def plan_sweep(
    settings: Settings,
    space: Space,
    search: SearchSettings,
    early: EarlySettings,
    budget: Budget,
    *,
    from_one: bool = False,
) -> Sweep:
    """Plan a sweep, whose trials that differ in stacks alone come `from_one` training if asked.

    Raises ValueError for settings that do not fit together, and for the first
    trial that cannot run.
    """
    _check(space, search, early, budget, settings)
    points = space.grid() if search.method == "grid" else space.samples()
    names = [trial_name(point) for point in points]
    for name in names:
        # Names show six digits of a number, and at most 200 letters.
        if names.count(name) > 1:
            raise ValueError(f"--space {space.name}: two trials would have the name {name}")
    cuts: tuple[Cut, ...] = ()
    if from_one:
        points, cuts = _divided(points, space, search, settings)
        settings = settings.replaced({"evaluation.every_stack": True})
    planned = plan_training(settings.replaced({"ray.name": "", "tracking.register": ""}))
    base = planned.settings
    sweep = Sweep(
        name=settings.ray.name,
        base=base,
        space=space,
        search=search,
        early=early,
        budget=budget,
        points=points,
        plans=(),
        register=settings.tracking.register,
        facts=facts_of(base, planned.checksums),
        cuts=cuts,
    )
    identity = json.dumps(sweep.identity(), sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    name = sweep.name or f"sweep-{space.name}-{digest}"
    fetch_run(replace(base.ray, name=name))
    base = base.replaced({"ray.storage": f"{base.ray.storage}/{name}"})
    sweep = replace(sweep, name=name, base=base)
    sweep = replace(sweep, restarts=is_another(sweep))
    plans = [
        plan_training(base.replaced(point | {"ray.name": trial_name(point)})) for point in points
    ]
    return replace(sweep, plans=tuple(plans))


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
    for key in space.keys:
        if key in ("ray.name", "ray.storage", "ray.scratch", "ray.address") or key.startswith(
            "tracking."
        ):
            raise ValueError(f"{key} can't vary within a sweep")


def _divided(
    points: tuple[Point, ...], space: Space, search: SearchSettings, settings: Settings
) -> tuple[tuple[Point, ...], tuple[Cut, ...]]:
    """Divide a grid's points into those to train, which have most stacks, and cuts of these.

    Raises ValueError if there is nothing to cut, or if the cut networks would not predict.
    """
    if search.method != "grid":
        raise ValueError(
            f"search.method must be grid with --from-one, which trains the largest of its numbers "
            f"of stacks, got {search.method!r}"
        )
    alike: dict[str, list[Point]] = {}
    for point in points:
        rest = {key: value for key, value in point.items() if key != _STACKS}
        alike.setdefault(json.dumps(rest, sort_keys=True), []).append(point)
    largest = {
        key: max(group, key=lambda point: point.get(_STACKS, 0)) for key, group in alike.items()
    }
    cuts = [
        Cut(point=point, whole=largest[key])
        for key, group in alike.items()
        for point in group
        if point is not largest[key]
    ]
    if not cuts:
        raise ValueError(
            f"--from-one needs trials that differ in {_STACKS} alone; --space {space.name} has none"
        )
    for cut in cuts:
        supervision = settings.replaced(cut.whole).model.supervision
        if supervision != "every-stack":
            raise ValueError(
                "model.supervision must be every-stack with --from-one, so that each stack "
                f"predicts joints, got {supervision!r}"
            )
    return tuple(largest.values()), tuple(cuts)


def is_another(sweep: Sweep) -> bool:
    """Whether the sweep's folder holds another sweep, in whose place this one is to start.

    Raises ValueError if its record is damaged, and if it holds another one that is neither to be
    replaced nor can be resumed with the new settings.
    """
    path, identity = sweep.folder / SWEEP_NAME, json.loads(json.dumps(sweep.identity()))
    choice = sweep.base.ray.on_change
    if not path.exists():
        if Journal(sweep.folder).entries():
            raise ValueError(
                f"{shown(sweep.folder)} holds a run: give another ray.name to the sweep"
            )
        return False
    try:
        before = parse_json(read_whole(path), "it")
        parts = [part for part in before | identity if part != _FACTS]
        different = [part for part in parts if before.get(part) != identity.get(part)]
        changes = listed(differences(before.get(_FACTS, {}), sweep.facts))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if different and not sweep.base.ray.take_over:
        check_free(sweep.folder, f"sweep {sweep.name}")
    if different and choice != "restart" and (different, choice) != ([_SETTINGS], "resume"):
        named = ", ".join(different) + (f" ({changes})" if changes else "")
        resume = "--ray.on-change resume to continue with the new settings, "
        raise ValueError(
            f"{shown(sweep.folder)} holds another sweep, which differs in {named}: give another "
            "ray.name, the same arguments as before to resume it, "
            f"{resume if different == [_SETTINGS] else ''}or --ray.on-change restart to start over "
            "and keep the former sweep under another name"
        )
    return bool(different) and choice == "restart"


def write_identity(sweep: Sweep) -> None:
    """Write into the sweep's folder what tells it from another of the same name."""
    content = sweep.identity() | {_FACTS: dict(sweep.facts)}
    (sweep.folder / SWEEP_NAME).write_text(json.dumps(content, indent=1) + "\n")
