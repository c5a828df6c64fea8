"""Charts, each a function from arrays to a matplotlib Figure; callers save or log them."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.evaluation.metrics import THRESHOLDS, JointCounts, Scores

# The end of losses that fall by this ratio is visible on a logarithmic axis only.
_LOG_RATIO = 5


def curves(
    history: Mapping[str, Sequence[tuple[int, float]]], metric: str, headline: str
) -> Figure:
    """Draw loss and the primary `metric` titled `headline`; `history` has (epoch, value) pairs.

    Losses of about the same size have a linear axis, whose numbers can be read.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        if history.get(name):
            losses.plot(*zip(*history[name], strict=True), marker=".", label=name)
    values = [float(value) for line in losses.lines for value in line.get_ydata()]
    is_wide = bool(values) and 0 < _LOG_RATIO * min(values) <= max(values)
    scale = "log" if is_wide else "linear"
    losses.set(xlabel="epoch", ylabel="loss (sum over stacks)", yscale=scale)
    losses.legend()
    if history.get(metric):
        accuracy.plot(*zip(*history[metric], strict=True), marker=".", color="tab:green")
    accuracy.set(xlabel="epoch", ylabel=f"{headline} (%)", ylim=(0, 100))
    for axis in (losses, accuracy):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    return figure


def joint_bars(result: Scores) -> Figure:
    """Draw each joint's percentage at the first threshold, and the pooled mean as a line."""
    threshold = result.measure.thresholds[0]
    values = result.joints[threshold]
    figure = Figure(figsize=(7, 0.28 * len(values) + 1.2), layout="constrained")
    axis = figure.subplots()
    axis.barh(list(values), list(values.values()), color="tab:blue")
    pooled = result.pooled[threshold]
    axis.axvline(pooled, color="tab:red", label=f"pooled {pooled:.1f}")
    axis.invert_yaxis()
    axis.set(xlabel=f"{result.measure.title_at(threshold)} (%)", xlim=(0, 100))
    # Bars reach to every corner.
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


def threshold_curve(counts: JointCounts, result: Scores) -> Figure:
    """Draw the pooled percentage of correct joints against the threshold."""
    measure = result.measure
    members = list(result.joint_set.in_mean)
    pooled = counts.correct[:, members].sum(axis=1) / counts.annotated[members].sum()
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis = figure.subplots()
    xlabel, limits = f"threshold (share of {measure.title}'s normaliser)", (0.0, 0.5)
    if measure.is_similarity:
        xlabel, limits = "threshold (similarity of a joint)", (1.0, 0.5)
    axis.plot(1 - THRESHOLDS if measure.is_similarity else THRESHOLDS, 100 * pooled)
    axis.set(
        xlabel=xlabel,
        ylabel=f"{measure.title} (%), AUC {result.auc:.1f}",
        xlim=limits,
        ylim=(0, 100),
    )
    axis.grid(alpha=0.3)
    return figure
