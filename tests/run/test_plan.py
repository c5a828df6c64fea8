"""Planning: settings are resolved, and impossible ones refused before anything starts."""

import errno
import io
import os
import re
import subprocess
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch
from factories import BIRD, pack_samples, packed, samples, settings_of
from web_server import publish

from jobs.train import describe
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import COCO, LSP, MPII, JointSet, Measure
from pipeline.pose.person import Visibility
from pipeline.run.checkpoint import take_snapshot, write_checkpoint
from pipeline.run.journal import Journal
from pipeline.run.layout import SWEEP_NAME
from pipeline.run.metadata import CheckpointMetadata, Plateau, Progress
from pipeline.run.ownership import HeldError, own
from pipeline.run.plan import Plan, plan_training, resolved_storage, tracking_uri, working_root
from pipeline.settings import Settings
from pipeline.tracking.description import run_spec
from pipeline.training.step import build_optimizer


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, without environment variables that matter."""
    for name in ("MLFLOW_TRACKING_URI", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(settings: Settings, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_training(settings)


def files_in(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*"))


# Resolved settings


def test_unset_settings_are_resolved(tmp_path, working_folder):
    plan = plan_training(settings_of(packed(tmp_path)))
    settings = plan.settings
    assert settings.model.joints == 16
    assert settings.ray.storage == str(working_folder / "runs")
    assert settings.tracking.uri == f"sqlite:///{working_folder / 'mlflow.db'}"
    assert re.fullmatch("mpii-s1m1-[0-9a-f]{8}", settings.ray.name)
    assert plan.folder == working_folder / "runs" / settings.ray.name
    assert plan.measure == MPII.measure("pckh")
    assert plan.joint_set == MPII
    assert (plan.train.people, plan.val.people) == (6, 2)
    assert plan.resumes is None
    assert not plan.is_complete


def test_a_plan_of_a_plan_is_the_same(tmp_path):
    plan = plan_training(settings_of(packed(tmp_path)))
    assert plan_training(plan.settings) == plan


def test_globs_become_absolute(tmp_path, monkeypatch):
    folder = packed(tmp_path)
    monkeypatch.chdir(folder)
    settings = settings_of(folder).replaced(
        {"data.train": "train/train-000000.tar, train/*1.tar", "data.val": "val/*.tar"}
    )
    data = plan_training(settings).settings.data
    assert data.train == f"{folder}/train/train-000000.tar,{folder}/train/*1.tar"
    assert data.val == f"{folder}/val/*.tar"


@pytest.mark.parametrize(("joint_set", "joints"), [(MPII, 16), (LSP, 14), (COCO, 17)])
def test_the_data_decide_how_many_joints_there_are(tmp_path, joint_set, joints):
    plan = plan_training(settings_of(packed(tmp_path, joint_set=joint_set)))
    assert plan.settings.model.joints == joints
    assert plan.measure == joint_set.measures[0]
    assert plan.settings.ray.name.startswith(f"{joint_set.name}-s1m1-")


def test_a_name_depends_on_settings_that_decide_the_outcome(tmp_path):
    here, there = packed(tmp_path), packed(tmp_path, "elsewhere")
    plain = plan_training(settings_of(here)).settings.ray.name
    assert plan_training(settings_of(there)).settings.ray.name == plain
    assert plan_training(settings_of(here, **{"model.stacks": 2})).settings.ray.name != plain
    pack_samples(there / "val", [samples(2, first=8)], split="val")
    assert plan_training(settings_of(there)).settings.ray.name != plain
    assert plan_training(settings_of(here, **{"ray.name": "mine"})).settings.ray.name == "mine"


def test_a_relative_sqlite_path_becomes_absolute(working_folder):
    assert tracking_uri("sqlite:///db/m.db") == f"sqlite:///{working_folder}/db/m.db"
    assert tracking_uri("sqlite:////db/m.db") == "sqlite:////db/m.db"
    assert tracking_uri("http://host:5000") == "http://host:5000"
    assert tracking_uri("file:db/runs") == f"file://{working_folder}/db/runs"


def test_the_environment_names_the_tracking_server_unless_the_setting_does(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://theirs:5000")
    assert tracking_uri("") == "http://theirs:5000"
    assert tracking_uri("http://ours:5000") == "http://ours:5000"


def test_a_folder_is_named_from_the_home_or_the_working_folder(working_folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolved_storage("~/runs") == "/home/someone/runs"
    assert resolved_storage("runs") == str(working_folder / "runs")
    assert resolved_storage("/disk/runs") == "/disk/runs"


def test_a_submitted_job_keeps_its_results_where_they_outlive_it(monkeypatch, working_folder):
    monkeypatch.setenv("HOME", "/home/someone")
    assert working_root() == working_folder
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert working_root() == Path("/home/someone/hourglass-ray")
    assert resolved_storage("") == "/home/someone/hourglass-ray/runs"
    assert tracking_uri("") == "sqlite:////home/someone/hourglass-ray/mlflow.db"


def test_a_submitted_job_refuses_a_relative_place_for_its_results(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match=r"ray\.storage must be absolute .* got 'runs'"):
        resolved_storage("runs")
    with pytest.raises(ValueError, match=r"tracking\.uri must be absolute .* got 'sqlite:///m.db'"):
        tracking_uri("sqlite:///m.db")
    assert resolved_storage("/shared/runs") == "/shared/runs"


def test_planning_writes_nothing(tmp_path, working_folder):
    settings = settings_of(packed(tmp_path))
    before = files_in(tmp_path)
    plan_training(settings)
    plan_training(settings.replaced({"ray.storage": str(tmp_path / "not" / "there")}))
    assert files_in(tmp_path) == before


# Refused settings


def test_no_shards_are_refused(tmp_path, working_folder):
    settings = settings_of(packed(tmp_path))
    pattern = str(tmp_path / "packed" / "train" / "nothing-*.tar")
    message = f"no shards match data.train={pattern!r} (looked from {working_folder})"
    refused(settings.replaced({"data.train": pattern}), message)
    refused(
        settings.replaced({"data.val": ""}),
        "data.val is required: a glob of shards, such as 'out/train-*.tar'; or --data DIR, the "
        "folder that jobs.pack has written",
    )


def test_storage_that_can_not_be_written_is_refused(tmp_path, working_folder):
    settings = settings_of(packed(tmp_path), **{"ray.name": "horses"})

    def message_of(storage: Path) -> str:
        with pytest.raises(ValueError, match=r"^ray\.storage=.* can't be written: ") as refusal:
            plan_training(settings.replaced({"ray.storage": str(storage)}))
        assert str(refusal.value).startswith(f"ray.storage={str(storage)!r} can't be written: ")
        return str(refusal.value)

    (tmp_path / "file").touch()
    assert "Not a directory" in message_of(tmp_path / "file")
    assert "Not a directory" in message_of(tmp_path / "file" / "below")


def test_a_file_in_the_place_of_a_runs_folder_is_refused(tmp_path, working_folder):
    settings = settings_of(packed(tmp_path), **{"ray.name": "horses"})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "horses").touch()
    message = f"^ray.name='{tmp_path}/runs/horses' can't be written: .*Not a directory"
    with pytest.raises(ValueError, match=message):
        plan_training(settings.replaced({"ray.storage": str(tmp_path / "runs")}))


def test_storage_on_a_disk_that_can_only_be_read_is_refused(tmp_path, working_folder):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    try:
        settings = settings_of(packed(tmp_path)).replaced({"ray.storage": str(place)})
        message = f"^ray.storage='{place}' can't be written: .*Read-only file system"
        with pytest.raises(ValueError, match=message):
            plan_training(settings)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_fewer_shards_than_workers_are_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **{"ray.workers": 3})
    message = (
        f"data.train={settings.data.train!r} has 2 shards, expected at least ray.workers=3; "
        "pack with a smaller --people-per-shard"
    )
    refused(settings, message)
    assert plan_training(settings.replaced({"ray.workers": 2})).settings.ray.workers == 2


def test_fewer_people_than_a_batch_are_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **{"optim.batch_size": 7})
    message = (
        f"data.train={settings.data.train!r} has 6 people, expected at least optim.batch_size=7"
    )
    refused(settings, message)
    assert plan_training(settings.replaced({"optim.batch_size": 6})).train.people == 6


def test_validation_by_other_joints_is_refused(tmp_path):
    other = settings_of(packed(tmp_path, "other", joint_set=LSP)).data.val
    settings = settings_of(packed(tmp_path)).replaced({"data.val": other})
    refused(
        settings,
        "data.train and data.val have different joint sets: mpii and lsp; expected the same",
    )


def test_validation_data_whose_joint_set_only_shares_the_name_are_refused(tmp_path):
    settings = settings_of(packed(tmp_path))
    unpaired = replace(MPII, flip_pairs=MPII.flip_pairs[1:], limbs=())
    other = settings_of(packed(tmp_path, "other", joint_set=unpaired)).data.val
    refused(
        settings.replaced({"data.val": other}),
        "data.train and data.val have different joint sets: two called mpii that differ in "
        "flip_pairs, limbs; expected the same",
    )


def test_a_custom_joint_set_is_part_of_a_runs_name(tmp_path):
    names = set()
    for number, pairs in enumerate((MPII.flip_pairs, MPII.flip_pairs[1:])):
        own = replace(MPII, name="own", flip_pairs=pairs)
        plan = plan_training(settings_of(packed(tmp_path, str(number), joint_set=own)))
        assert plan.settings.ray.name.startswith("own-s1m1-")
        names.add(plan.settings.ray.name)
    assert len(names) == 2


def test_a_number_of_joints_that_the_data_contradict_is_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **{"model.joints": 14})
    message = "model.joints must be 16 for the joint set mpii of data.train, got 14"
    refused(settings, message)
    assert plan_training(settings.replaced({"model.joints": 16})).settings.model.joints == 16


def test_an_unknown_measure_is_refused_with_the_known_ones(tmp_path):
    settings = settings_of(packed(tmp_path), **{"evaluation.measure": "pck_box"})
    message = "evaluation.measure: joint set mpii has pckh, pck_torso, not 'pck_box'"
    refused(settings, message)
    chosen = settings.replaced({"evaluation.measure": "pck_torso"})
    assert plan_training(chosen).measure.key == "pck_torso"


def test_people_without_heads_have_no_pckh(tmp_path):
    settings = settings_of(packed(tmp_path, head_size=None))
    message = (
        f"data.val={settings.data.val!r}: none of 2 people has a head size, so PCKh is undefined; "
        "pack again with --head-boxes, or set evaluation.measure to pck_torso"
    )
    refused(settings, message)
    chosen = settings.replaced({"evaluation.measure": "pck_torso"})
    assert plan_training(chosen).measure.key == "pck_torso"


def without_head_top(**changes) -> JointSet:
    """MPII's joints, whose first measure needs head-top and neck."""
    measure = Measure(
        key="pck_segment",
        title="PCK-segment",
        normaliser="segment",
        segment=(MPII.joints.index("head_top"), MPII.joints.index("upper_neck")),
        thresholds=(0.2,),
    )
    return replace(MPII, name="own", measures=(measure,))


@pytest.mark.parametrize("counted", [True, False])
def test_validation_people_who_all_lack_the_normaliser_are_refused(tmp_path, counted):
    states = [Visibility.VISIBLE] * 16
    states[MPII.joints.index("head_top")] = Visibility.MISSING
    folder = packed(tmp_path, joint_set=without_head_top(), visibility=tuple(states))
    if counted:
        index = folder / "val" / "index.json"
        index.write_text(
            index.read_text().replace('"measured": null', '"measured": {"pck_segment": 0}')
        )
    settings = settings_of(folder)
    refused(
        settings,
        f"data.val={settings.data.val!r}: none of 2 people has both head_top and upper_neck, so "
        "PCK-segment is undefined; validate on people who have both",
    )


def test_average_precision_as_the_measure_needs_sigmas_and_areas_or_boxes(tmp_path):
    folder = packed(tmp_path, joint_set=replace(BIRD, sigmas=(0.1, 0.1, 0.1)))
    settings = settings_of(folder, **{"evaluation.measure": "oks"})
    refused(
        settings,
        f"data.val={settings.data.val!r}: none of 2 people has an area or a box, so OKS is "
        "undefined; pack again with boxes or areas, or set evaluation.measure to pck_box",
    )
    sized = packed(tmp_path, "sized", replace(BIRD, sigmas=(0.1, 0.1, 0.1)), area=900.0)
    plan = plan_training(settings_of(sized, **{"evaluation.measure": "oks"}))
    assert (plan.measure.headline, plan.measure.metric_name) == ("OKS AP", "coco_ap")
    plain = settings_of(packed(tmp_path, "plain", BIRD), **{"evaluation.measure": "oks"})
    refused(
        plain,
        "evaluation.measure: joint set bird has pck_box, not 'oks'; it needs the joints' sigmas: "
        "pack with --joint-set FILE (docs/custom-joints.md)",
    )


def test_validation_people_of_whom_one_has_the_normaliser_are_enough(tmp_path):
    folder = packed(tmp_path, joint_set=without_head_top())
    assert plan_training(settings_of(folder)).measure.key == "pck_segment"


@pytest.mark.parametrize("below", ["", "/runs"])
def test_a_storage_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").touch()
    storage = f"{tmp_path / 'file'}{below}"
    settings = settings_of(packed(tmp_path), **{"ray.storage": storage})
    with pytest.raises(ValueError, match=f"^{re.escape(f'ray.storage={storage!r}')} can't be writ"):
        plan_training(settings)


@pytest.mark.parametrize("below", ["", "/deep"])
def test_a_database_whose_folder_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").touch()
    folder = f"{tmp_path / 'file'}{below}"
    settings = settings_of(packed(tmp_path), **{"tracking.uri": f"sqlite:///{folder}/mlflow.db"})
    with pytest.raises(ValueError, match=f"^{re.escape(f'tracking.uri={folder!r}')} can't be wri"):
        plan_training(settings)


def test_a_database_file_that_may_only_be_read_is_refused(tmp_path, monkeypatch):
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"")
    settings = settings_of(packed(tmp_path), **{"tracking.uri": f"sqlite:///{database}"})
    plan_training(settings)
    # Root may write any file.
    monkeypatch.setattr("pipeline.run.plan.os.access", lambda path, mode: path != database)
    refused(settings, f"tracking.uri: {database} can't be written")


def test_a_cache_that_cannot_be_written_is_refused(web, tmp_path):
    folder = packed(tmp_path)
    (tmp_path / "file").write_text("no folder")
    cache = {"data.cache": str(tmp_path / "file" / "cache")}
    # Nothing local goes through it.
    plan_training(settings_of(folder, **cache))
    paths = [folder / "train" / f"train-00000{number}.tar" for number in (0, 1)]
    settings = settings_of(folder, **cache, **{"data.train": publish(web, paths)})
    with pytest.raises(ValueError, match=r"^data\.cache='.*/file/cache' can't be written: "):
        plan_training(settings)


def test_a_storage_on_a_full_disk_is_refused(tmp_path, monkeypatch):
    settings = settings_of(packed(tmp_path), **{"ray.storage": str(tmp_path / "runs")})

    class Full(io.BytesIO):
        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.run.plan.tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(ValueError, match=r"^ray\.storage='.*' can't be written: .*No space left"):
        plan_training(settings)


def test_a_storage_that_is_neither_folder_nor_bucket_is_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **{"ray.storage": "ftp://host/runs"})
    message = (
        "ray.storage must be a folder that every node sees, or one in a bucket: s3://, gs:// or "
        "az://, got 'ftp://host/runs'"
    )
    refused(settings, message)


def test_a_tracking_uri_without_a_scheme_is_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **{"tracking.uri": "mlflow.db"})
    message = (
        "tracking.uri must be like sqlite:////path/mlflow.db or http://host:5000, of one of sqlite,"
        " postgresql, mysql, mssql, http, https, file, databricks, databricks-uc, uc, got "
        "'mlflow.db'"
    )
    refused(settings, message)


@pytest.mark.parametrize(
    "uri",
    [
        *("databricks", "databricks://profile", "databricks-uc", "uc:http://host:8080"),
        *("file:///runs", "postgresql://host/runs", "mysql+pymysql://host/runs"),
    ],
)
def test_schemes_that_mlflow_takes_are_let_through(uri):
    assert tracking_uri(uri) == uri


@pytest.mark.parametrize("uri", ["htp://host:5000", "host:5000", "runs/mlflow.db", "s3://runs"])
def test_other_schemes_are_refused(uri):
    with pytest.raises(ValueError, match=f"^tracking.uri must be like .*, got '{uri}'$"):
        tracking_uri(uri)


def test_a_store_that_another_package_adds_is_let_through(monkeypatch):
    found = EntryPoints([EntryPoint("azureml", "azureml.mlflow:store", "mlflow.tracking_store")])
    monkeypatch.setattr("pipeline.run.plan.entry_points", lambda group: found)
    assert tracking_uri("azureml://westeurope/runs") == "azureml://westeurope/runs"


def test_a_warm_up_that_no_epoch_would_outlast_is_refused(tmp_path):
    folder = packed(tmp_path)
    people = plan_training(settings_of(folder)).train.people
    whole = settings_of(folder, **{"optim.batch_size": people, "optim.epochs": 2})
    plan_training(whole.replaced({"optim.warmup_samples": 2 * people - 1}))
    refused(
        whole.replaced({"optim.warmup_samples": 2 * people}),
        f"optim.warmup_samples must be below the {2 * people} samples of all epochs, "
        f"got {2 * people}",
    )


# Resumed runs


def checkpointed(
    plan: Plan,
    epochs: int,
    data: dict[str, str] | None = None,
    epoch_steps: int = 0,
    plateau: Plateau = Plateau(),  # noqa: B008
    **changes,
) -> Path:
    """Write a checkpoint of the plan's run as training would."""
    settings = plan.settings.replaced(changes)
    folder = plan.folder / f"epoch_{epochs:04d}"
    folder.mkdir(parents=True)
    network = build_network(settings.model, 0, torch.device("cpu"))
    metadata = CheckpointMetadata(
        settings=settings,
        joint_set=MPII,
        progress=Progress(epochs=epochs, epoch_steps=epoch_steps),
        metrics={},
        plateau=plateau,
        data=plan.checksums if data is None else data,
    )
    write_checkpoint(
        folder, take_snapshot(network, metadata, optimizer=build_optimizer(network, settings.optim))
    )
    return folder


def test_a_run_resumes_from_its_newest_checkpoint(tmp_path):
    settings = settings_of(packed(tmp_path), **{"optim.epochs": 10, "ray.name": "mine"})
    plan = plan_training(settings)
    checkpointed(plan, 9)
    checkpointed(plan, 2)
    assert plan_training(settings).resumes.progress.epochs == 9
    assert not plan_training(settings).is_complete


def test_a_run_with_all_its_epochs_is_complete(tmp_path):
    settings = settings_of(packed(tmp_path), **{"optim.epochs": 10, "ray.name": "mine"})
    checkpointed(plan_training(settings), 10)
    plan = plan_training(settings)
    assert plan.is_complete
    assert not plan_training(settings.replaced({"optim.epochs": 11})).is_complete
    assert not replace(plan, resumes=None).is_complete


def test_a_run_that_ended_early_is_complete_until_it_may_wait_longer(tmp_path, capsys):
    settings = settings_of(
        packed(tmp_path), **{"optim.epochs": 10, "ray.name": "mine", "optim.stop_after": 3}
    )
    checkpointed(plan_training(settings), 7, plateau=Plateau(best=40.0, epochs_since=3))
    plan = plan_training(settings)
    assert plan.is_complete
    describe(plan)
    assert (
        "run mine is complete: it ended early, after epoch 7 of 10: PCKh@0.5 has not improved in 3 "
        "epochs (optim.stop_after=3); use a higher --optim.stop-after to train longer, or another "
        "--ray.name to start over\n"
    ) in capsys.readouterr().out
    for patience in (4, 0):
        longer = plan_training(settings.replaced({"optim.stop_after": patience}))
        assert (longer.is_complete, dict(longer.changes)) == (False, {})
    describe(plan_training(settings.replaced({"optim.epochs": 7})))
    assert "it ended after all 7 epochs; use more --optim.epochs to" in capsys.readouterr().out


def test_a_table_without_head_sizes_is_refused_with_its_column(tmp_path):
    own = replace(MPII, name="horse", measures=MPII.measures[:1])
    folder = packed(tmp_path, joint_set=own, head_size=None)
    index = folder / "val" / "index.json"
    index.write_text(index.read_text().replace('"source": "made"', '"source": "table"'))
    settings = settings_of(folder)
    refused(
        settings,
        f"data.val={settings.data.val!r}: none of 2 people has a head size, so PCKh is undefined; "
        "pack again with a column head_size",
    )


def test_a_checkpoint_of_other_joints_in_the_runs_folder_is_refused(tmp_path):
    renamed = replace(MPII, joints=("right_foot", *MPII.joints[1:]))
    settings = settings_of(packed(tmp_path, joint_set=renamed), **{"ray.name": "mine"})
    folder = checkpointed(plan_training(settings), 3)
    refused(
        settings,
        f"run mine in {tmp_path / 'work' / 'runs'} had other settings or data: joint set: two "
        "called mpii that differ in joints. Give the former ones, another --ray.name, or "
        "--ray.on-change restart to start over and keep the former run under another name",
    )
    refused(
        settings.replaced({"ray.on_change": "resume"}),
        f"{folder}: checkpoint and data have different joint sets: two called mpii that differ in "
        "joints; expected the same",
    )


def test_a_checkpoint_of_another_network_in_the_runs_folder_is_refused(tmp_path):
    settings = settings_of(packed(tmp_path), **{"ray.name": "mine"})
    folder = checkpointed(plan_training(settings), 3, **{"model.features": 12})
    refused(
        settings,
        f"run mine in {tmp_path / 'work' / 'runs'} had other settings or data: "
        "model.features: 12 there, 8 here. Give the former ones, another --ray.name, or "
        "--ray.on-change restart to start over and keep the former run under another name",
    )
    refused(
        settings.replaced({"ray.on_change": "resume"}),
        f"{folder}: a checkpoint of another architecture: model.features is 12 there, expected 8",
    )
    assert plan_training(settings.replaced({"ray.on_change": "restart"})).resumes is None
    assert plan_training(settings.replaced({"ray.name": "other"})).resumes is None


# Other settings or data under the same name


def mine(folder: Path, **changes) -> Settings:
    return settings_of(folder, **{"ray.name": "mine", "optim.batch_size": 2} | changes)


def otherwise(*differences: str) -> str:
    """The error of a run that had other settings or data, and could resume."""
    return (
        f"run mine in {Path.cwd() / 'runs'} had other settings or data: "
        f"{'; '.join(differences)}. Give the former ones, another --ray.name, --ray.on-change "
        "resume to continue with the new ones, or --ray.on-change restart to start over and keep "
        "the former run under another name"
    )


def begun(plan: Plan) -> Journal:
    """Record the start of a plan's run, which has no checkpoint yet."""
    journal = Journal(plan.folder)
    journal.run(run_spec(plan))
    return journal


@pytest.mark.parametrize("record", [begun, lambda plan: checkpointed(plan, 1)])
def test_other_settings_under_the_same_name_are_refused_unless_one_says_what_to_do(
    tmp_path, record
):
    settings = mine(packed(tmp_path))
    record(plan_training(settings))
    changes = {"optim.learning_rate": 1e-3, "optim.batch_size": 3}
    other = settings.replaced(changes)
    rates = "optim.learning_rate: 0.00025 there, 0.001 here"
    batches = "optim.batch_size: 2 there, 3 here"
    refused(other, otherwise(rates, batches))
    resumed = plan_training(other.replaced({"ray.on_change": "resume"}))
    assert list(resumed.changes) == list(changes)
    assert not resumed.restarts
    assert run_spec(resumed).tags["changed"] == f"{rates}; {batches}"
    restarted = plan_training(other.replaced({"ray.on_change": "restart"}))
    assert restarted.restarts
    assert restarted.resumes is None
    assert "changed" not in run_spec(restarted).tags
    # The same settings need no choice, and none of them changes anything.
    for choice in ("refuse", "resume", "restart"):
        plan = plan_training(settings.replaced({"ray.on_change": choice}))
        assert (dict(plan.changes), plan.restarts) == ({}, False)


def test_other_settings_for_a_run_that_another_process_trains_name_that_process(tmp_path):
    settings = mine(packed(tmp_path))
    plan = plan_training(settings)
    begun(plan)
    other = settings.replaced({"optim.learning_rate": 1e-3, "ray.on_change": "restart"})
    with own(plan.folder, "run mine"):
        assert not plan_training(settings).changes
        with pytest.raises(HeldError, match=f"run mine is held by process {os.getpid()} on host"):
            plan_training(other)
        assert plan_training(other.replaced({"ray.take_over": True})).restarts
    assert plan_training(other).restarts


def test_the_folder_of_a_sweep_is_not_one_of_a_run(tmp_path):
    settings = mine(packed(tmp_path))
    folder = plan_training(settings).folder
    folder.mkdir(parents=True)
    (folder / SWEEP_NAME).write_text("{}")
    refused(settings, f"{folder} holds a sweep: give another ray.name to the run")


def test_of_many_differences_a_handful_is_listed(tmp_path):
    settings = mine(packed(tmp_path))
    checkpointed(plan_training(settings), 1)
    other = settings.replaced(
        {"optim.seed": 1, "data.seed": 1, "optim.epochs": 9, "optim.clip_norm": 1.0}
        | {"optim.sigma_px": 1.0, "evaluation.flip_test": False, "optim.loss": "cross-entropy"}
    )
    with pytest.raises(ValueError, match=r"0 there, 1 here; .*; .*; .*; .*; and 1 more\. Give"):
        plan_training(other)


def test_settings_that_do_not_decide_the_outcome_may_change(tmp_path):
    settings = mine(packed(tmp_path))
    checkpointed(plan_training(settings), 1)
    for harmless in (
        {"data.threads": 3},
        {"ray.hang_minutes": 1.0},
        {"optim.max_bad_steps": 1},
        {"tracking.models": 2},
    ):
        assert not plan_training(settings.replaced(harmless)).changes


def test_a_run_may_resume_with_another_number_of_workers(tmp_path):
    settings = mine(packed(tmp_path))
    checkpointed(plan_training(settings), 1)
    moved = plan_training(settings.replaced({"ray.workers": 2}))
    assert (dict(moved.changes), moved.resumes is None) == ({}, False)


def test_more_epochs_are_a_change_only_where_the_learning_rate_depends_on_them(tmp_path):
    settings = mine(packed(tmp_path))
    checkpointed(plan_training(settings), 1)
    assert not plan_training(settings.replaced({"optim.epochs": 200})).changes
    cosine = settings.replaced({"ray.name": "cosine", "optim.schedule": "cosine"})
    checkpointed(plan_training(cosine), 1)
    with pytest.raises(ValueError, match=r"optim\.epochs: 100 there, 200 here\."):
        plan_training(cosine.replaced({"optim.epochs": 200}))


def test_other_data_in_the_same_place_are_refused_and_the_same_data_elsewhere_are_not(tmp_path):
    folder = packed(tmp_path)
    settings = mine(folder)
    before = plan_training(settings)
    checkpointed(before, 1)
    moved = folder.rename(tmp_path / "moved")
    assert not plan_training(mine(moved)).changes
    packed(tmp_path, head_size=30.0)
    now = plan_training(settings.replaced({"ray.name": "other"}))
    assert before.train.checksum == now.train.checksum
    refused(
        settings,
        otherwise(f"data.val.checksum: {before.val.checksum} there, {now.val.checksum} here"),
    )


def test_data_of_a_checkpoint_without_checksums_are_those_of_the_start_or_else_of_the_place(
    tmp_path,
):
    folder = packed(tmp_path)
    plan = plan_training(mine(folder))
    checkpointed(plan, 1, data={})
    moved = folder.rename(tmp_path / "moved")
    train, val = (f"{part}/*.tar" for part in ("train", "val"))
    refused(
        mine(moved),
        otherwise(
            f"data.train: {folder / train} there, {moved / train} here",
            f"data.val: {folder / val} there, {moved / val} here",
        ),
    )
    begun(plan)
    assert not plan_training(mine(moved)).changes


def test_within_an_epoch_the_order_of_samples_can_not_change(tmp_path):
    settings = mine(packed(tmp_path))
    folder = checkpointed(plan_training(settings), 1, epoch_steps=1)
    refused(
        settings.replaced({"optim.batch_size": 3, "ray.on_change": "resume"}),
        f"{folder}: a checkpoint within an epoch of another order: optim.batch_size is 2 there, "
        "expected 3",
    )
