"""Strict reading of plain data, as JSON and TOML give it: errors say where, what, and what was expected."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the known one that is close, if any."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def fields_of(
    value: Any, where: str, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return a mapping by name. Raises ValueError naming a field that is unknown or absent."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table of fields, got {value!r:.80}")
    known = [*required, *optional]
    for name in value:
        if name not in known:
            raise ValueError(f"{where}: unknown field {name!r}{did_you_mean(str(name), known)}")
    for name in required:
        if name not in value:
            raise ValueError(f"{where}: field {name!r} is absent")
    return value


def items_of(value: Any, where: str) -> list[Any]:
    """Return a list. Raises ValueError naming place and value."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {value!r:.80}")
    return value


def text_of(value: Any, where: str) -> str:
    """Return a text. Raises ValueError naming place and value."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, got {value!r:.80}")
    return value


def number_of(value: Any, where: str) -> float:
    """Return a number. Raises ValueError naming place and value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number, got {value!r:.80}")
    return float(value)
