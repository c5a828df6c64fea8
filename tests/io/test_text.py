"""Text from outside does not act: on a terminal, in a spreadsheet, or as another line."""

import pytest

from pipeline.io.console import aligned, fail, say, say_text
from pipeline.io.text import briefly, csv_cell, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;title\x07b", "a\\x1b]0;title\\x07b"),
        ("\x9b2J", "\\x9b2J"),
        ("all fine\rerror", "all fine\\rerror"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("not UTF-8 \udcff", "not UTF-8 \\udcff"),
        ("a\tb", "a\tb"),
        ("Füße 日本 é 😀", "Füße 日本 é 😀"),
    ],
)
def test_characters_that_act_on_a_terminal_are_shown_as_escapes(capsys, text, shown):
    assert visible(text) == shown
    say(text)
    with pytest.raises(SystemExit):
        fail(text)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{shown}\n", f"error: {shown}\n")


def test_a_name_is_no_second_line(capsys):
    name = "a.jpg\nerror: none"
    assert one_line(name) == "a.jpg\\nerror: none"
    say(name)
    say_text(aligned([("image", "people"), (name, "2")]))
    with pytest.raises(SystemExit):
        fail(name)
    printed = capsys.readouterr()
    table = "image               people\na.jpg\\nerror: none       2\n"
    assert printed.out == f"a.jpg\\nerror: none\n{table}"
    # Messages may have several lines; only the first begins at the left.
    assert printed.err == "error: a.jpg\n  error: none\n"


def test_an_error_that_quotes_much_is_cut_off_after_its_secrets_are_hidden():
    shown = briefly(ValueError("x" * 980 + " http://anna:secret" + "s" * 40 + "@host/ " + "y" * 99))
    assert shown == "x" * 980 + " http://***@host/ " + "yy ..."
    assert briefly("short") == "short"


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t", "\n=", "  =", "\uff1d", "\u00a0=", "\ufeff="]
)
def test_a_cell_that_a_spreadsheet_would_compute_is_text(start):
    assert csv_cell(f"{start}cmd|'/c calc'!A0").startswith("'")


@pytest.mark.parametrize("value", [-1.5, 3, None, "a=b.jpg", "photo-1.jpg", ""])
def test_other_cells_are_unchanged(value):
    assert csv_cell(value) == value
