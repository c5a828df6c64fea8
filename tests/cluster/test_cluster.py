"""End to end on one real Ray cluster: pack, train, resume, fail, sweep, submit."""

import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
from factories import BIRD, pack_samples, photograph, samples
from listeners import is_loopback, watched
from mlflow import MlflowClient
from mlflow.entities import Run
from test_documents import commands
from web_server import publish, serving

from pipeline.pose.joint_sets import OKS
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
    "evaluation.overlays": 1,
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
    """A packed synthetic dataset: 45 scenes for training, 15 for validation."""
    from jobs.pack import main

    main(
        ["synthetic", "--out", str(place / "data"), "--scenes", "60", "--val-images", "15"]
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


def submit(dashboard: str, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Submit a training from the folder `place`, and wait for its end."""
    import ray

    # With several clusters on the machine, such as those of other tests, Ray may choose any.
    here = ["--ray.address", ray.get_runtime_context().gcs_address]
    command = [sys.executable, "-m", "jobs.submit", "--to", dashboard, "--python", sys.executable]
    return subprocess.run(
        [*command, "--", "train", *words, *here],
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.fixture(scope="module")
def listened() -> set[tuple[str, Any]]:
    """Names of the processes that listened while `submitted` trained, and where."""
    return set()


@pytest.fixture(scope="module")
def submitted(
    dashboard: str, packed: Path, place: Path, listened: set[tuple[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """Train two workers of the run `pair` in a submitted job, with averaged weights."""
    words = arguments(packed, place, ray__workers=2, ray__name="pair", optim__ema_samples=100)
    relative = [word.replace(f"{place}/", "") for word in words]
    with watched(os.getpid()) as seen:
        done = submit(dashboard, place, *relative, "--tracking.register", "pose")
    listened |= seen
    return done


@pytest.fixture(scope="module")
def trained(submitted: subprocess.CompletedProcess[str]) -> str:
    """Return the name of the run that the submitted job has trained."""
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    return "pair"


def test_packing_writes_shards_and_an_index(packed: Path):
    content = json.loads((packed / "index.json").read_text())
    assert content["source"] == content["joint_set"]["name"] == "synthetic"
    assert content["splits"]["train"]["images"] == 45
    assert content["splits"]["val"]["images"] == 15
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


def test_a_submitted_job_trains_and_streams_what_it_prints(
    trained: str, submitted: subprocess.CompletedProcess[str], place: Path
):
    assert "epoch 2/2 evaluated" in submitted.stdout
    assert "pooled mean" in submitted.stdout
    assert f"best checkpoint: {place / 'runs' / trained}" in submitted.stdout
    assert re.search(r"^job raysubmit_\w+ succeeded$", submitted.stdout, re.MULTILINE)


def test_a_submitted_job_runs_code_that_was_sent_and_needs_no_checkout(trained: str, place: Path):
    assert "mlflow.source.git.commit" not in run_named(place, trained).data.tags


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
    assert tags["ended"].startswith("after all ")
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
        *("report.html", "samples.png", "scores.txt", "stacks.png", "thresholds.png", "worst.png"),
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


def test_more_workers_than_the_cluster_holds_is_an_error_at_once(
    packed: Path, place: Path, capsys: pytest.CaptureFixture[str]
):
    from jobs.train import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments(packed, place, ray__workers=2, ray__cpus_per_worker=99))
    assert stopped.value.code == 2
    assert "need 198 CPUs, the cluster has" in capsys.readouterr().err


def test_a_run_without_room_names_who_holds_it_and_ends_by_a_signal(
    packed: Path, place: Path, tmp_path: Path
):
    import ray

    @ray.remote
    class Holder:
        def holds(self) -> bool:
            return True

    total = ray.cluster_resources()["CPU"]
    holder = Holder.options(num_cpus=total).remote()
    assert ray.get(holder.holds.remote())
    words = arguments(packed, place, ray__name="waits")
    words += ["--ray.address", ray.get_runtime_context().gcs_address]
    log = tmp_path / "log"
    with log.open("wb") as out:
        driver = subprocess.Popen(
            [sys.executable, "-m", "jobs.train", *words],
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env=os.environ | {"RAY_AUTH_MODE": "token"},
        )
    try:
        wait_until(lambda: "waiting for room" in log.read_text() or driver.poll() is not None, 200)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(100) == 130, log.read_text()
    finally:
        driver.kill()
        driver.wait()
        ray.kill(holder)
    output = log.read_text()
    assert f"waiting for room: 0.5 CPUs needed, 0 of {total:g} free, held by " in output
    assert "held by other jobs" not in output
    assert output.endswith("error: stopped by SIGINT; the same command resumes the run\n")
    assert "Traceback" not in output
    assert run_named(place, "waits").info.status == "KILLED"


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


def test_a_failing_worker_fails_the_run_and_the_job(
    dashboard: str, packed: Path, place: Path, tmp_path: Path
):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in packed.iterdir():
        content = path.read_bytes()
        if path.name == "train-000001.tar":
            # Beyond what the command checks. The picture follows the tar header of 512 bytes.
            content = content[:512] + bytes(64) + content[576:]
        (broken / path.name).write_bytes(content)
    words = arguments(broken, place, ray__name="broken", ray__max_failures=3)
    failed = submit(dashboard, place, *words)
    assert failed.returncode == 1
    assert re.search(r"^error: job raysubmit_\w+ failed$", failed.stderr, re.MULTILINE)
    output = failed.stdout
    [error] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: training run broken failed: train-000001.tar: synthetic-")
    assert ".jpg: checksum " in error
    # Once, although three failures are allowed.
    assert len(re.findall(r"rank 0.* failed: train-000001", output)) == 1
    assert "loader.py" not in output, "a traceback"
    assert run_named(place, "broken").info.status == "FAILED"


@dataclass(frozen=True, kw_only=True)
class Drivers:
    """Three drivers of one run: the first, one that is refused, and one that takes the run over.

    `files` are those of the run and MLflow's database as the last has left them, and `files_later`
    those after the end of the first.
    """

    first: subprocess.CompletedProcess[str]
    pid: int
    refused: subprocess.CompletedProcess[str]
    last: subprocess.CompletedProcess[str]
    epochs: int
    files: dict[Path, bytes]
    files_later: dict[Path, bytes]


SECRET = "hunter2hunter2"


def stop_between_uploads(pid: int) -> None:
    """Stop a process while it holds no lock that others would wait for."""

    def is_stopped() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state_of(pid) == "T", 30)
        if f" {pid} " not in Path("/proc/locks").read_text():
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(is_stopped, 60)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def started_here(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command `jobs.train` in this process."""
    from jobs.train import main

    out, errors, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code
    return subprocess.CompletedProcess(words, status, out.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def drivers(packed: Path, place: Path) -> Drivers:
    """Start the run `twin` on shards behind signed addresses, and start it again twice."""
    import ray

    run, address = place / "runs" / "twin", ray.get_runtime_context().gcs_address
    database, pipe = place / "mlflow.db", subprocess.PIPE
    with serving() as web:
        shards = publish(web, sorted(packed.glob("train-*.tar")))
        signed = f"{shards}?X-Amz-Signature={SECRET}"
        changes = {"data__train": signed, "ray__name": "twin", "ray__address": address}
        words = arguments(packed, place, optim__epochs=500, **changes)
        command = [sys.executable, "-m", "jobs.train", *words]
        with subprocess.Popen(command, cwd=ROOT, stderr=pipe, stdout=pipe, text=True) as first:
            try:
                wait_until(lambda: "metrics" in kinds(run), 300)
                refused = started_here(words)
                stop_between_uploads(first.pid)
                # Its workers go on until the last driver has the run.
                epochs = int(sorted(run.glob("epoch_*"))[-1].name[6:10]) + 5
                more = ["--optim.epochs", str(epochs), "--ray.take-over", "true"]
                last = started_here([*words, *more])
                files = contents(run, database)
                # It would ask the run, which is another's now, to stop.
                first.send_signal(signal.SIGTERM)
                first.send_signal(signal.SIGCONT)
                output = first.communicate(timeout=120)
            finally:
                first.kill()
    return Drivers(
        first=subprocess.CompletedProcess(command, first.returncode, *output),
        pid=first.pid,
        refused=refused,
        last=last,
        epochs=epochs,
        files=files,
        files_later=contents(run, database),
    )


def test_a_second_driver_of_a_run_is_refused(drivers: Drivers):
    assert drivers.refused.returncode == 2
    expected = f"error: run twin is held by process {drivers.pid} on host "
    assert expected in drivers.refused.stderr
    assert "Ray" not in drivers.refused.stdout + drivers.refused.stderr


def test_a_driver_that_was_taken_over_leaves_nothing(drivers: Drivers):
    assert drivers.first.returncode == 1
    expected = "error: twin was taken over by process "
    assert drivers.first.stderr.splitlines()[-1].startswith(expected)
    assert drivers.files == drivers.files_later


def test_a_run_of_the_same_name_resumes_where_it_stopped(drivers: Drivers, place: Path):
    assert drivers.last.returncode == 0, drivers.last.stdout + drivers.last.stderr
    assert re.search(r"resuming from epoch_00\d\d", drivers.last.stdout)
    assert "best checkpoint" in drivers.last.stdout
    run = run_named(place, "twin")
    assert run.info.status == "FINISHED"
    assert run.data.tags["changed.optim.epochs"] == str(drivers.epochs)
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    for name in ("pckh_0.5", "train_loss"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, drivers.epochs + 1))
    assert kinds(place / "runs" / "twin").count("end") == 1


def test_a_run_stores_no_secret_of_its_uris_and_resumes_without(drivers: Drivers, place: Path):
    folder = place / "runs" / "twin"
    record = json.loads((folder / f"epoch_{drivers.epochs:04d}/checkpoint.json").read_text())
    assert record["progress"]["epochs"] == drivers.epochs
    kept = run_named(place, "twin").data.params["data.train"]
    assert kept == record["settings"]["data.train"]
    assert kept.endswith(".tar?X-Amz-Signature=***")
    assert [path for path, content in drivers.files.items() if SECRET.encode() in content] == []
    stored = [path for path in (place / "mlruns").rglob("*") if path.is_file()]
    assert stored
    assert [path for path in stored if SECRET.encode() in path.read_bytes()] == []
    for driver in (drivers.first, drivers.refused, drivers.last):
        assert SECRET not in driver.stdout + driver.stderr


def contents(run: Path, database: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (*run.rglob("*"), database) if path.is_file()}


@pytest.mark.timeout(900)
def test_the_commands_from_labels_to_corrected_labels_run_as_they_stand(
    dashboard: str,
    place: Path,
    tmp_path: Path,
    tools_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """But for one epoch of a tiny network, and for a process of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    shutil.copytree(tools_dir / "dlc_openfield", "openfield")
    page = ROOT / "docs/labels.md"
    [boxes] = re.findall(r"cat > boxes.csv <<'EOF'\n(.*?)EOF\n", page.read_text(), re.DOTALL)
    Path("boxes.csv").write_text(boxes)
    smaller = {"--optim.epochs": "1", "--model.features": "8", "--model.input-px": "64"}
    done = []
    for module, words in commands(page):
        chosen = [
            smaller.get(before, word) for before, word in zip(["", *words], words, strict=False)
        ]
        importlib.import_module(module).main(chosen)
        done.append(module)
    assert done == [
        *("jobs.pack", "jobs.train", "jobs.predict", "jobs.pack", "jobs.train", "jobs.compare")
    ]
    assert Path("out/mouse/joint-set.png").exists()
    images = json.loads(Path("out/found/predictions.json").read_text())["images"]
    assert [image["frame"] for image in images if image["people"]] == [0, 100, 200, 300]
    found, labelled = (
        json.loads(Path(f"out/{name}/index.json").read_text())["joint_set"]
        for name in ("corrected", "mouse")
    )
    assert found == labelled
    output = capfd.readouterr().out
    assert "start: weights of " in output
    assert "mouse-corrected: epoch 1, 23 people" in output


@pytest.mark.timeout(900)
def test_a_run_and_a_sweep_choose_their_best_by_average_precision_where_that_is_the_measure(
    dashboard: str, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    import ray

    import jobs.train
    import tune.sweep
    from pipeline.run.checkpoint_manager import best
    from pipeline.run.start import find_local

    bird = replace(BIRD, measures=(OKS,), sigmas=(0.5, 0.5, 0.5))
    people = {"joint_set": bird, "area": 2500.0}
    pack_samples(tmp_path / "train", [samples(16, **people)], joint_set=bird)
    pack_samples(tmp_path / "val", [samples(6, first=20, **people)], split="val", joint_set=bird)
    words = arguments(tmp_path, place, ray__name="precise", optim__epochs=3)
    words += ["--data.train", f"{tmp_path}/train/*.tar", "--data.val", f"{tmp_path}/val/*.tar"]
    words += ["--ray.address", ray.get_runtime_context().gcs_address]
    jobs.train.main(words)
    output = capfd.readouterr().out
    assert re.search(r"epoch 1/3 evaluated .*  OKS AP \d+\.\d\d  left", output)
    assert re.search(r"\nOKS AP +\d+\.\d\d\n", output)
    run = run_named(place, "precise")
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    history = [m.value for m in client.get_metric_history(run.info.run_id, "coco_ap")]
    assert len(history) == 3
    assert run.data.metrics["best_coco_ap"] == max(history) > 0
    assert "at_a_glance/coco_ap" in run.data.metrics
    assert run.data.tags["mlflow.note.content"].startswith(f"**Best: OKS AP {max(history):.2f} aft")
    chosen, metadata = best(place / "runs/precise", "coco_ap")
    assert metadata.metrics["coco_ap"] == max(history)
    assert str(find_local("precise", str(place / "runs"))) == str(chosen)
    assert f"best checkpoint: {chosen}" in output

    words += ["--ray.name", "precisely", "--optim.epochs", "1", "--search.at_once", "1"]
    tune.sweep.main([*words, "--stacks", "1", "--learning-rates", "0.01", "1e-7"])
    folder = place / "runs/precisely"
    table = pd.read_csv(folder / "trials.csv").sort_values("rank")
    scores = [
        best(folder / name, "coco_ap")[1].metrics["coco_ap"] for name in table["trial"].tolist()
    ]
    assert table["score"].tolist() == pytest.approx(scores)
    assert scores == sorted(scores, reverse=True)
    assert run_named(place, "precisely").data.metrics["best_coco_ap"] == scores[0]
    assert "OKS AP" in (folder / "report.html").read_text()


@pytest.mark.timeout(1800)  # five trainings, on a machine that may be busy
def test_a_killed_sweep_resumes_stops_poor_trials_and_reports_failed_ones(
    packed: Path, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    import ray

    from tune.sweep import main

    space = tmp_path / "three.toml"
    space.write_text("[axes]\noptim.learning_rate = [0.03, 1e-7, 1e30]\n")
    people = json.loads((packed / "index.json").read_text())["splits"]["train"]["people"]
    changes = {"optim__epochs": 5, "optim__batch_size": 2, "optim__max_bad_steps": 0}
    changes |= {"ray__name": "three", "ray__max_failures": 3, "tracking__register": "chosen"}
    words = arguments(packed, place, **changes)
    # One after another, in this order: the first to come to the rung passes. By then, after three
    # epochs, a network that learns is ahead of one that does not; two more are left to be saved.
    words += ["--space", str(space), "--search.at_once", "1", "--search.seed", "5"]
    words += ["--early.rule", "asha", "--early.grace-samples", str(3 * (people // 2 * 2))]
    words += ["--ray.address", ray.get_runtime_context().gcs_address]
    rates = ("0.03", "1e-07", "1e30")
    learns, stays, fails = (place / "runs" / "three" / f"learning_rate-{rate}" for rate in rates)

    driver = subprocess.Popen([sys.executable, "-m", "tune.sweep", *words], cwd=ROOT)
    try:
        wait_until(lambda: learns.exists(), 300)
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert f"error: sweep three is held by process {driver.pid} on " in capfd.readouterr().err
        wait_until(lambda: "metrics" in kinds(stays), 900)
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
    # Once by the sweep, and not by the training, although three failures are allowed.
    [retried] = re.findall(r"learning_rate-1e30 failed and is retried: .*", output.out)
    # Every weight is beyond all bounds after the first step.
    assert re.search(r": epoch 1, step \d of \d+, learning rate 1e\+30: the loss ", retried)
    assert "; this is bad step 1, optim.max_bad_steps allows 0; " in retried
    assert "; its samples: train-0000" in retried
    assert "bad_steps.py" not in output.out + output.err, "a traceback"
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
