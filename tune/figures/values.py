"""Accuracy of a sweep's trials against the values of one setting."""

from collections.abc import Sequence

from matplotlib.figure import Figure

# What fits below the figure: values one by one, and letters in a row.
_MOST_NAMED, _WORDS_LETTERS = 12, 50


def trials_against(
    name: str, values: Sequence[float | str], accuracy: Sequence[float], headline: str
) -> Figure:
    """Accuracy of a sweep's trials against one setting; the line joins the best of each value.

    Values that are words or truths lie side by side, in the order in which they come.
    Where there are too many values to name each, nothing is joined.
    """
    words = list(dict.fromkeys(str(value) for value in values if isinstance(value, str | bool)))
    places = [words.index(str(value)) if words else float(value) for value in values]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(places, accuracy, "o", color="tab:blue", alpha=0.7, label="trial")
    best = {
        place: max(a for p, a in zip(places, accuracy, strict=True) if p == place)
        for place in sorted(set(places))
    }
    few = len(best) <= _MOST_NAMED
    if few:
        axis.plot(list(best), list(best.values()), "-", color="tab:orange", label="best")
    axis.set(xlabel=name, ylabel=f"best {headline} (%)")
    if words:
        lengthy = sum(map(len, words)) > _WORDS_LETTERS
        axis.set_xticks(range(len(words)), words, rotation=90 if lengthy else 0, parse_math=False)
    elif len(best) > 1 and min(best) > 0 and max(best) / min(best) >= 20:
        axis.set_xscale("log")
    elif few:
        axis.set_xticks(list(best), [f"{place:g}" for place in best])
    axis.grid(alpha=0.3)
    # The search for a place among the trials takes long enough on a busy machine to be warned of.
    figure.legend(loc="outside upper right", ncols=2)
    return figure
