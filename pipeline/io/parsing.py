"""Strict reading of JSON and TOML: errors name the field, the value and what was expected."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
# Of an image or a category: 1, "1" and 1.0 are one and the same.
Identifier = int | str


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error on an unknown word: the closest known one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def composed(name: str) -> str:
    """Return a name in Unicode's composed form: file systems and archives mix both forms."""
    return unicodedata.normalize("NFC", name)


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that differs in case and Unicode form alone, else the closest one."""
    folded = {composed(other).casefold(): other for other in known}
    wanted = composed(name).casefold()
    close = [wanted] if wanted in folded else difflib.get_close_matches(wanted, folded, n=1)
    return folded[close[0]] if close else None


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


def identifier_of(value: Any, where: str) -> Identifier:
    """Return an id, whole numbers as int even if written as text or with a point.

    Raises ValueError unless it is a whole number or a text that is not empty.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip():
        word = value.strip()
        return int(float(word)) if re.fullmatch(r"\d{1,15}(\.0*)?", word) else word
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where} must be a number or a name, got {value!r:.80}")
    return value
