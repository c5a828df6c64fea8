"""A network cut to its first stacks: its heatmaps, its size, and what is refused."""

import re
from pathlib import Path

import cv2
import pytest
import torch
from factories import checkpoint, photograph

from hourglass_ray.api import Checkpoint
from pipeline.model.build import build_network
from pipeline.model.cost import network_cost
from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import check_sound, load_network, take_snapshot, write_checkpoint
from pipeline.run.cut import cut_checkpoint
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.settings import ModelSettings, Settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A checkpoint of three stacks with a moving average and statistics of their own."""
    folder = tmp_path_factory.mktemp("runs") / "three" / "epoch_0004"
    folder.mkdir(parents=True)
    settings = Settings.from_flat(
        {
            "model.stacks": 3,
            "model.features": 8,
            "model.joints": 16,
            "model.input_px": 64,
            "optim.ema_samples": 100,
        }
    )
    network, average = (build_network(settings.model, s, CPU, zero_heads=False) for s in (0, 1))
    for one in (network, average):
        one(images())
    metadata = CheckpointMetadata(
        settings=settings,
        joint_set=MPII,
        progress=Progress(epochs=4, steps=12, samples=72),
        metrics={"pckh_0.5": 12.5},
        data={"val": "0" * 64},
    )
    write_checkpoint(folder, take_snapshot(network, metadata, average=average))
    return folder


def images() -> torch.Tensor:
    random = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return random.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("stacks", [1, 2])
def test_a_cut_network_gives_the_heatmaps_of_that_stack_to_the_bit(
    whole, tmp_path, stacks, weights
):
    full, _ = load_network(whole, CPU, weights)
    cut, _ = load_network(cut_checkpoint(whole, stacks, tmp_path), CPU, weights)
    with torch.inference_mode():
        expected, found = full(images()).stacks, cut(images()).stacks
    assert torch.equal(found, expected[:stacks])
    assert not torch.equal(expected[0], expected[1]), "stacks that agree would prove nothing"


def test_a_cut_network_has_the_size_and_cost_of_one_that_was_built_so(whole, tmp_path):
    network, metadata = load_network(cut_checkpoint(whole, 2, tmp_path), CPU)
    built = ModelSettings(stacks=2, features=8, joints=16, input_px=64)
    assert metadata.settings.model == built
    assert sum(weight.numel() for weight in network.parameters()) == network_cost(built).parameters


def test_a_cut_checkpoint_keeps_what_it_is_and_leaves_the_metrics_of_the_whole(whole, tmp_path):
    cut = cut_checkpoint(whole, 1, tmp_path)
    metadata = check_sound(cut)
    assert cut == tmp_path / "three" / "epoch_0004-stacks-1"
    assert metadata.progress == Progress(epochs=4, steps=12, samples=72)
    assert metadata.data == {"val": "0" * 64}
    assert metadata.metrics == {}


@pytest.mark.parametrize("stacks", [0, 3])
def test_all_stacks_are_the_checkpoint_itself(whole, tmp_path, stacks):
    assert cut_checkpoint(whole, stacks, tmp_path) == whole
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stacks", [-1, 4])
def test_stacks_that_the_network_does_not_have_are_refused(whole, tmp_path, stacks):
    expected = f"--stacks must be from 1 to the 3 stacks of {whole}, got {stacks}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        cut_checkpoint(whole, stacks, tmp_path)


def test_a_network_that_only_its_last_stack_supervises_can_not_be_cut(tmp_path):
    checkpoint(tmp_path / "run" / "c", **{"model.supervision": "last-stack"})
    with pytest.raises(ValueError, match="only its last stack predicts joints"):
        cut_checkpoint(tmp_path / "run" / "c", 1, tmp_path)


def test_python_predicts_with_the_cut_network(whole, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.jpg"), photograph())
    cut = cut_checkpoint(whole, 1, tmp_path)
    [expected] = Checkpoint(cut).predict(tmp_path / "photo.jpg")
    [found] = Checkpoint(whole).predict(tmp_path / "photo.jpg", stacks=1)
    assert (found.joints == expected.joints).all()
    assert (found.confidence == expected.confidence).all()


def test_a_damaged_checkpoint_is_not_cut(tmp_path):
    checkpoint(tmp_path / "run" / "c")
    path = tmp_path / "run" / "c" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors: checksum mismatch"):
        cut_checkpoint(tmp_path / "run" / "c", 1, tmp_path)
