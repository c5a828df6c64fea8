"""A sweep's search, as Ray Tune's objects."""

import random
from typing import Any

import ray.tune
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm, SearchGenerator
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from tune.plan import Sweep
from tune.settings import SearchSettings
from tune.spaces import Range, Values
from tune.trial import POINT


def param_space(sweep: Sweep) -> dict[str, Any]:
    """What Ray Tune varies: the whole point, from a list or drawn setting by setting."""
    if not sweep.is_grid:
        return {POINT: {key: domain(values) for key, values in sweep.space.axes.items()}}
    points = list(sweep.points)
    if sweep.early.rule != "none":
        # In the order of a grid the first to come to a rung would be alike, and pass for good.
        random.Random(sweep.search.seed).shuffle(points)
    return {POINT: ray.tune.grid_search(points)}


def domain(values: Values) -> Any:
    """The domain of Ray Tune's that an axis is drawn from."""
    if not isinstance(values, Range):
        return ray.tune.choice(list(values))
    if values.is_whole:
        low, high, step = int(values.low), int(values.high), int(values.step) or 1
        if values.log:
            return ray.tune.lograndint(low, high + 1)
        # Ray Tune leaves the upper end of whole numbers out, but of quantised ones in.
        return ray.tune.randint(low, high + 1) if step == 1 else ray.tune.qrandint(low, high, step)
    if values.log:
        return ray.tune.loguniform(values.low, values.high)
    if values.step:
        return ray.tune.quniform(values.low, values.high, values.step)
    return ray.tune.uniform(values.low, values.high)


def searcher(search: SearchSettings, at_once: int) -> SearchAlgorithm:
    """What draws the points, or goes through them, with so many trials going on at once at most."""
    if search.method != "tpe":
        return BasicVariantGenerator(max_concurrent=at_once, random_state=search.seed)
    metrics, modes = ["score"], ["max"]
    if search.against != "none":
        metrics.append(search.against)
        modes.append({"gmac": "min", "samples_per_s": "max"}[search.against])
    one_aim = len(metrics) == 1
    optuna = OptunaSearch(
        metric=metrics[0] if one_aim else metrics,
        mode=modes[0] if one_aim else modes,
        seed=search.seed,
    )
    return SearchGenerator(ConcurrencyLimiter(optuna, max_concurrent=at_once))
