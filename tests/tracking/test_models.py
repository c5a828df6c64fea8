"""Checkpoints as models in a real store: the best are kept, registered and load without Ray."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from factories import checkpoint
from mlflow import MlflowClient

from pipeline.data.shards.crop import cut_crop
from pipeline.data.synthetic.scene import render_scene
from pipeline.inference.predictor import Frame, Predictor
from pipeline.run.checkpoint_manager import enter_models
from pipeline.run.journal import Journal, RunSpec
from pipeline.settings.packing import CropSettings
from pipeline.tracking.client import AwayError
from pipeline.tracking.models import bundle
from pipeline.tracking.registry import register
from pipeline.tracking.runs import find_or_create_run
from pipeline.tracking.sync import JournalSync, deliver
from pipeline.tracking.sync_state import REFUSED_NAME

pytestmark = pytest.mark.slow

METRIC = "pckh_0.5"


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module")
def uri(database, new_database) -> str:
    return new_database(database)


@pytest.fixture
def begin(uri, tmp_path, request):
    """A function that starts the journal of a run in the test's own experiment."""

    def begun(name: str = "run") -> Journal:
        journal = Journal(tmp_path / name)
        place = {"experiment": request.node.name, "artifacts": tmp_path / "artifacts", "uri": uri}
        journal.run(RunSpec(name=name, params={}, tags={}, **place))
        return journal

    return begun


def epoch(journal: Journal, number: int, headline: float, models: int = 1) -> Path:
    """Write what training writes after an epoch: a checkpoint and its journal entries."""
    folder = journal.root / f"epoch_{number:04d}"
    checkpoint(folder, {METRIC: headline})
    journal.metrics({METRIC: headline, "val_loss": 1.0}, number)
    enter_models(journal, journal.root, METRIC, models)
    return folder


def models_of(uri: str, request) -> dict[str, object]:
    """Logged models of the test's experiment by name."""
    client = MlflowClient(uri)
    place = client.get_experiment_by_name(request.node.name).experiment_id
    return {model.name: model for model in client.search_logged_models([place])}


def weights_in(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "artifacts").rglob("*.safetensors"))


def test_a_checkpoint_is_a_model_with_its_step_and_metrics(begin, uri, database, request, tmp_path):
    journal = begin()
    folder = epoch(journal, 1, 12.5)
    (folder / "optimizer.pt").write_bytes(b"not for prediction")
    deliver(journal.root, uri)
    [model] = models_of(uri, request).values()
    assert (model.name, str(model.status)) == ("epoch_0001", "READY")
    found = {(m.key, m.value, m.step, m.timestamp) for m in model.metrics}
    time_ms = journal.entries()[1].time_ms
    assert {(METRIC, 12.5, 1, time_ms), ("val_loss", 1.0, 1, time_ms)} <= found
    run = MlflowClient(uri).get_run(model.source_run_id)
    assert [(m.model_id, m.step) for m in run.outputs.model_outputs] == [(model.model_id, 1)]
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select count(*) from metrics where run_uuid = ?", [model.source_run_id]
        )
        assert rows.fetchall() == [(2,)]
    [weights] = weights_in(tmp_path)
    assert sorted(path.name for path in weights.parent.iterdir()) == [
        "checkpoint.json",
        "weights.safetensors",
    ]


def test_delivering_everything_again_changes_nothing(begin, uri, database, request, tmp_path):
    journal = begin()
    epoch(journal, 1, 12.5)
    epoch(journal, 2, 13.5)
    journal.register("epoch_0002", f"again-{tmp_path.name}", METRIC, 13.5, "c")
    deliver(journal.root, uri)

    def stored() -> list:
        with sqlite3.connect(database) as connection:
            tables = "metrics", "logged_models", "logged_model_metrics", "inputs", "model_versions"
            return [connection.execute(f"select * from {table}").fetchall() for table in tables]

    before = stored()
    (journal.root / "delivered.json").unlink()
    deliver(journal.root, uri)
    assert stored() == before
    assert not JournalSync(journal.root, uri).backlog()


def test_the_best_are_kept_and_the_bytes_of_the_others_are_gone(begin, uri, request, tmp_path):
    journal = begin()
    for number, headline in enumerate((10.0, 30.0, 20.0, 25.0), start=1):
        epoch(journal, number, headline, models=2)
        deliver(journal.root, uri)
        assert len(weights_in(tmp_path)) == min(number, 2)
    found = models_of(uri, request)
    assert set(found) == {"epoch_0002", "epoch_0004"}
    kept = {path.relative_to(tmp_path / "artifacts").parts[1] for path in weights_in(tmp_path)}
    assert kept == {model.model_id for model in found.values()}
    assert len(list((tmp_path / "artifacts").rglob("MLmodel"))) == 2


def test_a_model_that_is_forgotten_before_it_is_delivered_is_not_missed(
    begin, uri, request, tmp_path
):
    journal = begin()
    worse = epoch(journal, 1, 10.0)
    epoch(journal, 2, 20.0)
    shutil.rmtree(worse)
    deliver(journal.root, uri)
    assert set(models_of(uri, request)) == {"epoch_0002"}
    assert not (journal.root / REFUSED_NAME).exists()


def test_a_model_whose_files_were_sent_in_part_is_sent_again(
    begin, uri, request, tmp_path, monkeypatch
):
    journal = begin()
    epoch(journal, 1, 10.0)

    def fail(*_):
        raise OSError("the line is cut")

    monkeypatch.setattr(MlflowClient, "finalize_logged_model", fail)
    with pytest.raises(AwayError, match="the line is cut"):
        deliver(journal.root, uri)
    [model] = models_of(uri, request).values()
    assert str(model.status) == "PENDING"
    monkeypatch.undo()
    deliver(journal.root, uri)
    [again] = models_of(uri, request).values()
    assert (again.model_id, str(again.status)) == (model.model_id, "READY")
    assert len(weights_in(tmp_path)) == 1


def test_a_registered_model_outlives_better_ones(begin, uri, request, tmp_path):
    journal = begin()
    epoch(journal, 1, 10.0)
    journal.register("epoch_0001", f"lasting-{tmp_path.name}", METRIC, 10.0, "c")
    epoch(journal, 2, 20.0)
    deliver(journal.root, uri)
    assert set(models_of(uri, request)) == {"epoch_0001", "epoch_0002"}


# The registry


def registered(begin, uri: str, run: str, name: str, value: float, checksum: str = "people") -> str:
    """Register the best checkpoint of a pretended run; return the message."""
    journal = begin(run)
    epoch(journal, 1, value)
    deliver(journal.root, uri)
    found = find_or_create_run(
        uri, journal.entries()[0].content["experiment"], run, artifacts=journal.root
    )
    return register(found, "epoch_0001", name, METRIC, value, checksum)


def test_the_champion_gives_way_to_a_better_one_on_the_same_people_alone(begin, uri, tmp_path):
    name, client = f"champion-{tmp_path.name}", MlflowClient(uri)
    messages = [
        registered(begin, uri, "first", name, 20.0),
        registered(begin, uri, "worse", name, 20.0),
        registered(begin, uri, "better", name, 20.5),
        registered(begin, uri, "elsewhere", name, 99.0, "other people"),
    ]
    assert messages == [
        f"registered epoch_0001 as {name} version 1, the champion",
        f"registered epoch_0001 as {name} version 2; champion stays version 1 with 20.0",
        f"registered epoch_0001 as {name} version 3, the champion",
        f"registered epoch_0001 as {name} version 4; champion stays version 3, "
        "measured by another metric or on other data",
    ]
    champion = client.get_model_version_by_alias(name, "champion")
    assert str(champion.version) == "3"
    tags = {"metric": METRIC, "value": "20.5", "data.val.checksum": "people"}
    assert tags.items() <= champion.tags.items()


PREDICT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ImportError("no Ray here")

sys.meta_path.insert(0, Blocked())
import json
import mlflow
import pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
image = open(sys.argv[3], "rb").read()
places = zip(("center_x", "center_y", "scale"), sys.argv[4:])
frame = {name: [float(word), None] for name, word in places}
table = pd.DataFrame({"image": [image, image], **frame}).astype(dict.fromkeys(frame, float))
found = model.predict(table)
import pipeline
example = model.predict(model.input_example)
print(json.dumps({"rows": found.to_numpy().tolist(), "columns": list(found.columns),
                  "from": pipeline.__file__, "example": example.shape,
                  "ray": "ray" in sys.modules}))
"""


def test_the_champion_predicts_where_there_is_no_ray(begin, uri, request, tmp_path):
    name = f"served-{tmp_path.name}"
    registered(begin, uri, "run", name, 20.0)
    scene, people = render_scene(3, 0)
    crop = cut_crop(scene, people[0], CropSettings(margin=1.5))
    (tmp_path / "person.jpg").write_bytes(crop.jpeg)
    place = (90.0, 100.0, 0.75)
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, f"models:/{name}@champion", tmp_path / "person.jpg"]
        + [repr(number) for number in place],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    predictor = Predictor(tmp_path / "run" / "epoch_0001", torch.device("cpu"), exact=True)
    image = predictor.read(crop.jpeg)
    frames = [Frame(center=place[:2], scale=place[2]), Frame.of_whole(image)]
    views = [predictor.view(image, frame) for frame in frames]
    for row, pose in zip(found["rows"], predictor.predict(views), strict=True):
        triples = [row[k : k + 3] for k in range(0, len(row), 3)]
        assert [triple[:2] for triple in triples] == [
            pytest.approx(joint, abs=1e-3) for joint in pose.joints.tolist()
        ]
    assert found["columns"][0] == "right_ankle_x"
    assert found["example"] == [1, 48]
    assert not found["ray"]
    # The code came with the model, not from here.
    assert Path(found["from"]).is_relative_to(tmp_path / "artifacts")


def test_nothing_is_pickled_in_a_model(begin, uri, tmp_path):
    journal = begin()
    epoch(journal, 1, 10.0)
    deliver(journal.root, uri)
    kinds = {path.suffix for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert kinds == {"", ".py", ".json", ".yaml", ".txt", ".safetensors"}


def test_a_library_that_is_not_installed_is_not_required(tmp_path, monkeypatch):
    known = {name: [name] for name in ("torch", "cv2", "PIL")}
    monkeypatch.setattr("pipeline.tracking.models._distributions", lambda: known)
    monkeypatch.setattr("pipeline.tracking.models.version", lambda name: "1.0")
    _, requirements = bundle("pipeline.data.photographs.header", tmp_path)
    assert requirements == ["PIL==1.0", "cv2==1.0"]
