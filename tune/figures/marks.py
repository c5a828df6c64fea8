"""Parts that the figures of a sweep share: marks by status, legends, logarithmic axes."""

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
# Smallest ratio of the largest value to the smallest that needs a logarithmic axis.
_LOG_RATIO = 20


def spans_orders(values: Sequence[float]) -> bool:
    """Tell whether values need a logarithmic axis, and can have one."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) >= _LOG_RATIO


def number_logarithm(axis: Axis, values: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, as many as fit."""
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Artist], place: Place, columns: int = 1) -> None:
    """Add a legend outside the axes."""
    labels = [plain(str(handle.get_label())) for handle in handles]
    figure.legend(handles, labels, loc=place, ncols=columns, fontsize=8)


def plain(text: str) -> str:
    """Escape a text so that matplotlib reads no part of it as a formula."""
    return text.replace("$", r"\$")
