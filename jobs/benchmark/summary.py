"""The headline ratios, from laps on one core."""

from collections.abc import Mapping
from typing import Any

from jobs.benchmark.timing import Laps, pooled, ratio, speed

# Routes of our own, each by itself over the same people.
OURS = (
    "stream",
    "sample_function",
    "decode_only",
    "reading_only",
    "network_input",
    "heatmaps",
)
# What they are compared with: the plain route in its usual order of steps, and in the one that costs least.
PLAIN, LEAN_PLAIN = "plain", "lean_plain"


def summary(laps: Mapping[str, Mapping[str, Laps]]) -> dict[str, Any]:
    """The headline ratios, over as many samples of each size, and what they are of."""
    routes = (*OURS, PLAIN, LEAN_PLAIN)
    together = {name: pooled(*(held[name] for held in laps.values())) for name in routes}
    sizes = {name: _ratios(held) for name, held in laps.items()}
    return {
        "of_decode": _ratio(together, "stream", "decode_only"),
        "over_plain": _ratio(together, "stream", PLAIN),
        "over_lean_plain": _ratio(together, "stream", LEAN_PLAIN),
        "pipe_overhead": 1 - _ratio(together, "stream", "sample_function"),
        "routes": {name: speed(held) for name, held in together.items()},
        "sizes": sizes,
    }


def _ratios(laps: Mapping[str, Laps]) -> dict[str, Any]:
    return {
        "of_decode": _ratio(laps, "stream", "decode_only"),
        "over_plain": _ratio(laps, "stream", PLAIN),
        "over_lean_plain": _ratio(laps, "stream", LEAN_PLAIN),
        "over_plain_with_device_part": ratio(_with_device_part(laps), _per_s(laps[PLAIN])),
        "pipe_overhead": 1 - _ratio(laps, "stream", "sample_function"),
        "routes": {name: speed(held) for name, held in laps.items()},
    }


def _ratio(laps: Mapping[str, Laps], above: str, below: str) -> float:
    return ratio(_per_s(laps[above]), _per_s(laps[below]))


def _per_s(laps: Laps) -> list[float]:
    return [lap.per_s for lap in laps]


def _with_device_part(laps: Mapping[str, Laps]) -> list[float]:
    """Samples/s of the stream if the same core also made floats and heatmaps, as the plain route does."""
    stages = zip(*(_per_s(laps[n]) for n in ("stream", "network_input", "heatmaps")), strict=True)
    return [1 / sum(1 / per_s for per_s in round_of) for round_of in stages]
