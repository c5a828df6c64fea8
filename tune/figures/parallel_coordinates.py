"""All settings of a sweep's trials side by side, with their scores."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tune.figures.marks import plain, spans_orders

# Axes of settings with no more values than this have a tick for each.
_MOST_TICKS = 8


def parallel_coordinates(
    settings: Mapping[str, tuple[Sequence[float | str], Sequence[str]]],
    scores: Sequence[float],
    headline: str,
) -> Figure:
    """Draw each trial as a line through its settings, an axis each, to its score.

    `settings` has by name the trials' values, and the axis's words in order if it is one of words.
    Darker is better. Numbers that span orders of magnitude have a logarithmic axis. Lines of trials
    without a score (NaN) are gray and end at the last setting.
    """
    known = list(filter(math.isfinite, scores))
    scales = [_Scale(values, words) for values, words in settings.values()]
    scales.append(_Scale(known, is_score=True))
    figure = Figure(figsize=(min(16, max(7, 2.5 + 1.6 * len(scales))), 4.6), layout="constrained")
    axis = figure.subplots()
    # Equal scores need a range too.
    norm = Normalize(min(known, default=0.0) - 0.01, max(known, default=0.0) + 0.01)
    colors = ScalarMappable(norm, "viridis_r")
    # The best comes last, on top of the others.
    tracks = zip(*(values for values, _ in settings.values()), scores, strict=True)
    for *values, score in sorted(tracks, key=lambda track: track[-1] if track[-1] in known else -1):
        places = [scale.place(value) for scale, value in zip(scales, [*values, score], strict=True)]
        axis.plot(
            places,
            color=colors.to_rgba(np.array(score)) if score in known else "lightgray",
            linewidth=2.5 if score == max(known, default=0.0) else 1.2,
            linestyle="-" if score in known else "--",
        )
    for number, scale in enumerate(scales):
        _draw_scale(axis, number, scale, is_last=number == len(settings))
    names = [*map(plain, settings), f"best {headline} (%)"]
    axis.set_xticks(range(len(scales)), names)
    axis.set(xlim=(-0.35, len(settings) + 0.3), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    figure.colorbar(colors, ax=axis, label=f"best {headline} (%)")
    return figure


class _Scale:
    """A mapping of values to positions on an axis from 0 to 1."""

    def __init__(
        self, values: Sequence[float | str], words: Sequence[str] = (), *, is_score: bool = False
    ) -> None:
        self._words = list(words)
        self._numbers = [value for value in values if not isinstance(value, str)]
        self._is_log = not is_score and spans_orders(self._numbers)
        moved = list(map(self._moved, self._numbers)) or [0.0]
        self._ends = (0.0, len(words) - 1.0) if words else (min(moved), max(moved))

    def place(self, value: float | str) -> float:
        """Return the position of a value; NaN for NaN."""
        first, last = self._ends
        moved = float(self._words.index(value)) if isinstance(value, str) else self._moved(value)
        if last == first:
            return math.nan if math.isnan(moved) else 0.5
        return (moved - first) / (last - first)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the positions and labels of the ticks."""
        if self._words:
            step = -(-len(self._words) // (2 * _MOST_TICKS))
            return [(self.place(word), word) for word in self._words[::step]]
        if len(set(self._numbers)) <= _MOST_TICKS:
            return [(self.place(number), f"{number:.4g}") for number in sorted(set(self._numbers))]
        first, last = self._ends
        marks = [first + share * (last - first) for share in (0, 0.25, 0.5, 0.75, 1)]
        return [
            ((mark - first) / (last - first), f"{10**mark if self._is_log else mark:.3g}")
            for mark in marks
        ]

    def _moved(self, number: float) -> float:
        return math.log10(number) if self._is_log else float(number)


def _draw_scale(axis: Axes, number: int, scale: _Scale, *, is_last: bool) -> None:
    axis.axvline(number, color="black", linewidth=0.8)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    side, at = ("left", number + 0.03) if is_last else ("right", number - 0.03)
    for place, text in scale.ticks():
        axis.text(at, place, plain(text), fontsize=8, ha=side, va="center", bbox=behind)
