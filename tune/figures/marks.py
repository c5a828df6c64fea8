"""What the pictures of a sweep have in common: marks of a trial's end, legends, logarithmic axes."""

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

Place = Literal["outside right upper", "outside lower center"]
MARKERS = {"finished": "o", "stopped": "v", "unfinished": "s", "failed": "X"}
COLORS = {
    "finished": "tab:blue",
    "stopped": "tab:cyan",
    "unfinished": "tab:gray",
    "failed": "tab:red",
}
# From this ratio of the largest to the smallest on, as in figures of single settings.
_LOG_RATIO = 20


def spans_orders(values: Sequence[float]) -> bool:
    """Whether values are better seen on a logarithmic axis, and can be."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) >= _LOG_RATIO


def number_logarithm(axis: Axis, values: Sequence[float]) -> None:
    """Put plain numbers to a logarithmic axis, as many as there is room for."""
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Artist], place: Place, columns: int = 1) -> None:
    """Add a legend outside the axes."""
    labels = [plain(str(handle.get_label())) for handle in handles]
    figure.legend(handles, labels, loc=place, ncols=columns, fontsize=8)


def plain(text: str) -> str:
    """A text of which no part is taken for a formula."""
    return text.replace("$", r"\$")
