"""Values, numbers and messages as people read them: short, on one line, without secrets.

Also their positions on the axis of a figure.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.io.redaction import redacted

_WORD_LETTERS = 18
# More values than this are not laid side by side.
_MOST_WORDS = 8


def shown(value: Any) -> str:
    """Format a value as the command line takes it: `true`, `0.00025`, `1 2 4`; None is `-`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.8g}"
    if isinstance(value, list | tuple):
        return " ".join(shown(item) for item in value)
    return _one_line(str(value))


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: float, digits: int) -> str:
    """Format a number with `digits` decimals and thousands separators; not finite: empty."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else ""


def shortened(text: str, letters: int) -> str:
    """Cut a text to `letters` letters in its middle, since names differ at their ends."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


def clipped(text: str, letters: int) -> str:
    """Cut a text to `letters` letters at its end, since a message begins with what is wrong."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def last_line(error: str) -> str:
    """Return the last line of an error that is not blank: of a traceback the one that says most."""
    lines = [line for line in error.splitlines() if line.strip()]
    return _one_line(lines[-1]) if lines else ""


def _one_line(text: str) -> str:
    return " ".join(redacted(text).split())


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Shorten each dotted key to its last part, unless another key ends alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def distinct(values: Iterable[Any]) -> list[Any]:
    """Remove repeated values, lists among them, and keep the order of the others."""
    found: dict[float | str, Any] = {}
    for value in values:
        found.setdefault(_identity(value), value)
    return list(found.values())


def _identity(value: Any) -> float | str:
    # True, which equals 1 in Python, is no number here, and NaN equals itself.
    return float(value) if is_number(value) else repr(value)


def axis_values(values: Sequence[Any]) -> tuple[list[float | str], list[str]]:
    """Return values as an axis places them, and its words in order; none on an axis of numbers.

    A few numbers of which some are zero or negative have no logarithm, and
    become words too, so that each can be told from the others.
    """
    numeric = all(map(is_number, values))
    if numeric and (min(values, default=1) > 0 or len(set(values)) > _MOST_WORDS):
        return [float(value) for value in values], []
    known = distinct(values)
    # The sort is stable, so that values other than numbers keep their order.
    known.sort(key=lambda value: (not is_number(value), value if is_number(value) else 0))
    texts = [shown(value) for value in known]
    short = [shortened(text, _WORD_LETTERS) for text in texts]
    if len(set(short)) == len(set(texts)):
        texts = short
    text_of = {_identity(value): text for value, text in zip(known, texts, strict=True)}
    return [text_of[_identity(value)] for value in values], texts
