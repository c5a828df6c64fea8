"""Strict reading of JSON, TOML and XML: errors name the field, the value and what was expected."""

import difflib
import json
import math
import re
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, TypeVar
from xml.etree import ElementTree
from xml.parsers import expat

from pipeline.io.text import briefly

Item = TypeVar("Item")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
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


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON. Raises ValueError naming `where`, also for nesting too deep to parse.

    Lone surrogates are refused, but for those by which Python represents the bytes of a file's name
    that is no UTF-8: only these can be written again.
    """
    try:
        # json would let halves pass that are no escapes.
        text = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
        content = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
        return content
    except RecursionError:
        raise ValueError(f"{where}: not readable as JSON: nested too deeply") from None
    # UnicodeError and json's own are such, and so is that on numbers of too many digits.
    except ValueError as error:
        raise ValueError(f"{where}: not readable as JSON: {briefly(error)}") from error


def parse_toml(text: bytes, where: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError naming `where`, also for nesting too deep to parse."""
    try:
        return tomllib.loads(text.decode())
    except RecursionError:
        raise ValueError(f"{where}: not readable as TOML: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{where}: not readable as TOML: {briefly(error)}") from error


def parse_xml(data: bytes, where: str) -> ElementTree.Element:
    """Parse XML without a document type, whose entities can unfold.

    Raises ValueError naming `where`.
    """

    def refuse(*_: object) -> None:
        raise ValueError("expected no DOCTYPE, nor entities")

    # Found by the parser, since the text may be in any encoding.
    first = expat.ParserCreate()
    first.StartDoctypeDeclHandler = refuse
    try:
        first.Parse(data, True)
        return ElementTree.fromstring(data)
    # LookupError: of an encoding that Python does not know.
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{where}: not readable as XML: {briefly(error)}") from error


def fields_of(
    value: Any, where: str, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return a table of fields. Raises ValueError if a field is unknown or absent."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table of fields, got {_shown(value)}")
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
        raise ValueError(f"{where} must be a list, got {_shown(value)}")
    return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(value))


def text_of(value: Any, where: str) -> str:
    """Return a string. Raises ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a string, got {_shown(value)}")
    return value


def number_of(value: Any, where: str) -> float:
    """Return a finite number. Raises ValueError for anything else, booleans included."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise ValueError(f"{where} must be a finite number, got {_shown(value)}")


def whole_of(value: Any, where: str, least: int = 0, most: int = 2**63 - 1) -> int:
    """Return a whole number within bounds. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    is_above = isinstance(value, int) and value > most
    bound = f"at most {most}" if is_above else f"at least {least}"
    raise ValueError(f"{where} must be a whole number of {bound}, got {_shown(value)}")


def table_of(value: Any, where: str, read: Callable[[Any, str], Item]) -> dict[str, Item]:
    """Read each value of a table with `read(value, where)`. Raises ValueError if it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table of fields, got {_shown(value)}")
    return {key: read(item, f"{where}.{key}") for key, item in value.items()}


def _shown(value: Any) -> str:
    """Show the beginning of a value, also of a number with more digits than Python writes."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


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
        raise ValueError(f"{where} must be a number or a name, got {_shown(value)}")
    return value
