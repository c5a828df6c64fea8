"""A run that starts from trained weights: what fits is taken, the rest starts anew."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import packed, settings_of
from trainers import alone, save, task_of

from pipeline.model.build import build_network
from pipeline.pose.joint_sets import LSP, MPII, JointSet
from pipeline.run.checkpoint import take_snapshot, write_checkpoint
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.run.plan import Plan, place_as_begun, plan_training
from pipeline.run.start import plan_start
from pipeline.settings import ModelSettings, Settings
from pipeline.tracking import lookup
from pipeline.tracking.description import run_spec
from pipeline.tracking.lookup import STARTS, with_start
from pipeline.training.checkpointing import Checkpointer

CPU = torch.device("cpu")


def shape(joints: int = 16, **changes) -> ModelSettings:
    return ModelSettings(**{"stacks": 1, "features": 8, "input_px": 64, "joints": joints} | changes)


def trained(
    folder: Path, joint_set: JointSet = MPII, seed: int = 1, score: float = 50.0, **changes
) -> dict:
    """Write a checkpoint of random weights, and return them."""
    model = shape(len(joint_set.joints), **changes)
    network = build_network(model, seed, CPU, zero_heads=False)
    metadata = CheckpointMetadata(
        settings=Settings(model=model),
        joint_set=joint_set,
        progress=Progress(epochs=2, steps=10, samples=640),
        metrics={"pckh_0.5": score},
    )
    folder.mkdir(parents=True)
    write_checkpoint(folder, take_snapshot(network, metadata))
    return network.state_dict()


def test_equal_networks_take_everything(tmp_path):
    weights = trained(tmp_path / "epoch_0002")
    start = plan_start(tmp_path / "epoch_0002", shape(), MPII)
    network = build_network(shape(), 7, CPU)
    start.load(network)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    tensors = len(weights)
    assert start.lines == (
        f"weights of {tmp_path / 'epoch_0002'} (640 samples of mpii)",
        f"{tensors} of {tensors} tensors fit by name and shape",
        "the heads of all 16 joints",
    )


def test_further_stacks_start_anew(tmp_path):
    weights = trained(tmp_path / "one")
    network = build_network(shape(stacks=2), 7, CPU)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start = plan_start(tmp_path / "one", shape(stacks=2), MPII)
    start.load(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name] if name in weights else before[name])
    absent = len(before) - len(weights)
    # The first stack was the last one, which feeds nothing back.
    assert start.lines[-1] == (
        f"anew, since absent there: stacks.0 (4 tensors), stacks.1 ({absent - 4} tensors)"
    )


def test_joints_of_equal_name_keep_their_heads_wherever_they_are(tmp_path):
    weights = trained(tmp_path / "mpii", stacks=2)
    # LSP's right ankle is first in both, its neck is nowhere in MPII.
    network = build_network(shape(14, stacks=2), 7, CPU)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start = plan_start(tmp_path / "mpii", shape(14, stacks=2), LSP)
    start.load(network)
    after = network.state_dict()
    head_top, neck = LSP.joints.index("head_top"), LSP.joints.index("neck")
    there = MPII.joints.index("head_top")
    for stack in (0, 1):
        head = f"stacks.{stack}.head"
        for part in ("weight", "bias"):
            name = f"{head}.{part}"
            assert torch.equal(after[name][head_top], weights[name][there])
            assert torch.equal(after[name][neck], before[name][neck])
    back = "stacks.0.merge_heatmaps.weight"
    assert torch.equal(after[back][:, head_top], weights[back][:, there])
    assert torch.equal(after[back][:, neck], before[back][:, neck])
    assert start.lines[2].startswith("the heads of 13 joints: right_ankle, right_knee")
    assert start.lines[3] == "heads anew for 1 joints: neck"


def test_a_joint_is_known_by_its_name_in_another_spelling(tmp_path):
    other = replace(MPII, joints=tuple(name.title().replace("_", "") for name in MPII.joints))
    trained(tmp_path / "a", other)
    assert plan_start(tmp_path / "a", shape(), MPII).lines[2] == "the heads of all 16 joints"


def test_joints_of_other_names_start_anew(tmp_path):
    other = replace(MPII, joints=tuple(f"part_{n}" for n in range(16)))
    weights = trained(tmp_path / "a", other)
    network = build_network(shape(), 7, CPU)
    start = plan_start(tmp_path / "a", shape(), MPII)
    start.load(network)
    after = network.state_dict()
    assert not after["stacks.0.head.weight"].any()
    assert torch.equal(after["stacks.0.conv.weight"], weights["stacks.0.conv.weight"])
    assert start.lines[2].startswith("heads anew for 16 joints: right_ankle,")


def test_a_network_of_another_width_is_refused_with_both(tmp_path):
    trained(tmp_path / "a")
    message = r"model\.start=.*: none of its \d+ tensors fits; it has model\.features=8 .* here"
    with pytest.raises(ValueError, match=message):
        plan_start(tmp_path / "a", shape(features=16), MPII)


def test_a_damaged_start_is_refused(tmp_path):
    trained(tmp_path / "a")
    (tmp_path / "a/weights.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ValueError, match=r"weights\.safetensors: checksum mismatch"):
        plan_start(tmp_path / "a", shape(), MPII)


def test_planning_resolves_a_run_to_its_best_checkpoint_and_mlflow_has_it_as_a_tag(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "runs/teacher/epoch_0002")
    settings = settings_of(packed(tmp_path), **{"model.start": "teacher"})
    plan = plan_training(settings)
    best = str(tmp_path / "runs/teacher/epoch_0002")
    assert plan.settings.model.start == best
    assert run_spec(plan).tags["start"] == f"weights of {best} (640 samples of mpii)"
    assert run_spec(plan).params["model.start"] == best
    assert plan_training(settings_of(packed(tmp_path))).settings.ray.name != plan.settings.ray.name
    # Trials of a sweep lie in another storage.
    moved = plan.settings.replaced({"ray.storage": str(tmp_path / "elsewhere")})
    assert plan_training(moved).settings.model.start == best


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("nowhere", "model.start='nowhere': no such folder, and none of this name in "),
        ("empty", "holds no checkpoint, expected the folder of a run or of one"),
    ],
)
def test_a_start_that_is_not_there_is_refused(tmp_path, monkeypatch, start, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_training(settings_of(packed(tmp_path), **{"model.start": start}))


@pytest.mark.parametrize("ema_samples", [0, 100])
def test_a_run_begins_with_the_weights_and_resumes_without_them(tmp_path, ema_samples):
    weights = trained(tmp_path / "teacher")
    data = packed(tmp_path)
    shards = [sorted((data / split).glob("*.tar")) for split in ("train", "val")]
    changes = {"model.start": str(tmp_path / "teacher"), "optim.ema_samples": ema_samples}
    trainer = alone(task_of(*shards, **changes))
    with Checkpointer(trainer, tmp_path / "run") as checkpointer:
        assert checkpointer.resume() == {}
    begun = trainer.state.network_of("auto").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in begun.items())
    list(trainer.train_epoch(1e9))
    (tmp_path / "run/epoch_0001").mkdir(parents=True)
    save(trainer, tmp_path / "run/epoch_0001", {"pckh_0.5": 1.0})
    (tmp_path / "teacher").rename(tmp_path / "gone")
    again = alone(task_of(*shards, **changes))
    with Checkpointer(again, tmp_path / "run") as checkpointer:
        checkpointer.resume()
    assert again.state.progress.epochs == 1


def begun(plan: Plan) -> None:
    """Write the run's first checkpoint."""
    metadata = CheckpointMetadata(
        settings=plan.settings,
        joint_set=MPII,
        progress=Progress(epochs=1, steps=5, samples=10),
        metrics={"pckh_0.5": 10.0},
        data=plan.checksums,
    )
    (plan.folder / "epoch_0001").mkdir(parents=True)
    network = build_network(plan.settings.model, 1, CPU)
    write_checkpoint(plan.folder / "epoch_0001", take_snapshot(network, metadata))


@pytest.mark.parametrize("key", ["model.start", "optim.teacher"])
def test_a_run_resumes_with_the_checkpoint_that_was_the_best_when_it_began(
    tmp_path, monkeypatch, key
):
    monkeypatch.chdir(tmp_path)
    former, better = (tmp_path / f"runs/source/epoch_000{epoch}" for epoch in (2, 3))
    trained(former)
    settings = settings_of(packed(tmp_path), **{key: "source"})
    plan = plan_training(settings)
    begun(plan)
    trained(better, score=60.0)
    again = plan_training(settings)
    assert again.resumes is not None
    assert again.settings == plan.settings
    # A run of its own begins with the best.
    other = {"ray.name": "other"}
    assert plan_training(settings.replaced(other)).settings.flat()[key] == str(better)
    named = settings.replaced({key: str(better), "ray.name": plan.settings.ray.name})
    with pytest.raises(ValueError, match=f"had other settings or data: {key}: {former} there"):
        plan_training(named)
    restarts = {"ray.on_change": "restart", "optim.seed": 5, "ray.name": plan.settings.ray.name}
    assert plan_training(settings.replaced(restarts)).settings.flat()[key] == str(better)
    shutil.rmtree(former)
    if key == "model.start":
        assert plan_training(settings).settings == plan.settings
        return
    with pytest.raises(ValueError, match=f"{key}='{former}': run .* no longer there, .* bring it"):
        plan_training(settings)
    learned = plan_training(named.replaced({"ray.on_change": "resume"}))
    assert learned.settings.flat()[key] == str(better)


def test_a_run_resumes_with_the_trial_that_was_the_best_of_a_sweep():
    sweep = "/runs/sweep"
    assert place_as_begun("sweep", f"{sweep}/b/epoch_2", f"{sweep}/a/epoch_1") == (
        f"{sweep}/a/epoch_1"
    )
    # The other names another run, and a checkpoint.
    assert place_as_begun("b", "/runs/b/epoch_2", "/runs/a/epoch_1") == "/runs/b/epoch_2"
    assert place_as_begun("a/epoch_2", "/runs/a/epoch_2", "/runs/a/epoch_1") == "/runs/a/epoch_2"


@pytest.mark.parametrize("key", ["model.start", "optim.teacher"])
def test_a_registered_model_is_kept_beside_the_runs(tmp_path, monkeypatch, key):
    asked = []

    def found(model: str, storage: str, uri: str, into: Path, *, argument: str) -> Path:
        asked.append((model, storage, uri, argument))
        trained(into / "model/checkpoint")
        return into / "model/checkpoint"

    monkeypatch.setattr(lookup, "find_checkpoint", found)
    storage = tmp_path / "runs"
    given = {"ray.storage": str(storage), "tracking.uri": "http://m:1"}
    settings = Settings.from_flat(given | {key: "models:/pose@champion"})
    kept = Path(with_start(settings).flat()[key])
    assert asked == [("models:/pose@champion", str(storage), "http://m:1", key)]
    assert kept.parent == storage / STARTS
    plan_start(kept, shape(), MPII)
    # The same model is kept once, and nothing is left of the download.
    assert with_start(settings).flat()[key] == str(kept)
    assert list((storage / STARTS).iterdir()) == [kept]
    assert with_start(Settings.from_flat(given)).flat()[key] == ""
