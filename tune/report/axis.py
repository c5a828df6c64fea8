"""Where the values of a setting lie on a figure's axis: numbers in their places, others side by side."""

from collections.abc import Sequence
from typing import Any

from tune.report.values import distinct, identity, is_number, shortened, shown

_WORD_LETTERS = 18
# More values than this are not laid side by side.
_MOST_WORDS = 8


def axis_values(values: Sequence[Any]) -> tuple[list[float | str], list[str]]:
    """Values as they lie on an axis, and its words in order; no words if it is one of numbers.

    A few numbers of which some are zero or negative have no logarithm, and
    become words as well: side by side each can be told from the others.
    """
    numeric = all(map(is_number, values))
    if numeric and (min(values, default=1) > 0 or len(set(values)) > _MOST_WORDS):
        return [float(value) for value in values], []
    known = distinct(values)
    # Python's sort keeps the order of what is no number.
    known.sort(key=lambda value: (not is_number(value), value if is_number(value) else 0))
    texts = _apart([shown(value) for value in known])
    text_of = {identity(value): text for value, text in zip(known, texts, strict=True)}
    return [text_of[identity(value)] for value in values], texts


def _apart(texts: Sequence[str]) -> list[str]:
    """Texts shortened as far as they stay different."""
    short = [shortened(text, _WORD_LETTERS) for text in texts]
    return short if len(set(short)) == len(set(texts)) else list(texts)
