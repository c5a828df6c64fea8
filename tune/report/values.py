"""Values, numbers and messages of a sweep as people read them: short, on one line, without secrets."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pipeline.io.redaction import redacted


def shown(value: Any) -> str:
    """A setting's value as the command line takes it: `true`, `0.00025`, `1 2 4`; `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.8g}"
    if isinstance(value, list | tuple):
        return " ".join(shown(item) for item in value)
    return one_line(str(value))


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: float, digits: int) -> str:
    """A number with so many digits after the point, thousands apart; empty if it is not known."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else ""


def one_line(text: str) -> str:
    """A text without line breaks and secrets."""
    return " ".join(redacted(text).split())


def as_html(text: str) -> str:
    """A text to stand in a page, in quotes too: escaped, and without secrets."""
    return escape(redacted(text))


def shortened(text: str, letters: int) -> str:
    """A text of at most so many letters: its middle gives way, since names begin and end apart."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


def clipped(text: str, letters: int) -> str:
    """A text of at most so many letters: its end gives way, since a message begins with what is wrong."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def last_line(error: str) -> str:
    """The line of an error that says most, which is a traceback's last."""
    lines = [line for line in error.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, where no other key ends alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def identity(value: Any) -> float | str:
    """What is equal for equal values of a setting, lists among them, and for no others.

    True, which is 1 to Python, is no number here, and NaN equals itself.
    """
    return float(value) if is_number(value) else repr(value)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Values without repetitions, in the order in which they come."""
    found: dict[float | str, Any] = {}
    for value in values:
        found.setdefault(identity(value), value)
    return list(found.values())
