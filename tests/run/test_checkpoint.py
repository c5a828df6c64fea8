"""Checkpoints: they load as saved, their metadata is readable, and foreign ones are refused."""

import hashlib
import json
import os
import platform
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from pipeline.model.build import build_network
from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import (
    check_sound,
    find_weights,
    load_network,
    load_training,
    load_weights,
    take_snapshot,
    write_checkpoint,
)
from pipeline.run.metadata import (
    CheckpointMetadata,
    Plateau,
    Progress,
    check_resumable,
    read_metadata,
)
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings
from pipeline.training.step import build_optimizer, build_scaler

CPU = torch.device("cpu")
SETTINGS = Settings.from_flat(
    {
        "data.train": "/packed/train-*.tar",
        "model.stacks": 1,
        "model.features": 8,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.optimizer": "adamw",
    }
)
METADATA = CheckpointMetadata(
    settings=SETTINGS,
    joint_set=MPII,
    progress=Progress(epochs=3, steps=12, samples=48),
    metrics={"pckh_0.5": 12.5, "val_loss": 0.25},
    plateau=Plateau(best=13.0, epochs_since=1, has_dropped=True),
    crop=CropSettings(person_px=96, margin=1.5),
)


def images() -> torch.Tensor:
    random = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return random.contiguous(memory_format=torch.channels_last)


def trained(steps: int = 2):
    """A network and its optimizer after some steps, so that both have something to keep."""
    network = build_network(SETTINGS.model, 0, CPU)
    optimizer = build_optimizer(network, SETTINGS.optim)
    for _ in range(steps):
        optimizer.zero_grad()
        network(images()).stacks.square().mean().backward()
        optimizer.step()
    return network, optimizer


def save(folder: Path, network, optimizer, **more) -> None:
    write_checkpoint(folder, take_snapshot(network, METADATA, optimizer=optimizer, **more))


@pytest.fixture
def saved(tmp_path) -> Path:
    folder = tmp_path / "epoch_0003"
    folder.mkdir()
    save(folder, *trained())
    return folder


def rewritten(folder: Path, **changes) -> None:
    """Change fields of the metadata, and write it with a checksum that matches."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text()) | changes
    del content["checksum"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"checksum": checksum}))


def test_a_loaded_network_gives_the_same_outputs(saved):
    network, _ = trained()
    loaded, metadata = load_network(saved, CPU)
    assert torch.equal(loaded(images()).stacks, network.eval()(images()).stacks)
    assert not loaded.training
    # As in training; the plain layout takes half as long again on CPU.
    assert loaded.stem_conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert metadata == METADATA


def test_a_loaded_optimizer_continues_alike(saved):
    network, optimizer = trained()
    other = build_network(SETTINGS.model, 1, CPU)
    load_weights(saved, other)
    loaded = build_optimizer(other, SETTINGS.optim)
    load_training(saved, loaded)
    ours, theirs = optimizer.state_dict(), loaded.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys() != set()
    for number, state in ours["state"].items():
        for name, value in state.items():
            assert torch.equal(value, theirs["state"][number][name]), name
    for one, stepper in ((network, optimizer), (other, loaded)):
        stepper.zero_grad()
        one.train()(images()).stacks.square().mean().backward()
        stepper.step()
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_optimizer_with_other_groups_is_refused(saved):
    network, _ = trained()
    settings = SETTINGS.replaced({"optim.weight_decay": 0.1}).optim
    message = (
        f"{saved}/optimizer.pt: optimizer state can't be loaded: it has 1 parameter groups, "
        "expected 2: optim.optimizer or optim.weight_decay was changed; use another ray.name to "
        "start over"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_training(saved, build_optimizer(network, settings))


def test_an_optimizer_from_a_gpu_runs_on_as_this_device_does(saved):
    _, optimizer = trained()
    state = torch.load(saved / "optimizer.pt")
    state["param_groups"][0] |= {"fused": True, "capturable": True}
    torch.save(state, saved / "optimizer.pt")
    load_training(saved, optimizer)
    [group] = optimizer.param_groups
    assert (group["fused"], group["capturable"]) == (None, False)


def test_a_checkpoint_of_a_run_on_cpu_asks_no_gpu(saved, monkeypatch, tmp_path):
    # There is one, which this process has not used.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[str] = []
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))
    network, optimizer = trained()
    assert "cuda" not in take_snapshot(network, METADATA, optimizer=optimizer).training["random"]
    state = torch.load(saved / "optimizer.pt")
    state["random"]["cuda"] = state["random"]["cpu"]
    torch.save(state, saved / "optimizer.pt")
    load_training(saved, optimizer)
    assert asked == []


def test_weights_and_their_average_lie_side_by_side(tmp_path):
    network, optimizer = trained()
    average = build_network(SETTINGS.model, 9, CPU)
    save(tmp_path, network, optimizer, average=average)
    for weights, expected in (("raw", network), ("ema", average), ("auto", average)):
        loaded, _ = load_network(tmp_path, CPU, weights)
        assert torch.equal(loaded.stem_conv.weight, expected.stem_conv.weight), weights
    assert (find_weights(tmp_path, "auto"), find_weights(tmp_path, "raw")) == ("ema", "raw")


def test_an_average_that_was_never_kept_is_refused(saved):
    assert find_weights(saved, "auto") == "raw"
    message = f"{saved}: no ema.safetensors: it was trained with optim.ema_samples=0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_network(saved, CPU, "ema")


def test_the_scale_of_the_loss_comes_back(tmp_path):
    network, optimizer = trained()
    scaler, fresh = (build_scaler(torch.float16, CPU) for _ in range(2))
    scaler.load_state_dict(scaler.state_dict() | {"scale": 1024.0})
    save(tmp_path, network, optimizer, scaler=scaler)
    load_training(tmp_path, optimizer, fresh)
    assert fresh.get_scale() == 1024.0
    # Without a scaler it is ignored.
    load_training(tmp_path, optimizer, build_scaler(torch.float32, CPU))
    load_training(tmp_path, optimizer)


def test_a_checkpoint_without_a_scale_starts_one(saved):
    _, optimizer = trained()
    scaler = build_scaler(torch.float16, CPU)
    load_training(saved, optimizer, scaler)
    assert scaler.get_scale() == 2.0**16


def test_the_metadata_are_readable_json(saved):
    content = json.loads((saved / "checkpoint.json").read_text())
    assert content["settings"] == SETTINGS.shown()
    assert content["settings"]["model.features"] == 8
    counted = {"epochs": 3, "epoch_steps": 0, "steps": 12, "samples": 48}
    assert content["progress"] == counted | {"bad_steps": 0, "epoch_bad_steps": 0}
    assert content["metrics"] == {"pckh_0.5": 12.5, "val_loss": 0.25}
    assert content["plateau"] == {"best": 13.0, "epochs_since": 1, "has_dropped": True}
    assert content["joint_set"] == MPII.to_json()
    assert content["crop"] == {"person_px": 96, "margin": 1.5, "jpeg_quality": 90}
    assert content["format"] == 3
    assert content["versions"]["torch"] == version("torch")
    assert content["versions"]["python"] == platform.python_version()
    assert sorted(content["files"]) == ["optimizer.pt", "weights.safetensors"]
    assert len((saved / "checkpoint.json").read_text().splitlines()) > 30


def test_metadata_from_before_bad_steps_were_counted_has_none(saved):
    rewritten(saved, progress={"epochs": 3, "epoch_steps": 0, "steps": 12, "samples": 48})
    assert read_metadata(saved) == METADATA


def test_prediction_needs_no_pickle(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "checkpoint.json",
        "optimizer.pt",
        "weights.safetensors",
    ]
    (saved / "optimizer.pt").unlink()
    loaded, _ = load_network(saved, CPU)
    assert torch.equal(loaded(images()).stacks, trained()[0].eval()(images()).stacks)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.stacks", 2), ("model.features", 16), ("model.joints", 14), ("model.input_px", 128)],
)
def test_another_architecture_is_refused_by_its_dotted_key(saved, key, value):
    message = (
        f"{saved}: a checkpoint of another architecture: {key} is "
        f"{SETTINGS.flat()[key]} there, expected {value}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_resumable(saved, read_metadata(saved), SETTINGS.replaced({key: value}), MPII)


def test_another_learning_rate_is_no_other_architecture(saved):
    others = SETTINGS.replaced({"optim.learning_rate": 1.0, "data.train": "elsewhere"})
    check_resumable(saved, read_metadata(saved), others, MPII)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "evaluation.json"])
def test_a_file_that_was_changed_is_refused_by_name(tmp_path, name):
    network, optimizer = trained()
    taken = take_snapshot(network, METADATA, optimizer=optimizer)
    write_checkpoint(tmp_path, replace(taken, extras={"evaluation.json": b"{ }"}))
    assert check_sound(tmp_path) == METADATA
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = f"{path}: checksum mismatch: the file was modified after it was written"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_sound(tmp_path)
    path.unlink()
    message = f"{path}: missing, though the checkpoint was written with it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_sound(tmp_path)


def test_metadata_that_were_changed_are_refused(saved):
    path = saved / "checkpoint.json"
    path.write_text(path.read_text().replace('"pckh_0.5": 12.5', '"pckh_0.5": 92.5'))
    message = f"{path}: checksum mismatch: the file was modified after it was written"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_metadata(saved)
    # How the file is laid out does not matter.
    path.write_text(json.dumps(json.loads(path.read_text().replace("92.5", "12.5"))))
    assert check_sound(saved) == METADATA


def test_prediction_heeds_the_weights_that_it_uses(tmp_path):
    network, optimizer = trained()
    save(tmp_path, network, optimizer, average=build_network(SETTINGS.model, 9, CPU))
    path = tmp_path / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    load_network(tmp_path, CPU, "raw")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: checksum mismatch: "):
        load_network(tmp_path, CPU)


def test_truncated_weights_are_refused_by_name(saved):
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: checksum mismatch: "):
        load_network(saved, CPU)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: weights can't be loaded: "):
        load_weights(saved, build_network(SETTINGS.model, 0, CPU))


def test_weights_of_another_network_are_refused_by_name(saved):
    other = build_network(SETTINGS.replaced({"model.features": 16}).model, 0, CPU)
    path = saved / "weights.safetensors"
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*size mismatch"):
        load_weights(saved, other)


def test_weights_that_are_gone_are_refused_by_name(saved):
    (saved / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors: missing, though "):
        load_network(saved, CPU)


def test_a_foreign_folder_is_no_checkpoint(tmp_path):
    message = f"{tmp_path}: not a checkpoint folder (no checkpoint.json)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_metadata(tmp_path)
    with pytest.raises(ValueError, match="not a checkpoint folder"):
        read_metadata(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="not a checkpoint folder"):
        read_metadata(tmp_path / "file")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_metadata_that_are_no_json_are_refused(saved, content):
    path = saved / "checkpoint.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: not readable as JSON: "):
        read_metadata(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 4}, "expected format 3, got 4"),
        ({"format": 2}, "expected format 3, got 2"),
        (
            {"settings": {"model.stackz": 1}},
            "unknown setting 'model.stackz'; did you mean 'model.stacks'?",
        ),
        ({"settings": {"model.stacks": 0}}, "model.stacks must be at least 1, got 0"),
        ({"settings": {"model.stacks": "1"}}, "model.stacks must be of type int, got '1'"),
        ({"joint_set": None}, "joint set must be a table of fields, got None"),
        ({"progress": {"epoch": 3}}, "progress: unknown field 'epoch'; did you mean 'epochs'?"),
        ({"progress": {"epochs": -1}}, "progress.epochs must be a whole number of at least 0"),
        ({"metrics": {"pckh_0.5": "1"}}, "metrics.pckh_0.5 must be a finite number, got '1'"),
    ],
)
def test_metadata_that_are_not_ours_are_refused_by_name(saved, change, message):
    rewritten(saved, **change)
    path = re.escape(str(saved / "checkpoint.json"))
    with pytest.raises(ValueError, match=f"^{path}: .*{re.escape(message)}"):
        read_metadata(saved)


def test_metadata_of_a_list_are_refused(saved):
    (saved / "checkpoint.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"checkpoint\.json: expected format 3, got None$"):
        read_metadata(saved)


class Code:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_an_optimizer_that_holds_code_is_refused(saved, tmp_path):
    torch.save({"state": Code(f"touch {tmp_path / 'ran'}")}, saved / "optimizer.pt")
    network, optimizer = trained()
    with pytest.raises(
        ValueError, match=r"optimizer.pt: optimizer state can't be loaded: Weights only load failed"
    ):
        load_training(saved, optimizer)
    assert not (tmp_path / "ran").exists()
    # The trap is one: loaded without care, it runs.
    torch.load(saved / "optimizer.pt", weights_only=False)
    assert (tmp_path / "ran").exists()
    assert network.training


def test_a_checkpoint_from_before_a_setting_has_its_default(saved):
    settings = SETTINGS.flat()
    for key in ("optim.max_bad_steps", "ray.hang_minutes", "tracking.models"):
        del settings[key]
    rewritten(saved, settings=settings)
    assert check_sound(saved) == METADATA
    check_resumable(saved, read_metadata(saved), SETTINGS, MPII)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("exp_avg"), "state 0 has step, exp_avg_sq, expected exp_avg, "),
        (
            lambda state: state.update(exp_avg=state["exp_avg"][:1]),
            "exp_avg of state 0 must be numbers of shape",
        ),
        (
            lambda state: state.update(step=torch.ones(2)),
            "step of state 0 must be numbers of shape",
        ),
    ],
)
def test_what_an_optimizer_has_stored_must_fit_its_parameters(saved, change, message):
    _, optimizer = trained()
    stored = torch.load(saved / "optimizer.pt")
    change(stored["state"][0])
    torch.save(stored, saved / "optimizer.pt")
    with pytest.raises(ValueError, match=f"optimizer state can't be loaded: {message}"):
        load_training(saved, optimizer)
