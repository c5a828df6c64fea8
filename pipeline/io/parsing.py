"""Strict reading of JSON and TOML: errors name the field, the value and what was expected."""

import difflib
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error on an unknown word: the closest known one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def fields_of(
    value: Any, where: str, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return a table of fields. Raises ValueError if a field is unknown or absent."""
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


def items_of(value: Any, where: str, read: Callable[[Any, str], Item]) -> tuple[Item, ...]:
    """Read each item of a list with `read(item, where)`. Raises ValueError if it is no list."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {value!r:.80}")
    return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(value))


def text_of(value: Any, where: str) -> str:
    """Return a string. Raises ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a string, got {value!r:.80}")
    return value


def number_of(value: Any, where: str) -> float:
    """Return a number. Raises ValueError for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number, got {value!r:.80}")
    return float(value)
