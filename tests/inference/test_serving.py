"""The served model's errors: a sentence with status 400, whatever the request."""

import importlib
import io
import json
import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

import pipeline.tracking.models  # noqa: F401  it imports mlflow.pyfunc without its warnings
from pipeline.inference.serving import SERVER, answering, guard_server

scoring_server = importlib.import_module(SERVER)
DEEP = b'{"dataframe_records": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


class Model:
    """Model that raises `error`."""

    metadata = SimpleNamespace(get_input_schema=lambda: None)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict(self, data: object) -> None:
        raise self.error


def refusal_of(body: bytes, kind: str = "application/json", error: str = "") -> dict[str, str]:
    """Return the response to a request that is refused, after a check of its status."""
    answer = answering(scoring_server.invocations, MlflowException, BAD_REQUEST)
    with pytest.raises(MlflowException) as raised:
        answer(body, kind, Model(ValueError(error)), None)
    assert raised.value.get_http_status_code() == 400
    return json.loads(raised.value.serialize_as_json())


def test_json_nested_too_deeply_is_a_bad_request():
    assert refusal_of(DEEP)["message"] == "the request is nested too deeply"


def test_a_table_in_parquet_is_refused_before_it_is_read():
    file = io.BytesIO()
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1025), pyarrow.array([b"x"]))
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), file)
    said = refusal_of(file.getvalue(), "application/vnd.apache.parquet", "the model was asked")
    assert said["message"] == "a request of 1,025 rows, expected at most 1,024"


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b'{"dataframe_records": [{"image": "x"}]}', "application/json", "row 0: no image"),
        (b"image\nx\n", "text/csv", "row 0: no image"),
        (b'{"secret', "application/json", "Unterminated string"),
        (b'{"dataframe_split": 3}', "application/json", ""),
        (b"no parquet", "application/vnd.apache.parquet", ""),
    ],
)
def test_a_refusal_has_a_reason_and_neither_stack_nor_request(body, kind, said):
    response = refusal_of(body, kind, "row 0: no image")
    assert response["message"].startswith(said)
    assert response["message"]
    assert "stack_trace" not in response
    text = json.dumps(response)
    assert not any(word in text for word in ("Traceback", "File ", '{"secret'))


def test_only_a_server_in_this_process_answers_so(monkeypatch):
    before = scoring_server.invocations
    monkeypatch.setattr(scoring_server, "invocations", before)
    guard_server()
    assert scoring_server.invocations is before
    monkeypatch.setitem(sys.modules, f"{SERVER}.app", SimpleNamespace())
    guard_server()
    assert scoring_server.invocations.__wrapped__ is before
