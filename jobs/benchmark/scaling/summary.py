"""Figures of scaling from the measurements of every variant and round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jobs.benchmark.overhead.overhead import WARM_STEPS, check_alike
from jobs.benchmark.rounds.group import is_local
from jobs.benchmark.scaling.model import BACKWARD_SHARE
from jobs.benchmark.timing import spread

PARTS = ("compute", "all_reduce", "input", "ray")
WITHOUT_RAY, WITH_RAY = "without Ray", "with Ray"
Round = Mapping[str, Mapping[str, Any]]


def variant_name(workers: int, how: str) -> str:
    """Return the name of a variant: workers, with or without Ray."""
    return f"{workers} {how}"


def summary(rounds: Sequence[Round], counts: Sequence[int], batch: int) -> dict[str, Any]:
    """Return by number of workers the speed under Ray Train, efficiency, and parts of a step.

    Each worker trains on `batch` images a step. All figures are medians over rounds; `rounds` has
    the rounds' own. Raises RuntimeError if variants that are compared did not train alike.
    """
    by_count = {workers: _of_workers(rounds, workers, batch) for workers in counts}
    for workers, found in by_count.items():
        found["efficiency"] = [
            speed / workers / of_one
            for speed, of_one in zip(
                found["samples_per_s"], by_count[1]["samples_per_s"], strict=True
            )
        ]
    spreads = {
        str(workers): {
            name: {part: spread(of_part) for part, of_part in values.items()}
            if isinstance(values, dict)
            else spread(values)
            for name, values in found.items()
        }
        for workers, found in by_count.items()
    }
    most = max(counts)
    return {
        "samples_per_s": {n: found["samples_per_s"]["median"] for n, found in spreads.items()},
        "efficiency": {n: found["efficiency"]["median"] for n, found in spreads.items()},
        "split": {
            n: {part: found["split"][part]["median"] for part in PARTS}
            for n, found in spreads.items()
        },
        "exchange": {} if most == 1 else _exchange(rounds, most, by_count[most]["ms"]),
        "rounds": spreads,
    }


def _of_workers(rounds: Sequence[Round], workers: int, batch: int) -> dict[str, Any]:
    plain, with_ray = (_column(rounds, workers, how) for how in (WITHOUT_RAY, WITH_RAY))
    for one, other in zip(plain, with_ray, strict=True):
        check_alike({"plain": one, "ray": other})
    parts = [parts_of(*both, workers) for both in zip(plain, with_ray, strict=True)]
    return {
        "samples_per_s": [workers * batch / mean_gain(found["ends"]) for found in with_ray],
        "split": {name: [p[name] / sum(p.values()) for p in parts] for name in PARTS},
        "ms": {name: [1000 * p[name] for p in parts] for name in PARTS},
    }


def parts_of(
    plain: Mapping[str, Any], with_ray: Mapping[str, Any], workers: int
) -> dict[str, float]:
    """Return the seconds of a step by part, in one round; they add up to the step under Ray Train.

    `compute` is a step whose gradients stay local, without its wait for samples,
    `all_reduce` the extra time of exchanging them, `input` the wait, and `ray`
    the extra time of Ray Train. Noise may make such a difference negative.
    """

    def is_exchanged(step: int) -> bool:
        return workers == 1 or not is_local(step)

    def is_computed(step: int) -> bool:
        return workers == 1 or is_local(step)

    ends, waited_s = plain["ends"], plain["waited_s"]
    step, waits = mean_gain(ends, is_exchanged), mean_gain(waited_s, is_exchanged)
    compute = mean_gain(ends, is_computed) - mean_gain(waited_s, is_computed)
    return {
        "compute": compute,
        "all_reduce": step - waits - compute,
        "input": waits,
        "ray": mean_gain(with_ray["ends"]) - step,
    }


def _exchange(
    rounds: Sequence[Round], workers: int, ms: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return what all-reduces between the workers take alone, and how much of it is hidden."""
    exchanges = [measured["exchange"] for measured in _column(rounds, workers, WITHOUT_RAY)]
    alone = [found["buckets_s"] for found in exchanges]
    hidden = [
        overlap(whole, exposed / 1000, compute / 1000)
        for whole, exposed, compute in zip(alone, ms["all_reduce"], ms["compute"], strict=True)
    ]
    by_bytes = {
        int(size): statistics.median(found["by_bytes_s"][size] for found in exchanges)
        for size in exchanges[0]["by_bytes_s"]
    }
    return {
        "workers": workers,
        "overlap": spread(hidden),
        "all_reduce_alone_ms": spread([1000 * seconds for seconds in alone]),
        "all_reduce_by_bytes_ms": {size: 1000 * seconds for size, seconds in by_bytes.items()},
        **fit_ring(by_bytes, workers),
    }


def fit_ring(seconds: Mapping[int, float], workers: int) -> dict[str, float]:
    """Fit latency of a hop and bandwidth of a ring to the seconds of all-reduces by bytes.

    Least squares of the relative error, so that small ones count as much as large ones.
    """
    sizes, taken = np.array(list(seconds), float), np.array(list(seconds.values()))
    hops = 2 * (workers - 1)
    columns = np.stack([np.full_like(sizes, hops), hops * sizes / workers], axis=1)
    [hop, s_per_byte], *_ = np.linalg.lstsq(columns / taken[:, None], np.ones(len(taken)))
    return {"hop_s": float(hop), "bytes_per_s": float(1 / s_per_byte)}


def overlap(all_reduce_s: float, exposed_s: float, compute_s: float) -> float:
    """Return the hidden share (0-1) of the all-reduce that the backward pass could hide."""
    hidden = (all_reduce_s - exposed_s) / min(all_reduce_s, BACKWARD_SHARE * compute_s)
    return min(1.0, max(0.0, hidden))


def _column(rounds: Sequence[Round], workers: int, how: str) -> list[Mapping[str, Any]]:
    return [of_round[variant_name(workers, how)] for of_round in rounds]


def mean_gain(values: Sequence[float], steps: Callable[[int], bool] = lambda step: True) -> float:
    """Return the mean advance in `steps` in steady state of a clock read after every step."""
    return statistics.mean(
        values[step] - values[step - 1] for step in range(WARM_STEPS, len(values)) if steps(step)
    )
