"""From what every side measured in every round to the headline figures, and the constants of the model."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.benchmark.overhead.overhead import check_alike
from jobs.benchmark.scaling.fit import PARTS, fit_ring, mean_step_s, overlap, parts_of, spread
from jobs.benchmark.scaling.model import Fitted

# What a side of so many workers does.
WITHOUT_RAY, WITH_RAY = "without Ray", "with Ray"
Turn = Mapping[str, Mapping[str, Any]]


def side_name(workers: int, way: str) -> str:
    """Name of a side."""
    return f"{workers} {way}"


def summary(turns: Sequence[Turn], counts: Sequence[int], batch: int) -> dict[str, Any]:
    """Headline by number of workers, with `batch` images each: speed under Ray Train, efficiency, where a step's time went.

    All are medians of the rounds' own; `rounds` has these. Raises RuntimeError
    if sides that are compared did not train alike.
    """
    by_count = {workers: _of_workers(turns, workers, batch) for workers in counts}
    for found in by_count.values():
        alone = by_count[1]["samples_per_s"]
        found["efficiency"] = [
            speed / found["workers"] / of_one
            for speed, of_one in zip(found["samples_per_s"], alone, strict=True)
        ]
    return {
        "samples_per_s": _medians(by_count, "samples_per_s"),
        "efficiency": _medians(by_count, "efficiency"),
        "split": {
            str(workers): {part: statistics.median(found["split"][part]) for part in PARTS}
            for workers, found in by_count.items()
        },
        "fitted": _constants(turns, by_count[max(counts)]),
        "rounds": {
            str(workers): {
                "samples_per_s": spread(found["samples_per_s"]),
                "efficiency": spread(found["efficiency"]),
                "split": {part: spread(values) for part, values in found["split"].items()},
                "ms": {part: spread(values) for part, values in found["ms"].items()},
            }
            for workers, found in by_count.items()
        },
    }


def fitted(result: Mapping[str, Any]) -> Fitted:
    """What the model takes from a summary; noise may have made Ray's share negative."""
    found = result["fitted"]
    return Fitted(overlap=found["overlap"], ray_share=max(0.0, found["ray_share"]))


def _of_workers(turns: Sequence[Turn], workers: int, batch: int) -> dict[str, Any]:
    plain, with_ray = (_column(turns, workers, way) for way in (WITHOUT_RAY, WITH_RAY))
    for one, other in zip(plain, with_ray, strict=True):
        check_alike({"plain": one, "ray": other})
    rounds = [parts_of(*sides, workers) for sides in zip(plain, with_ray, strict=True)]
    return {
        "workers": workers,
        "samples_per_s": [workers * batch / mean_step_s(turn) for turn in with_ray],
        "split": {p: [parts[p] / sum(parts.values()) for parts in rounds] for p in PARTS},
        "ms": {p: [1000 * parts[p] for parts in rounds] for p in PARTS},
    }


def _constants(turns: Sequence[Turn], most: Mapping[str, Any]) -> dict[str, Any]:
    """What the largest number of workers says of exchange and Ray; with one worker nothing is known to overlap."""
    ray_share = statistics.median(most["split"]["ray"])
    if most["workers"] == 1:
        return {"workers": 1, "overlap": 0.0, "ray_share": ray_share}
    exchanges = [turn["exchange"] for turn in _column(turns, most["workers"], WITHOUT_RAY)]
    alone = [found["buckets_s"] for found in exchanges]
    hidden = [
        overlap(whole, exposed / 1000, compute / 1000)
        for whole, exposed, compute in zip(
            alone, most["ms"]["all_reduce"], most["ms"]["compute"], strict=True
        )
    ]
    by_bytes = {
        int(size): statistics.median(found["by_bytes_s"][size] for found in exchanges)
        for size in exchanges[0]["by_bytes_s"]
    }
    return {
        "workers": most["workers"],
        "overlap": statistics.median(hidden),
        "overlap_rounds": hidden,
        "ray_share": ray_share,
        "all_reduce_alone_ms": spread([1000 * seconds for seconds in alone]),
        "all_reduce_by_bytes_ms": {size: 1000 * taken for size, taken in by_bytes.items()},
        **fit_ring(by_bytes, most["workers"]),
    }


def _column(turns: Sequence[Turn], workers: int, way: str) -> list[Mapping[str, Any]]:
    return [turn[side_name(workers, way)] for turn in turns]


def _medians(by_count: Mapping[int, Mapping[str, Any]], key: str) -> dict[str, float]:
    return {str(workers): statistics.median(of[key]) for workers, of in by_count.items()}
