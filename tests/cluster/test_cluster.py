"""End to end on one real Ray cluster: pack, train, resume, fail, sweep, submit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
from factories import photograph
from listeners import is_loopback, watched
from mlflow import MlflowClient
from mlflow.entities import Run
from web_server import WebServer

from pipeline.settings import Settings

# Ray leaves sockets and log files to the garbage collector.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).resolve().parents[2]

# One stack, eight features, 64 pixels: what is tested is the way there, not the result.
TINY = {
    "model.stacks": 1,
    "model.features": 8,
    "model.order": 2,
    "model.input_px": 64,
    "optim.optimizer": "adamw",
    "optim.learning_rate": 0.01,
    "optim.batch_size": 8,
    "optim.epochs": 2,
    "optim.target_peak": 10.0,
    "ray.cpus_per_worker": 0.5,
    "ray.max_failures": 0,
}


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Start the one local cluster; return its dashboard's URL."""
    import ray

    from pipeline.cluster.start import cluster

    with cluster("local", is_shared=True):
        yield f"http://{ray._private.worker.global_worker.node.webui_url}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for data, runs and the MLflow store."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def packed(dashboard: str, place: Path) -> Path:
    """A packed synthetic dataset: 64 scenes for training, 21 for validation."""
    from jobs.pack import main

    main(
        ["synthetic", "--out", str(place / "data"), "--scenes", "85", "--val-images", "21"]
        + ["--people-per-shard", "20", "--crop.person-px", "96"]
    )
    return place / "data"


def arguments(packed: Path, place: Path, **changes: Any) -> list[str]:
    """A command line for tiny networks; `changes` by dotted key with __ for the dot."""
    chosen = TINY | {
        "data.train": f"{packed}/train-*.tar",
        "data.val": f"{packed}/val-*.tar",
        "ray.storage": str(place / "runs"),
        "tracking.uri": f"sqlite:///{place}/mlflow.db",
    }
    chosen |= {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in chosen.items() for word in (f"--{key}", str(value))]


def run_named(place: Path, name: str) -> Run:
    """The one MLflow run of a name."""
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`hourglass.name` = '{name}'")
    return run


@pytest.fixture(scope="module")
def listened() -> set[tuple[str, Any]]:
    """Names of the processes that listened while `trained` was trained, and where."""
    return set()


@pytest.fixture(scope="module")
def trained(packed: Path, place: Path, listened: set[tuple[str, Any]]) -> str:
    """Train two workers by the command line, with averaged weights; return the run's name."""
    from jobs.train import main

    with watched(os.getpid()) as seen:
        main(
            arguments(packed, place, ray__workers=2, ray__name="pair", optim__ema_samples=100)
            + ["--tracking.register", "pose"]
        )
    listened |= seen
    return "pair"


def test_packing_writes_shards_and_an_index(packed: Path):
    content = json.loads((packed / "index.json").read_text())
    assert content["source"] == content["joint_set"]["name"] == "synthetic"
    assert content["splits"]["train"]["images"] == 64
    assert content["splits"]["val"]["images"] == 21
    assert sorted(path.name for path in packed.iterdir()) == sorted(
        ["index.json", "members.npz"] + [shard["name"] for shard in content["shards"]]
    )


def test_what_is_started_here_listens_on_loopback_alone(
    trained: str, listened: set[tuple[str, Any]]
):
    names = {name for name, _ in listened}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= names
    assert any(name.startswith("ray::RayTrainWorker") for name in names)
    assert {(name, at) for name, at in listened if not is_loopback(at)} == set()


def test_a_run_records_every_setting_and_every_epoch(trained: str, place: Path):
    run = run_named(place, trained)
    assert run.info.status == "FINISHED"
    assert set(run.data.params) == set(Settings().shown())
    assert run.data.params["model.stacks"] == "1"
    assert run.data.tags["joint_set"] == "synthetic"
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    compared = ("ema/pckh_0.5", "ema/val_loss", "raw/pckh_0.5", "raw/val_loss")
    for name in (
        *("train_loss", "val_loss", "pckh_0.5", "pckh_0.1", "pckh_0.5/left_wrist"),
        *compared,
    ):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == [1, 2], name


def test_a_run_has_its_description_and_registers_its_best_model(trained: str, place: Path):
    run, client = run_named(place, trained), MlflowClient(f"sqlite:///{place}/mlflow.db")
    tags, metrics = run.data.tags, run.data.metrics
    assert tags["mlflow.note.content"].startswith(
        f"**Best: PCKh@0.5 {metrics['best_pckh_0.5']:.2f}"
    )
    assert tags["workers"] == "2"
    assert tags["device"].endswith(" cores")
    assert {"version.torch", "version.ray", "version.mlflow", "parameters", "gmacs"} <= set(tags)
    assert metrics["memory_mib"] > 0
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    champion = client.get_model_version_by_alias("pose", "champion")
    assert champion.run_id == run.info.run_id
    [model] = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{champion.run_id}'"
    )
    assert model.name == f"epoch_{metrics['best_epoch']:04.0f}"
    headlines = {m.value for m in model.metrics if m.key == "pckh_0.5"}
    assert headlines == {metrics["best_pckh_0.5"]}


def test_a_run_keeps_figures_and_its_best_checkpoint(trained: str, place: Path):
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    run_id = run_named(place, trained).info.run_id
    top = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert top == {
        *("best_checkpoint", "images", "overlays", "curves.png", "joints.png"),
        *("samples.png", "scores.txt", "stacks.png", "thresholds.png", "worst.png"),
    }
    overlays = [artifact.path for artifact in client.list_artifacts(run_id, "overlays")]
    assert overlays == ["overlays/overlay_0001.png", "overlays/overlay_0002.png"]
    best = {artifact.path for artifact in client.list_artifacts(run_id, "best_checkpoint")}
    assert {f"best_checkpoint/{name}.safetensors" for name in ("weights", "ema")} <= best
    assert "best_checkpoint/people.npz" in best


def test_two_workers_have_the_counts_of_one(trained: str, packed: Path, place: Path):
    from jobs.evaluate import main

    folder = place / "runs" / trained / "epoch_0002"
    scores = place / "scores.json"
    main(
        ["--checkpoint", str(folder), "--data.val", f"{packed}/val-*.tar"]
        + ["--json", str(scores), "--threads", "1"]
    )
    alone = json.loads(scores.read_text())
    together = json.loads((folder / "evaluation.json").read_text())
    people = json.loads((packed / "index.json").read_text())["splits"]["val"]["people"]
    assert alone["people"] == together["people"] == people
    counts = together["counts"]["pckh"]
    assert list(alone["network"]["pckh"]["annotated"].values()) == counts["annotated"]
    for row, threshold in ((50, "0.5"), (10, "0.1")):
        shares = [
            100 * correct / annotated
            for correct, annotated in zip(counts["correct"][row], counts["annotated"], strict=True)
        ]
        assert list(alone["network"]["pckh"]["joints"][threshold].values()) == shares


def test_a_run_of_the_same_name_resumes_where_it_stopped(
    trained: str, packed: Path, place: Path, capfd: pytest.CaptureFixture[str]
):
    from jobs.train import main

    before = run_named(place, trained).info.run_id
    main(arguments(packed, place, ray__workers=2, ray__name=trained, optim__epochs=3))
    run = run_named(place, trained)
    assert run.info.run_id == before
    assert run.data.tags["changed.optim.epochs"] == "3"
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    steps = [m.step for m in client.get_metric_history(before, "train_loss")]
    assert steps == [1, 2, 3]
    record = json.loads((place / "runs" / trained / "epoch_0003" / "checkpoint.json").read_text())
    assert record["progress"]["epochs"] == 3
    assert "best checkpoint" in capfd.readouterr().out


def test_a_run_stores_no_secret_of_its_uris_and_resumes_without(
    packed: Path, tmp_path: Path, web: WebServer, capfd: pytest.CaptureFixture[str]
):
    from jobs.train import main

    secret = "hunter2hunter2"
    web.files = {f"/pose/{path.name}": path.read_bytes() for path in packed.iterdir()}
    shards = len(list(packed.glob("train-*.tar")))
    train = f"{web.url}/pose/train-{{000000..{shards - 1:06d}}}.tar?X-Amz-Signature={secret}"
    for epochs in (1, 2):
        main(
            arguments(packed, tmp_path, data__train=train, optim__epochs=epochs, ray__name="signed")
        )
    record = json.loads(
        (tmp_path / "runs" / "signed" / "epoch_0002" / "checkpoint.json").read_text()
    )
    assert record["progress"]["epochs"] == 2
    params = run_named(tmp_path, "signed").data.params
    assert params["data.train"] == record["settings"]["data.train"] == train.replace(secret, "***")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in kept)
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    output = capfd.readouterr()
    assert secret not in output.out + output.err


def test_more_workers_than_the_cluster_holds_is_an_error_at_once(
    packed: Path, place: Path, capsys: pytest.CaptureFixture[str]
):
    from jobs.train import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments(packed, place, ray__workers=2, ray__cpus_per_worker=99))
    assert stopped.value.code == 2
    assert "need 198 CPUs, the cluster has" in capsys.readouterr().err


def test_resources_of_an_earlier_start_of_a_run_are_freed(dashboard: str, tmp_path: Path):
    import ray
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    from pipeline.cluster.ray_private import take_over

    coordinator = get_or_create_autoscaling_coordinator()

    def reserved(run_id: str) -> dict[str, dict[str, float]]:
        return ray.get(coordinator.get_reserved_resources.remote(f"train-{run_id}"))

    take_over(tmp_path, "killed")
    for run_id in ("killed", "other"):
        asked = coordinator.request_resources.remote(
            requester_id=f"train-{run_id}", resources=[{"CPU": 0.25}], expire_after_s=180
        )
        ray.get(asked)
    assert list(reserved("killed").values()) == [{"CPU": 0.25}]
    take_over(tmp_path, "again")
    assert reserved("killed") == {}
    assert list(reserved("other").values()) == [{"CPU": 0.25}]
    ray.get(coordinator.cancel_request.remote("train-other"))


def test_a_failing_worker_fails_the_run_and_the_command(
    packed: Path, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from jobs.train import main

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in packed.iterdir():
        content = path.read_bytes()
        if path.name == "train-000001.tar":
            # Beyond what the command checks. The picture follows the tar header of 512 bytes.
            content = content[:512] + bytes(64) + content[576:]
        (broken / path.name).write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(arguments(broken, place, ray__name="broken"))
    assert stopped.value.code == 1
    assert "train-000001.tar: synthetic-" in (errors := capfd.readouterr().err)
    assert ".jpg: checksum " in errors
    assert run_named(place, "broken").info.status == "FAILED"


def test_a_run_whose_loss_is_not_finite_ends_at_once_with_a_sentence(
    packed: Path, place: Path, capfd: pytest.CaptureFixture[str]
):
    from jobs.train import main

    changes = {"optim__learning_rate": 1e30, "optim__max_bad_steps": 1, "ray__max_failures": 3}
    with pytest.raises(SystemExit) as stopped:
        main(arguments(packed, place, ray__workers=2, ray__name="wild", **changes))
    assert stopped.value.code == 1
    out, errors = capfd.readouterr()
    # Every weight is beyond all bounds after the first step.
    [error] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert re.match(
        r"error: training run wild failed: epoch 1, step 3 of \d+, learning rate 1e\+30: "
        r"the loss of ",
        error,
    )
    assert "; this is bad step 2, optim.max_bad_steps allows 1; " in error
    assert " its samples: rank 0: train-0000" in error
    assert " | rank 1: train-0000" in error
    assert "bad_steps.py" not in out + errors, "a traceback"
    # Once, although three failures are allowed.
    assert out.count("; step skipped, 1 of 1 allowed; ") == 1
    assert run_named(place, "wild").info.status == "FAILED"


@pytest.mark.timeout(900)
def test_a_second_driver_is_refused_or_takes_over_and_leaves_nothing_of_the_first(
    packed: Path, place: Path, tmp_path: Path
):
    import ray

    run, address = place / "runs" / "twin", ray.get_runtime_context().gcs_address
    words = [sys.executable, "-m", "jobs.train"]
    words += arguments(packed, place, ray__name="twin", optim__epochs=500, ray__address=address)

    def driven(*more: object) -> subprocess.CompletedProcess[str]:
        command = [*words, *map(str, more)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, stderr=pipe, stdout=pipe, text=True) as first:
        try:
            wait_until(lambda: "metrics" in kinds(run), 300)
            refused = driven()
            assert refused.returncode == 2
            assert f"error: run twin is held by process {first.pid} on host " in refused.stderr
            assert "Ray" not in refused.stdout + refused.stderr
            first.send_signal(signal.SIGSTOP)
            epochs = int(sorted(run.glob("epoch_*"))[-1].name[6:10]) + 3
            second = driven("--optim.epochs", epochs, "--ray.take-over", "true")
            assert second.returncode == 0, second.stdout + second.stderr
            database = place / "mlflow.db"
            kept = {path: path.read_bytes() for path in files_of(run, database)}
            # It would ask the run, which is another's now, to stop.
            first.send_signal(signal.SIGTERM)
            first.send_signal(signal.SIGCONT)
            _, error = first.communicate(timeout=120)
        finally:
            first.kill()
    assert first.returncode == 1
    assert error.splitlines()[-1].startswith("error: twin was taken over by process ")
    assert kept == {path: path.read_bytes() for path in files_of(run, database)}
    recorded = run_named(place, "twin")
    assert recorded.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{database}")
    steps = [m.step for m in client.get_metric_history(recorded.info.run_id, "pckh_0.5")]
    assert steps == list(range(1, len(steps) + 1))
    assert kinds(run).count("end") == 1


def files_of(run: Path, *others: Path) -> list[Path]:
    return [path for path in (*run.rglob("*"), *others) if path.is_file()]


@pytest.mark.timeout(1800)  # six trainings, on a machine that may be busy
def test_a_killed_sweep_resumes_stops_poor_trials_and_reports_failed_ones(
    packed: Path, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    import ray

    from tune.sweep import main

    space = tmp_path / "three.toml"
    space.write_text("[axes]\noptim.learning_rate = [0.03, 1e-7, 1e30]\n")
    people = json.loads((packed / "index.json").read_text())["splits"]["train"]["people"]
    changes = {"optim__epochs": 16, "optim__max_bad_steps": 0, "ray__name": "three"}
    words = arguments(packed, place, **changes, tracking__register="chosen")
    # One after another, in this order: the first to come to the rung passes. By then, after ten
    # epochs, a network that learns is ahead of one that does not; six more are left to be saved.
    words += ["--space", str(space), "--search.at_once", "1", "--search.seed", "5"]
    words += ["--early.rule", "asha", "--early.grace-samples", str(10 * (people // 8 * 8))]
    words += ["--ray.address", ray.get_runtime_context().gcs_address]
    rates = ("0.03", "1e-07", "1e30")
    learns, stays, fails = (place / "runs" / "three" / f"learning_rate-{rate}" for rate in rates)

    driver = subprocess.Popen([sys.executable, "-m", "tune.sweep", *words], cwd=ROOT)
    try:
        wait_until(lambda: "metrics" in kinds(stays), 900)
        twin = [sys.executable, "-m", "tune.sweep", *words]
        refused = subprocess.run(twin, cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert f"error: sweep three is held by process {driver.pid} on " in refused.stderr
    finally:
        driver.kill()
        driver.wait()
    before = kinds(learns)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    output = capfd.readouterr()
    assert ended.value.code == 1
    assert "error: 1 of 3 trials failed" in output.err
    assert "resuming 3 trials" in output.out
    assert kinds(learns) == [*before, "register"], "a finished trial was run again"
    assert [kinds(run).count("run") for run in (learns, stays, fails)] == [1, 2, 2]
    assert re.search(r"resuming from epoch_00\d\d", output.out)
    assert output.out.count("learning_rate-1e30 failed and is retried: ") == 1
    assert "best settings:\n  python -m jobs.train" in output.out

    table = pd.read_csv(place / "runs" / "three" / "trials.csv").set_index("trial")
    assert table["status"].to_dict() == {
        learns.name: "finished",
        stays.name: "stopped",  # by a rung that knew of the first, from before the kill
        fails.name: "failed",
    }
    assert table["samples"][stays.name] < table["samples"][learns.name]
    assert fails.name in (place / "runs" / "three" / "report.html").read_text()

    parent = run_named(place, "three")
    runs = {run.name: run_named(place, run.name) for run in (learns, stays, fails)}
    assert [run.info.status for run in (parent, *runs.values())] == [
        *("FINISHED", "FINISHED", "FINISHED", "FAILED")
    ]
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    history = client.get_metric_history(runs[stays.name].info.run_id, "pckh_0.5")
    steps = [metric.step for metric in history]
    assert steps == list(range(1, len(steps) + 1)), "epochs are missing or there twice"
    stopped = runs[stays.name].data
    assert stopped.tags["sweep.stopped"] == "by the rule for early stopping"
    assert "best_pckh_0.5" in stopped.metrics, "what it had reached is not its result"
    [version] = client.search_model_versions("name = 'chosen'")
    assert version.run_id == runs[learns.name].info.run_id


def kinds(run: Path) -> list[str]:
    """The kinds of the entries in a run's journal."""
    from pipeline.run.journal import Journal

    return [entry.kind for entry in Journal(run).entries()]


def wait_until(is_so: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, f"still not so after {limit_s:g} s"
        time.sleep(0.2)


def test_a_prediction_over_the_cluster_equals_that_of_one_process(
    trained: str, place: Path, tmp_path: Path
):
    from jobs.predict import main

    (tmp_path / "in").mkdir()
    for number in range(70):  # more than a part
        cv2.imwrite(str(tmp_path / "in" / f"{number}.jpg"), photograph(seed=number))
    (tmp_path / "in" / "7.jpg").write_bytes(b"broken")
    words = [str(place / "runs" / trained), str(tmp_path / "in"), "--heatmaps"]
    found = {}
    for name, how in (
        ("here", ["--threads", "1", "--device", "cpu"]),
        ("there", ["--ray.workers", "2", "--ray.cpus-per-worker", "0.5"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *how, "--out", str(tmp_path / name)])
        assert ended.value.code == 1
        found[name] = json.loads((tmp_path / name / "predictions.json").read_text())
    assert len(found["here"]["images"]) == 69
    assert [failure["why"] for failure in found["there"]["failures"]] == [
        "not a readable image (6 bytes)"
    ]
    assert found["there"]["images"] == found["here"]["images"]
    heatmaps = [sorted((tmp_path / name / "heatmaps").rglob("*.npz")) for name in found]
    assert [len(paths) for paths in heatmaps] == [69, 69]
    for here, there in zip(*heatmaps, strict=True):
        assert here.read_bytes() == there.read_bytes()


def test_a_submitted_job_trains_streams_and_fails_as_it_should(
    dashboard: str, packed: Path, place: Path
):
    import ray

    # With several clusters on the machine, such as those of other tests, Ray may choose any.
    here = f"RAY_ADDRESS={ray.get_runtime_context().gcs_address}"

    def submit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        command += ["--address", dashboard, "--working-dir", str(ROOT), "--"]
        environment = os.environ | {"RAY_AUTH_MODE": "token"}
        return subprocess.run(
            [*command, "env", here, sys.executable, "-m", "jobs.train", *words],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    done = submit(*arguments(packed, place, ray__name="submitted", optim__epochs=1))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "epoch 1/1 evaluated" in done.stdout
    assert "pooled mean" in done.stdout
    assert run_named(place, "submitted").info.status == "FINISHED"
    failed = submit(*arguments(packed, place, data__train="/nowhere/train-*.tar"))
    assert failed.returncode != 0
    assert "no shards match data.train='/nowhere/train-*.tar'" in failed.stdout + failed.stderr
