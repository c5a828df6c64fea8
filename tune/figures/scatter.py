"""Scores of a sweep's trials against a setting, or against what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tune.figures.marks import COLORS, MARKERS, legend, number_logarithm, plain, spans_orders

# Trials of the Pareto front whose names fit beside the axes.
_MOST_NAMES = 12
# Up to this many counted costs, such as stacks, have a tick each.
_MOST_TICKS = 8
# Up to this many values of a setting are named and joined.
_MOST_VALUES = 12
# Letters of all words that fit below the axis in a row.
_WORDS_LETTERS = 50


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A trial with a score: its `mark` beside the front, and its `name` in the legend."""

    mark: str
    name: str
    status: str
    cost: float
    score: float


def scores_against(dots: Sequence[Dot], front: Sequence[int], cost: str, headline: str) -> Figure:
    """Draw scores against a cost; steps join the dots at the indices `front`, in this order."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    handles: list[Artist] = []
    for status, marker in MARKERS.items():
        own = [(dot.cost, dot.score) for dot in dots if dot.status == status]
        if own:
            x, y = zip(*own, strict=True)
            handles += axis.plot(x, y, marker, color=COLORS[status], alpha=0.7, label=status)
    best = [dots[place] for place in front]
    steps = [(dot.cost, dot.score) for dot in best]
    if steps:
        x, y = zip(*steps, strict=True)
        handles += axis.step(x, y, where="post", color="tab:orange", zorder=1, label="Pareto front")
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
    handles += [Line2D([], [], linestyle="", label=name) for name in names]
    legend(figure, handles, "outside right upper")
    return figure


def trials_against(
    name: str, values: Sequence[float | str], scores: Sequence[float], headline: str
) -> Figure:
    """Draw scores against one setting, with a line that joins the best of each value.

    Words and truth values lie side by side, in the order in which they come. If
    there are too many values to name each, no line is drawn.
    """
    words = list(dict.fromkeys(str(value) for value in values if isinstance(value, str | bool)))
    places = [words.index(str(value)) if words else float(value) for value in values]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(places, scores, "o", color="tab:blue", alpha=0.7, label="trial")
    best: dict[float, float] = {}
    for place, score in sorted(zip(places, scores, strict=True)):
        best[place] = score
    has_names = len(best) <= _MOST_VALUES
    if has_names:
        axis.plot(list(best), list(best.values()), "-", color="tab:orange", label="best")
    axis.set(xlabel=name, ylabel=f"best {headline} (%)")
    if words:
        is_long = sum(map(len, words)) > _WORDS_LETTERS
        axis.set_xticks(range(len(words)), words, rotation=90 if is_long else 0, parse_math=False)
    elif spans_orders(list(best)):
        axis.set_xscale("log")
    elif has_names:
        axis.set_xticks(list(best), [f"{place:g}" for place in best])
    axis.grid(alpha=0.3)
    # loc="best" would be slow enough on a busy machine for matplotlib to warn.
    figure.legend(loc="outside upper right", ncols=2)
    return figure
