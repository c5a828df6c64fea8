"""A sweep's search space and search, as Ray Tune's objects."""

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
    """Return Ray Tune's search space: the whole point, listed or drawn setting by setting."""
    if not sweep.is_grid:
        return {POINT: {key: domain(values) for key, values in sweep.space.axes.items()}}
    points = list(sweep.points)
    if sweep.early.rule != "none":
        # In a grid's order the first trials at a rung would be alike, and all pass it.
        random.Random(sweep.search.seed).shuffle(points)
    return {POINT: ray.tune.grid_search(points)}


def domain(values: Values) -> Any:
    """Return Ray Tune's domain that the values of an axis are drawn from."""
    if not isinstance(values, Range):
        return ray.tune.choice(list(values))
    if values.is_whole:
        low, high, step = int(values.low), int(values.high), int(values.step) or 1
        if values.log:
            return ray.tune.lograndint(low, high + 1)
        # Ray Tune excludes the upper end from randint, but includes it in qrandint.
        return ray.tune.randint(low, high + 1) if step == 1 else ray.tune.qrandint(low, high, step)
    if values.log:
        return ray.tune.loguniform(values.low, values.high)
    if values.step:
        return ray.tune.quniform(values.low, values.high, values.step)
    return ray.tune.uniform(values.low, values.high)


def searcher(search: SearchSettings, at_once: int) -> SearchAlgorithm:
    """Return the algorithm that lists or draws the points, for at most `at_once` trials at once."""
    if search.method != "tpe":
        return BasicVariantGenerator(max_concurrent=at_once, random_state=search.seed)
    metric: Any = "score"
    mode: Any = "max"
    if search.against != "none":
        metric = ["score", search.against]
        mode = ["max", "min" if search.against == "gmac" else "max"]
    optuna = OptunaSearch(metric=metric, mode=mode, seed=search.seed)
    return SearchGenerator(ConcurrencyLimiter(optuna, max_concurrent=at_once))
