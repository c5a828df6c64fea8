"""Text from outside, such as names of files, for a terminal and for tables."""

import re

from pipeline.io.redaction import redacted

# Controls (ESC begins a terminal's commands), marks that turn the direction of writing, and
# surrogates, which stand for bytes that are no UTF-8 in names of files. Tab and newline are none.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Letters of a library's error. They may quote a header of 64 kB, or the whole answer of a server.
_LONGEST_REASON = 1000
# Spreadsheets take cells that begin so for formulas.
_BLANK = " \u00a0\u3000\u200b\ufeff"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def visible(text: str) -> str:
    """Return text with characters that would act on a terminal as escapes, such as `\\x1b`."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return visible text without line ends: a name can't pass for another line."""
    return visible(text).replace("\n", "\\n")


def briefly(error: object) -> str:
    """Return the beginning of a library's error in one line, without secrets."""
    # What is cut off later could be half a secret.
    text = re.sub(r"\s*\n\s*", " ", redacted(str(error)[: 50 * _LONGEST_REASON]))
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."


def csv_cell(value: object) -> object:
    """Return a cell of a table: text that a spreadsheet would compute begins with `'`."""
    if not isinstance(value, str):
        return value
    acts = value.lstrip(_BLANK).startswith(_FORMULA)
    return f"'{visible(value)}" if acts else visible(value)
