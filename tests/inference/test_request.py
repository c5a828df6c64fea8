"""Bounds of a request to a served model: rows, bytes and pixels."""

import base64
import io

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from factories import checkpoint, photograph
from hostile_pictures import HOSTILE
from memory import run_limited
from PIL import Image

from pipeline.inference import request
from pipeline.inference.pyfunc import ServedModel
from pipeline.inference.request import check_body

PARQUET = "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("served") / "checkpoint"
    checkpoint(folder)
    return ServedModel(folder)


def encoded(kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, kind)
    return file.getvalue()


def table(*images: object) -> pd.DataFrame:
    return pd.DataFrame({"image": list(images)})


def refused(served: ServedModel, asked: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        served.predict(asked)


def test_a_request_at_the_bounds_is_answered(served, monkeypatch):
    data = encoded()
    monkeypatch.setattr(request, "MOST_ROWS", 2)
    monkeypatch.setattr(request, "MOST_BYTES", 2 * len(data))
    monkeypatch.setattr(request, "MOST_PIXELS_IN_ALL", 2 * 32_000)
    assert len(served.predict(table(data, data))) == 2
    refused(served, table(data, data, data), "^a request of 3 rows, expected at most 2$")
    monkeypatch.setattr(request, "MOST_BYTES", 2 * len(data) - 1)
    refused(served, table(data, data), "^images of .* bytes in all, expected at most ")
    monkeypatch.setattr(request, "MOST_BYTES", 2 * len(data))
    monkeypatch.setattr(request, "MOST_PIXELS_IN_ALL", 2 * 32_000 - 1)
    refused(served, table(data, data), "^row 1: images of 64,000 pixels in all, expected at most ")


def test_images_in_base64_count_by_their_letters(served, monkeypatch):
    text = base64.b64encode(encoded()).decode()
    monkeypatch.setattr(request, "MOST_BYTES", len(text) - 1)
    refused(served, table(text), rf"^images of {len(text):,} bytes in all, expected at most ")


@pytest.mark.parametrize("name", HOSTILE)
def test_an_image_that_states_too_many_pixels_is_refused_by_row(served, name):
    refused(served, table(encoded(), HOSTILE[name]), r"^row 1: (an image of|not a readable image)")


def parquet(*images: bytes, repeats: int = 1) -> bytes:
    """Make a table that states its images `repeats` times, and holds them once."""
    rows = pyarrow.array(list(range(len(images))) * repeats)
    column = pyarrow.DictionaryArray.from_arrays(rows, pyarrow.array(images))
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": column}), file, store_schema=False)
    return file.getvalue()


def test_names_of_columns_in_parquet_that_are_no_utf_8_are_left_to_the_servers_reader():
    file = io.BytesIO()
    pd.DataFrame({"column": [1]}).to_parquet(file)
    check_body(file.getvalue().replace(b"column", b"\xff" * 6), "application/vnd.apache.parquet")


def test_a_request_in_parquet_of_few_images_is_passed_on():
    check_body(parquet(encoded(), encoded("PNG")), PARQUET)
    check_body(b"no Parquet", PARQUET)
    check_body(b"{}", "application/json; charset=utf-8")


@pytest.mark.parametrize(("rows", "message"), [(1025, "1,025 rows"), (1000, "bytes in all")])
def test_a_request_in_parquet_that_repeats_an_image_is_refused(rows, message):
    body = parquet(b"x" * 100_000, repeats=rows)
    assert len(body) < 1_000_000
    for kind in (PARQUET, f"{PARQUET}; charset=utf-8"):
        with pytest.raises(ValueError, match=message):
            check_body(body, kind)


UNFOLDED = """
import sys
import pyarrow.parquet
from memory import limit_memory
from pipeline.inference.request import check_body

body = open(sys.argv[1], "rb").read()
limit_memory(300 * 2**20)
try:
    check_body(body, "application/vnd.apache.parquet")
except ValueError as error:
    print(error)
"""


def test_a_request_in_parquet_is_refused_without_the_memory_of_its_table(tmp_path):
    # In memory it has 20,000 times 50 kB.
    image = b"".join(number.to_bytes(4, "big") for number in range(12_500))
    (tmp_path / "body").write_bytes(parquet(image, repeats=20_000))
    assert (tmp_path / "body").stat().st_size < 100_000
    [message] = run_limited(UNFOLDED, str(tmp_path / "body"))
    assert message == "a request of 20,000 rows, expected at most 1,024"
