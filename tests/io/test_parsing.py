"""Halves of characters (surrogates) in JSON: none is read that could not be written again."""

import re

import pytest

from pipeline.data.formats.annotations import read_json
from pipeline.data.shards.index import Index
from pipeline.io.parsing import parse_json
from pipeline.run.metadata import read_metadata


@pytest.mark.parametrize(
    "half", [b"\\ud800", b"\\uDBFF", b"\\udc00", b"\\uDC7f", b"\\udd00", b"\xed\xa0\x80"]
)
@pytest.mark.parametrize("place", [b'{"a": ["x%s"]}', b'{"a": {"x%s": 1}}'])
def test_half_a_character_is_refused_wherever_it_stands(half, place):
    with pytest.raises(ValueError, match=r"^a\.json: not readable as JSON: 'utf-8' codec"):
        parse_json(place % half, "a.json")


@pytest.mark.parametrize("read", [read_json, Index.at, lambda path: read_metadata(path.parent)])
def test_every_reader_of_json_names_the_file(tmp_path, read):
    for name in ("index.json", "checkpoint.json"):
        path = tmp_path / name
        path.write_text('{"a": "\\ud800"}')
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path}")):
            read(str(path) if read == Index.at else path)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        # The byte 0xff of a file's name, as Python writes it.
        (b'"\\udcff.jpg"', "\udcff.jpg"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'\xef\xbb\xbf"a"', "a"),
        ('"é"'.encode("utf-16"), "é"),
    ],
)
def test_whole_characters_and_names_of_files_are_read(text, read):
    assert parse_json(text, "a.json") == read
