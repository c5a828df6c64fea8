"""Scores of a sweep's trials against what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tune.figures.marks import COLORS, MARKERS, legend, number_logarithm, plain, spans_orders

# Names of a front as fit beside it.
_MOST_NAMES = 12
# Costs that are counted, such as stacks, are named one by one up to so many.
_MOST_TICKS = 8


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A trial with a score: `mark` is what stands beside it on the front, `name` what the legend says of it."""

    mark: str
    name: str
    status: str
    cost: float
    score: float


def scores_against(dots: Sequence[Dot], front: Sequence[int], cost: str, headline: str) -> Figure:
    """Scores against a cost; `front` are places of the dots that no other beats, joined in this order by steps."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    handles: list[Artist] = []
    for status, marker in MARKERS.items():
        own = [(dot.cost, dot.score) for dot in dots if dot.status == status]
        if own:
            handles += axis.plot(
                *zip(*own, strict=True),
                marker=marker,
                color=COLORS[status],
                linestyle="",
                alpha=0.7,
                label=status,
            )
    best = [dots[place] for place in front]
    steps = [(dot.cost, dot.score) for dot in best]
    if steps:
        handles += axis.plot(
            *zip(*steps, strict=True),
            color="tab:orange",
            drawstyle="steps-post",
            zorder=1,
            label="Pareto front",
        )
    for dot, step in zip(best, steps, strict=True):
        axis.annotate(plain(dot.mark), step, (5, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel=cost, ylabel=f"best {headline} (%)")
    costs = sorted({dot.cost for dot in dots})
    if spans_orders(costs):
        axis.set_xscale("log")
        number_logarithm(axis.xaxis, costs)
    elif len(costs) <= _MOST_TICKS and all(float(cost).is_integer() for cost in costs):
        axis.set_xticks(costs)
    axis.grid(alpha=0.3)
    names = [f"{dot.mark}  {dot.name}" for dot in best[:_MOST_NAMES]]
    if len(best) > _MOST_NAMES:
        names.append(f"and {len(best) - _MOST_NAMES} more")
    legend(figure, [*handles, *map(_nameless, names)], "outside right upper")
    return figure


def _nameless(name: str) -> Artist:
    return Line2D([], [], linestyle="", label=name)
