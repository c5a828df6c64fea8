"""A registered model behind `mlflow models serve`, and as the model of `jobs.predict`."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from factories import checkpoint, photograph

import jobs.predict
from pipeline.inference.predictor import Frame, Predictor
from pipeline.inference.pyfunc import columns_of
from pipeline.run.checkpoint_manager import enter_models
from pipeline.run.journal import Journal, RunSpec
from pipeline.tracking.sync import deliver

pytestmark = pytest.mark.slow

METRIC = "pckh_0.5"
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], str]) -> str:
    """A store with the registered model `pose`, whose champion is the run's only checkpoint."""
    folder = tmp_path_factory.mktemp("registry")
    uri = new_database(folder / "mlflow.db")
    journal = Journal(folder / "run")
    place = {"experiment": "served", "artifacts": folder / "artifacts", "uri": uri}
    journal.run(RunSpec(name="run", params={}, tags={}, **place))
    checkpoint(journal.root / "epoch_0001", {METRIC: 10.0})
    journal.metrics({METRIC: 10.0}, 1)
    enter_models(journal, journal.root, METRIC, 1)
    journal.register("epoch_0001", "pose", METRIC, 10.0, "people")
    journal.folder(journal.root / "epoch_0001", "best_checkpoint")
    journal.end("FINISHED")
    deliver(journal.root, uri)
    return uri


@pytest.fixture(scope="module")
def server(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the model's server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", "models:/pose@champion", "--env-manager", "local"]
    words += ["-h", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            # MLflow finds its web server's command on the path.
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": uri,
                "OMP_NUM_THREADS": "1",
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE_S
        while not is_alive(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.3)
        yield url
    finally:
        # The web server is a grandchild in the process group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def is_alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(url: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    """Return status and content of the response."""
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def records(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"dataframe_records": list(rows)}).encode()


JPEG = cv2.imencode(".jpg", photograph())[1].tobytes()
IMAGE = base64.b64encode(JPEG).decode()


def test_an_image_in_base64_is_answered_with_joints_in_its_pixels(server, uri, tmp_path):
    box = {"x": 20.0, "y": 10.0, "width": 100.0, "height": 120.0}
    status, answer = ask(server, records({"image": IMAGE} | box))
    assert status == 200
    [row] = answer["predictions"]
    checkpoint(tmp_path / "same")
    predictor = Predictor(tmp_path / "same", torch.device("cpu"), exact=True)
    view = predictor.view(predictor.read(JPEG), Frame.of_box(*box.values()))
    [pose] = predictor.predict([view])
    assert list(row) == columns_of(predictor.joint_set)
    expected = np.column_stack([pose.joints, pose.confidence]).ravel()
    assert list(row.values()) == pytest.approx(expected, abs=1e-3)


def test_several_images_and_whole_ones_are_answered_in_order(server):
    other = base64.b64encode(cv2.imencode(".png", photograph(seed=1))[1].tobytes()).decode()
    _, both = ask(server, records({"image": IMAGE}, {"image": other}))
    _, alone = ask(server, records({"image": other}))
    assert both["predictions"][1] == pytest.approx(alone["predictions"][0], abs=1e-3)


OVERSIZED = base64.b64encode(bytes(61 * 2**20)).decode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (JPEG, "image/jpeg"),
        (records({"image": base64.b64encode(b"no image").decode()}), "application/json"),
        (records({"image": base64.b64encode(JPEG[:500]).decode()}), "application/json"),
        (records({"image": "http://127.0.0.1/image.jpg"}), "application/json"),
        (records({"picture": IMAGE}), "application/json"),
        (records({"image": IMAGE, "x": 1.0}), "application/json"),
        (records({"image": OVERSIZED}), "application/json"),
        (b'{"dataframe_records": ' + b"[" * 100_000, "application/json"),
        (
            records({"image": IMAGE, "center_x": 0, "center_y": 0, "scale": 1e200}),
            "application/json",
        ),
    ],
    ids=[
        *("half", "empty", "jpeg", "text", "cut", "url", "column", "box", "oversized", "deep"),
        "far",
    ],
)
def test_bytes_that_are_no_image_are_refused_and_the_server_stays_up(server, body, kind):
    status, answer = ask(server, body, kind)
    assert 400 <= status < 500, answer
    assert not any(word in answer for word in ("Traceback", "File ", "stack_trace"))
    assert ask(server, records({"image": IMAGE}))[0] == 200


@pytest.mark.parametrize("model", ["models:/pose@champion", "models:/pose/1", "run"])
def test_the_same_model_predicts_by_its_name(uri, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(JPEG)
    jobs.predict.main([model, "a.jpg", "--tracking.uri", uri, "--threads", "1", "--exact"])
    [image] = json.loads(Path("out/predictions/predictions.json").read_text())["images"]
    checkpoint(tmp_path / "same")
    predictor = Predictor(tmp_path / "same", torch.device("cpu"), exact=True)
    photo = predictor.read(JPEG)
    [pose] = predictor.predict([predictor.view(photo, Frame.of_whole(photo))])
    [person] = image["people"]
    found = np.array(list(person["joints"].values()))
    assert found[:, :2] == pytest.approx(pose.joints, abs=1e-3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/pose", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/pose@nobody", "nobody"),
        ("models:/none/1", "none"),
        ("stranger", "no run is 'stranger'"),
    ],
)
def test_a_model_that_mlflow_has_not_is_refused(uri, tmp_path, monkeypatch, capsys, model, message):
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(JPEG)
    with pytest.raises(SystemExit) as ended:
        jobs.predict.main([model, "a.jpg", "--tracking.uri", uri])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
