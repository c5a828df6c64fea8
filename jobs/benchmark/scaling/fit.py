"""From the clocks of a round to what a step went to, and the constants of the machine."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jobs.benchmark.overhead.overhead import WARM_STEPS
from jobs.benchmark.scaling.model import BACKWARD_SHARE

PARTS = ("compute", "all_reduce", "input", "ray")


def is_apart(step: int) -> bool:
    """Whether ranks that train without Ray keep their gradients to themselves in this step of a turn."""
    return step % 2 == 1


def mean_step_s(turn: Mapping[str, Any], steps: Callable[[int], bool] | None = None) -> float:
    """Mean seconds of a turn's `steps` in steady state, from those at which they ended."""
    return _mean_gain(turn["ends"], steps or _is_any)


def parts_of(
    plain: Mapping[str, Any], with_ray: Mapping[str, Any], workers: int
) -> dict[str, float]:
    """Seconds of a step by what they went to, in one round; together they are the step under Ray Train.

    `compute` is a step whose gradients stay where they are, without its wait
    for samples; `all_reduce` what exchanging them adds; `input` the wait; `ray`
    what Ray Train adds. Differences of two clocks: noise may make one negative.
    """
    together = _is_together if workers > 1 else _is_any
    apart = is_apart if workers > 1 else _is_any
    step, waits = mean_step_s(plain, together), _mean_gain(plain["waited_s"], together)
    compute = mean_step_s(plain, apart) - _mean_gain(plain["waited_s"], apart)
    return {
        "compute": compute,
        "all_reduce": step - waits - compute,
        "input": waits,
        "ray": mean_step_s(with_ray) - step,
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, range and the rounds' own."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


def fit_ring(seconds: Mapping[int, float], workers: int) -> dict[str, float]:
    """Hop and bandwidth of the ring that takes so many seconds for an all-reduce of so many bytes.

    Least squares of the relative error, so that small ones count as much as large ones.
    """
    sizes, taken = np.array(list(seconds), float), np.array(list(seconds.values()))
    hops = 2 * (workers - 1)
    columns = np.stack([np.full_like(sizes, hops), hops * sizes / workers], axis=1)
    [hop, s_per_byte], *_ = np.linalg.lstsq(columns / taken[:, None], np.ones(len(taken)))
    return {"hop_s": float(hop), "bytes_per_s": float(1 / s_per_byte)}


def overlap(all_reduce_s: float, exposed: float, compute_s: float) -> float:
    """Share of the all-reduce that the backward pass hides, 0-1, of what it could at its length."""
    hidden = (all_reduce_s - exposed) / min(all_reduce_s, BACKWARD_SHARE * compute_s)
    return min(1.0, max(0.0, hidden))


def _is_any(step: int) -> bool:
    return True


def _is_together(step: int) -> bool:
    return not is_apart(step)


def _mean_gain(values: Sequence[float], steps: Callable[[int], bool]) -> float:
    """By how much a clock that is read after every step goes on in such steps."""
    return statistics.mean(
        values[step] - values[step - 1] for step in range(WARM_STEPS, len(values)) if steps(step)
    )
