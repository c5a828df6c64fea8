"""Images in the layout of the MLflow UI's image grid, and downloads."""

import json
import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline.tracking.artifacts import lay_out, log_file, log_folder, log_text
from pipeline.tracking.client import AwayError, RefusedError, mlflow_client
from pipeline.tracking.lookup import find_checkpoint
from pipeline.tracking.runs import Run
from pipeline.tracking.stores import remove_model, store_at


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "overlay.png"
    Image.new("RGB", (700, 350), "red").save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "laid").mkdir()
    return tmp_path / "laid"


def test_a_picture_has_the_names_that_mlflow_would_give_it(picture, folder, tmp_path, new_database):
    client = MlflowClient(new_database(tmp_path / "mlflow.db"))
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "theirs").as_uri())
    run = client.create_run(experiment).info.run_id
    with Image.open(picture) as opened:
        client.log_image(run, opened, key="overlays", step=3, timestamp=1700, synchronous=True)
    lay_out(picture, "overlays", 3, 1700, folder)
    logged = tmp_path / "theirs" / run / "artifacts" / "images"
    theirs = [re.sub(r"\+[0-9a-f-]{36}", "+ID", name) for name in names(logged)]
    ours = [re.sub(r"\+[0-9a-f-]{36}", "+ID", name) for name in names(folder)]
    assert theirs == [
        "overlays+step+3+timestamp+1700+ID+compressed.webp",
        "overlays+step+3+timestamp+1700+ID.png",
    ]
    assert ours == [theirs[0], theirs[1].replace(".png", ".webp")]
    assert client.get_run(run).data.tags["mlflow.loggedImages"] == "True"
    sizes = []
    for name in names(folder):
        with Image.open(folder / name) as shown:
            assert shown.format == "WEBP"
            sizes.append(shown.size)
    assert sizes == [(350, 175), (700, 350)]


def test_a_picture_that_is_sent_again_replaces_itself_and_no_other(picture, folder):
    lay_out(picture, "overlays", 3, 1700, folder)
    lay_out(picture, "overlays", 3, 1700, folder)
    assert len(names(folder)) == 2
    lay_out(picture, "overlays", 3, 1701, folder)
    lay_out(picture, "overlays", 4, 1701, folder)
    assert len(names(folder)) == 6


@pytest.mark.parametrize("kept", [0, 20, -100])
def test_a_file_that_is_no_picture_is_an_error_that_names_it(picture, folder, kept):
    picture.write_bytes(picture.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"overlay\.png is not a picture: "):
        lay_out(picture, "overlays", 3, 1700, folder)


def test_a_picture_that_is_absent_is_an_os_error(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        lay_out(tmp_path / "absent.png", "overlays", 3, 1700, folder)


# Names of the server's choice


class _Hostile(BaseHTTPRequestHandler):
    """MLflow with one run and one file, whose names are those of the class."""

    run_id = "a" * 32
    name = "checkpoint.json"
    place = "mlflow-artifacts:/1/x"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        # Runs are looked for by name and by id.
        self.do_GET(b"run_id" in self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_GET(self, is_by_id: bool = False) -> None:
        at = {"artifact_uri": self.place, "lifecycle_stage": "active"}
        run = {"info": at | {"run_id": self.run_id, "experiment_id": "1", "start_time": 1}}
        answers = {
            "experiments/search": {"experiments": [at | {"experiment_id": "1", "name": "e"}]},
            "runs/search": {"runs": [] if is_by_id else [run]},
            "runs/get": {"run": run},
            "mlflow-artifacts/artifacts?": {"files": [{"path": self.name, "is_dir": False}]},
        }
        found = [answer for path, answer in answers.items() if path in self.path]
        body = json.dumps(found[0]).encode() if found else b"print('of the server')"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hostile(monkeypatch):
    """A function that starts a server with these names, and returns its URI."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    servers = []

    def start(**names: str) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Named", (_Hostile,), names))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("run_id", ["ABSOLUTE", "../../victim", "..", "", "a/b", "a b", "a\n"])
def test_a_run_whose_id_is_a_path_is_refused(hostile, tmp_path, run_id):
    (tmp_path / "deep" / "into").mkdir(parents=True)
    uri = hostile(run_id=run_id.replace("ABSOLUTE", str(tmp_path / "victim")))
    with pytest.raises(RefusedError, match="is no id of a run"):
        find_checkpoint("evil", str(tmp_path), uri, tmp_path / "deep" / "into")
    assert not files_below(tmp_path)


@pytest.mark.parametrize(
    "name", ["../usercustomize.py", "ABSOLUTE", "..", "%2e%2e/usercustomize.py", "a/../../x.py"]
)
def test_a_file_whose_name_is_a_path_stays_in_the_folder(hostile, tmp_path, name):
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    uri = hostile(name=name.replace("ABSOLUTE", str(tmp_path / "usercustomize.py")))
    with suppress(RefusedError):
        find_checkpoint("good", str(tmp_path), uri, into)
    assert all(path.is_relative_to(into) for path in files_below(tmp_path))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("http://localhost:1/x", "another server, which would get the password"),
        ("https://HERE/x", "another server"),
        ("mlflow-artifacts://localhost:1/x", "another server"),
        ("mlflow-artifacts://HERE/x", None),
        ("http://HERE/x", None),
        ("mlflow-artifacts:/1/x", None),
        ("ftp://HERE/x", "expected a folder or http:"),
        ("sftp://u@h/x", "expected a folder or http:"),
        ("runs:/a/x", "expected a folder or http:"),
    ],
)
def test_a_server_names_no_store_that_would_get_its_password(monkeypatch, place, expected):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "SECRETTOKEN")
    uri = "http://127.0.0.1:5000"
    place = place.replace("HERE", "127.0.0.1:5000")
    if expected is None:
        assert store_at(place, uri).artifact_uri.startswith(("http://127.0.0.1:5000/", place[:16]))
        return
    with pytest.raises(RefusedError, match=expected) as error:
        store_at(place, uri)
    assert "SECRETTOKEN" not in str(error.value)
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    if "another" in expected:
        store_at(place, uri)


def test_a_password_that_a_server_repeats_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "se/cret word")
    with (
        pytest.raises(AwayError) as error,
        mlflow_client("http://bob:o%74her@127.0.0.1:1"),
    ):
        raise MlflowException("no bob:se/cret word, nor other, nor oth%65r")
    assert "se/cret" not in str(error.value)
    assert "nor other" not in str(error.value)


def test_a_database_without_its_driver_is_one_line(monkeypatch):
    with (
        pytest.raises(RefusedError, match=r"needs the Python package psycopg\w*, which is not"),
        mlflow_client("postgresql+psycopg://bob:secret@127.0.0.1:1/db"),
    ):
        pass


def test_uploads_reach_no_store_that_would_get_the_password(hostile, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "SECRETTOKEN")
    uri = hostile(place="http://localhost:1/x")
    run = Run(uri=uri, experiment_id="1", run_id="a" * 32)
    (tmp_path / "a.txt").write_text("text")
    for upload in (
        lambda: log_text(run, "text", "a.txt"),
        lambda: log_file(run, tmp_path / "a.txt", ""),
        lambda: log_folder(run, tmp_path, "folder"),
    ):
        with pytest.raises(RefusedError, match="another server, which would get the password"):
            upload()


@pytest.mark.parametrize("marked", ["", "model_id: m-2\n", "xmodel_id: m-1\n", "link"])
def test_a_server_removes_no_folder_but_its_models(tmp_path, marked):
    def model(folder: Path) -> LoggedModel:
        known = {"experiment_id": "1", "name": "n", "source_run_id": "r"}
        times = {"creation_timestamp": 0, "last_updated_timestamp": 0, "status": 1}
        return LoggedModel(model_id="m-1", artifact_location=folder.as_uri(), **known, **times)

    folder, right = tmp_path / "victim", tmp_path / "right"
    for each in (folder, right):
        each.mkdir()
        (each / "MLmodel").write_text("flavors: {}\nmodel_id: m-1\n")
    if marked == "link":
        folder = tmp_path / "link"
        folder.symlink_to(right)
    else:
        (folder / "MLmodel").write_text(marked)
    with pytest.raises(RefusedError, match="is not the folder of model m-1: not removed"):
        remove_model(model(folder), "http://127.0.0.1:5000")
    assert (right / "MLmodel").exists()
    assert (folder / "MLmodel").exists()
    remove_model(model(right), "http://127.0.0.1:5000")
    assert not right.exists()
    remove_model(model(right), "http://127.0.0.1:5000")


def test_a_file_with_a_plain_name_is_downloaded(hostile, tmp_path):
    found = find_checkpoint("good", str(tmp_path / "none"), hostile(), tmp_path)
    assert found == tmp_path / ("a" * 32) / "best_checkpoint"
    assert (found / "checkpoint.json").read_bytes() == b"print('of the server')"
