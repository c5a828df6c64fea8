"""How a sweep's trials learned."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from tune.figures.marks import COLORS, MARKERS, legend, number_logarithm

# People tell no more curves apart by color.
_MOST_CURVES = 8
# The end of losses that fall by this ratio is visible on a logarithmic axis only.
_LOG_RATIO = 5


@dataclass(frozen=True, kw_only=True)
class Course:
    """A trial's course: (training samples seen, value) by metric."""

    name: str
    status: str
    history: Mapping[str, Sequence[tuple[int, float]]]


def learning_curves(courses: Sequence[Course], metrics: Mapping[str, str]) -> Figure:
    """Draw a panel for each metric, with each trial's values over the training samples seen.

    `metrics` maps metrics to titles. The first few trials have colors and
    names, the others are gray. A mark shows why an unfinished trial ended.
    Values that are not finite are left out.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, (metric, title) in zip(panels, metrics.items(), strict=True):
        for place, course in reversed(list(enumerate(courses))):
            _draw_course(panel, place, course, metric)
        panel.set(xlabel="training samples seen", ylabel=title)
        panel.xaxis.set_major_formatter(EngFormatter())
        panel.grid(alpha=0.3)
        values = [float(value) for line in panel.lines for value in line.get_ydata()]
        if not values:
            panel.text(0.5, 0.5, "no values", ha="center", transform=panel.transAxes)
        elif metric.endswith("loss") and 0 < _LOG_RATIO * min(values) <= max(values):
            panel.set_yscale("log")
            number_logarithm(panel.yaxis, values)
    legend(figure, list(_course_handles(courses)), "outside lower center", 3)
    return figure


def _draw_course(panel: Axes, place: int, course: Course, metric: str) -> None:
    points = [point for point in course.history.get(metric, ()) if math.isfinite(point[1])]
    if not points:
        return
    color = _course_color(place)
    panel.plot(*zip(*points, strict=True), ".-", color=color, markersize=4, linewidth=1.2)
    if course.status != "finished":
        marker, color = MARKERS[course.status], _end_color(course.status, color)
        panel.plot(*points[-1], marker=marker, color=color, linestyle="", markersize=7)


def _course_color(place: int) -> str:
    return f"C{place}" if place < _MOST_CURVES else "lightgray"


def _end_color(status: str, color: str) -> str:
    return COLORS["failed"] if status == "failed" else color


def _course_handles(courses: Sequence[Course]) -> Iterator[Artist]:
    drawn = [(place, c) for place, c in enumerate(courses) if any(c.history.values())]
    for place, course in drawn:
        if place < _MOST_CURVES:
            yield Line2D([], [], color=_course_color(place), label=course.name)
    others = sum(place >= _MOST_CURVES for place, _ in drawn)
    if others:
        yield Line2D([], [], color="lightgray", label=f"{others} other{'s' * (others > 1)}")
    for status in ("stopped", "unfinished", "failed"):
        if any(course.status == status for _, course in drawn):
            color, label = _end_color(status, "black"), f"ended here: {status}"
            yield Line2D([], [], marker=MARKERS[status], color=color, linestyle="", label=label)
