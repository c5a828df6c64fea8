"""Runs and sweeps in a bucket: begun here, resumed on a machine that has never seen them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from factories import pack_samples, samples
from s3_server import BUCKET, make_bucket, s3_server, set_aws_environment

from pipeline.cluster import launch
from pipeline.io import objects
from pipeline.io.objects import Found, Objects
from pipeline.run.checkpoint_manager import checkpoints
from pipeline.run.journal import Journal
from pipeline.run.manifest import MANIFEST, Manifest
from pipeline.run.mirror import Mirror
from pipeline.run.start import find_local
from pipeline.settings import Settings
from pipeline.settings.ray import KEEP_MEMORY

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
STORAGE = f"s3://{BUCKET}/runs"


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    objects._store.cache_clear()
    with s3_server() as endpoint:
        set_aws_environment(monkeypatch, endpoint, "AWS_ENDPOINT_URL")
        make_bucket()
        yield endpoint
    objects._store.cache_clear()


def command(module: str, folder: Path, scratch: str, **settings: object) -> list[str]:
    """Return the command of a training or sweep of people in `folder`, with a scratch folder."""
    people = samples(16)
    if not (folder / "data").exists():
        pack_samples(folder / "data", [people[:8], people[8:]], members=True)
    chosen = {
        "data.train": f"{folder}/data/train-*.tar",
        "data.val": f"{folder}/data/train-000000.tar",
        "model.stacks": 1,
        "model.features": 8,
        "model.order": 2,
        "model.input-px": 64,
        "optim.batch-size": 4,
        "ray.storage": STORAGE,
        "ray.scratch": folder / scratch,
        "ray.name": "pose",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    } | {name.replace("__", "."): value for name, value in settings.items()}
    words = [word for key, value in chosen.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", module, *words]


def finished(words: list[str]) -> str:
    """Run a command to its end; return what it prints."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(folder: Path, epochs: int, scratch: str) -> str:
    """Train the run `pose`; return what is printed."""
    return finished(command("jobs.train", folder, scratch, optim__epochs=epochs))


def test_compiled_code_of_a_run_in_a_bucket_stays_on_each_node(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    settings = Settings().replaced({"optim.compile": True, "ray.storage": STORAGE})
    assert launch._environment(settings) == KEEP_MEMORY
    on_disk = launch._environment(settings.replaced({"ray.storage": "/disk/runs"}))
    assert on_disk["TORCHINDUCTOR_CACHE_DIR"] == "/disk/runs/compiled"


def test_a_run_in_a_bucket_resumes_on_a_machine_that_has_never_seen_it(bucket, tmp_path, capsys):
    printed = train(tmp_path, 1, "first")
    assert f"best checkpoint: {STORAGE}/pose/epoch_0001 (epoch 1)" in printed
    shutil.rmtree(tmp_path / "first")
    assert "resuming from epoch_0001, after 16 samples" in train(tmp_path, 2, "second")
    mirror = Mirror(tmp_path / "third", f"{STORAGE}/pose")
    assert mirror.pull()
    entries = Journal(tmp_path / "third").entries()
    epochs = [e.content["step"] for e in entries if "val_loss" in e.content.get("values", ())]
    assert epochs == [1, 2]
    assert [e.content["status"] for e in entries if e.kind == "end"] == ["FINISHED", "FINISHED"]
    assert [path.name for path in checkpoints(tmp_path / "third")][-1] == "epoch_0002"
    # Each object counts, or says who is alive.
    manifest = Manifest.parsed(Objects(f"{STORAGE}/pose").get(MANIFEST)[0], "it")
    assert manifest.owner is None
    keys = {f"runs/pose/{stored.key}" for stored in manifest.files.values()}
    client = boto3.client("s3")
    there = {one["Key"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
    client.close()
    assert there - keys == {"runs/pose/manifest.json"}

    from jobs.evaluate import main

    capsys.readouterr()
    main(["pose", "--ray.storage", STORAGE, "--data.val", f"{tmp_path}/data/train-000000.tar"])
    assert "PCKh@0.5" in capsys.readouterr().out


def test_a_sweep_that_was_killed_resumes_on_a_machine_that_has_never_seen_it(bucket, tmp_path):
    def words(scratch: str) -> list[str]:
        choice = {
            "vary": "model.features=8,16",
            "stacks": 1,
            "optim__epochs": 3,
            "ray__name": "widths",
        }
        return command("tune.sweep", tmp_path, scratch, **choice)

    with (tmp_path / "printed").open("wb") as printed:
        killed = subprocess.Popen(
            words("first"), cwd=ROOT, stdout=printed, stderr=printed, start_new_session=True
        )
    try:
        end = time.monotonic() + 900
        while not any(found.name.endswith("/epoch_0001/checkpoint.json") for found in _objects()):
            assert time.monotonic() < end, (tmp_path / "printed").read_text()
            assert killed.poll() is None, (tmp_path / "printed").read_text()
            time.sleep(0.2)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    printed = finished(words("second"))
    assert f"2 trials in {STORAGE}/widths" in printed
    assert "resuming 2 trials" in printed
    assert f"report: {STORAGE}/widths/report.html" in printed
    # From its checkpoint, not from the start.
    assert "resuming from epoch_000" in printed
    found = find_local("widths", STORAGE, str(tmp_path / "third"))
    assert found is not None
    trials = [path.parent for path in (tmp_path / "third").rglob("*/journal.jsonl")]
    assert len(trials) == 3, "the sweep's and two trials'"
    for trial in set(trials) - {found.parents[1]}:
        entries = Journal(trial).entries()
        steps = [e.content["step"] for e in entries if "val_loss" in e.content.get("values", ())]
        assert steps == [1, 2, 3]


def _objects() -> list[Found]:
    return list(Objects(f"{STORAGE}/widths").found())
