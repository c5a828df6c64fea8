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

# As many as people tell apart by color.
_MOST_CURVES = 8
# Losses that fall by this ratio are seen at their end on a logarithmic axis only.
_LOG_RATIO = 5


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a trial learned: (training samples seen, value) by metric."""

    name: str
    status: str
    history: Mapping[str, Sequence[tuple[int, float]]]


def learning_curves(courses: Sequence[Course], metrics: Mapping[str, str]) -> Figure:
    """A panel a metric, titled by `metrics`: each trial's values over the training samples that it has seen.

    The first few trials have colors and names, the others are gray. Where one
    that is not finished ends, a mark says why. What is not finite is left out.
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
        elif (
            metric.endswith("loss") and min(values) > 0 and max(values) >= _LOG_RATIO * min(values)
        ):
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
        panel.plot(
            *points[-1],
            marker=MARKERS[course.status],
            color=_end_color(course.status, color),
            linestyle="",
            markersize=7,
        )


def _course_color(place: int) -> str:
    return f"C{place}" if place < _MOST_CURVES else "lightgray"


def _end_color(status: str, color: str) -> str:
    return COLORS["failed"] if status == "failed" else color


def _course_handles(courses: Sequence[Course]) -> Iterator[Artist]:
    drawn = [
        (place, course) for place, course in enumerate(courses) if any(course.history.values())
    ]
    for place, course in drawn:
        if place < _MOST_CURVES:
            yield Line2D([], [], color=_course_color(place), label=course.name)
    others = sum(place >= _MOST_CURVES for place, _ in drawn)
    if others:
        yield Line2D([], [], color="lightgray", label=f"{others} other{'s' * (others > 1)}")
    for status in ("stopped", "unfinished", "failed"):
        if any(course.status == status for _, course in drawn):
            yield Line2D(
                *([], []),
                marker=MARKERS[status],
                color=_end_color(status, "black"),
                linestyle="",
                label=f"ended here: {status}",
            )
