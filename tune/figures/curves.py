"""How a sweep's trials learned."""

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from tune.figures.marks import COLORS, MARKERS, legend, number_logarithm
from tune.outcome import TrialOutcome

# People tell no more curves apart by color.
_MOST_CURVES = 8
# The end of losses that fall by this ratio is visible on a logarithmic axis only.
_LOG_RATIO = 5
# Of the marks at the ends of curves; others have their curve's.
_END_COLORS = {"failed": COLORS["failed"]}


def learning_curves(trials: Sequence[TrialOutcome], metrics: Mapping[str, str]) -> Figure:
    """Draw a panel for each metric, with each trial's values over the training samples seen.

    `metrics` maps metrics to titles. The first few trials have colors and names, the others are
    gray. A mark shows why an unfinished trial ended. Values that are not finite are left out.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, (metric, title) in zip(panels, metrics.items(), strict=True):
        for place, trial in reversed(list(enumerate(trials))):
            _draw_course(panel, place, trial, metric)
        panel.set(xlabel="training samples seen", ylabel=title)
        panel.xaxis.set_major_formatter(EngFormatter())
        panel.grid(alpha=0.3)
        values = [float(value) for line in panel.lines for value in line.get_ydata()]
        if not values:
            panel.text(0.5, 0.5, "no values", ha="center", transform=panel.transAxes)
        elif metric.endswith("loss") and 0 < _LOG_RATIO * min(values) <= max(values):
            panel.set_yscale("log")
            number_logarithm(panel.yaxis, values)
    legend(figure, list(_course_handles(trials)), "outside lower center", 3)
    return figure


def _draw_course(panel: Axes, place: int, trial: TrialOutcome, metric: str) -> None:
    points = [point for point in trial.history.get(metric, ()) if math.isfinite(point[1])]
    if not points:
        return
    color = _course_color(place)
    panel.plot(*zip(*points, strict=True), ".-", color=color, markersize=4, linewidth=1.2)
    if trial.status != "finished":
        marker, color = MARKERS[trial.status], _END_COLORS.get(trial.status, color)
        panel.plot(*points[-1], marker=marker, color=color, linestyle="", markersize=7)


def _course_color(place: int) -> str:
    return f"C{place}" if place < _MOST_CURVES else "lightgray"


def _course_handles(trials: Sequence[TrialOutcome]) -> Iterator[Artist]:
    drawn = [(place, trial) for place, trial in enumerate(trials) if any(trial.history.values())]
    for place, trial in drawn:
        if place < _MOST_CURVES:
            yield Line2D([], [], color=_course_color(place), label=trial.name)
    others = sum(place >= _MOST_CURVES for place, _ in drawn)
    if others:
        yield Line2D([], [], color="lightgray", label=f"{others} other{'s' * (others > 1)}")
    for status in ("stopped", "unfinished", "failed"):
        if any(trial.status == status for _, trial in drawn):
            color, label = _END_COLORS.get(status, "black"), f"ended here: {status}"
            yield Line2D([], [], marker=MARKERS[status], color=color, linestyle="", label=label)
