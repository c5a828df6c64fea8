"""From the clocks of a round to what a step went to, and the constants of the machine."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.benchmark.share.overhead import WARM_STEPS
from pipeline.benchmark.share.scaling.model import BACKWARD_SHARE

PARTS = ("compute", "all_reduce", "input", "ray")


def step_s(turn: Mapping[str, Any]) -> float:
    """Seconds of a step in steady state, from the seconds at which a turn's steps ended."""
    return _mean_gain(turn["ends"])


def wait_s(turn: Mapping[str, Any]) -> float:
    """Seconds of a step in steady state that rank 0 waited for samples, from those waited up to each step's end."""
    return _mean_gain(turn["waited_s"])


def parts_of(
    plain: Mapping[str, Any], apart: Mapping[str, Any], with_ray: Mapping[str, Any]
) -> dict[str, float]:
    """Seconds of a step by what they went to, in one round; together they are the step under Ray Train.

    `compute` is a step whose gradients stay where they are, without its wait
    for samples; `all_reduce` what exchanging them adds; `input` the wait; `ray`
    what Ray Train adds. Differences of two clocks: noise may make one negative.
    """
    working = step_s(apart) - wait_s(apart)
    return {
        "compute": working,
        "all_reduce": step_s(plain) - wait_s(plain) - working,
        "input": wait_s(plain),
        "ray": step_s(with_ray) - step_s(plain),
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


def _mean_gain(values: Sequence[float]) -> float:
    return (values[-1] - values[WARM_STEPS - 1]) / (len(values) - WARM_STEPS)
