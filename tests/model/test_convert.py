"""Converted weights: equal outputs for equal networks, and the reason where they differ."""

import hashlib
import json
import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
from factories import pack_samples, samples
from foreign_networks import Hg, PoseNet, trained
from safetensors.torch import save_file
from torch import Tensor, nn

import jobs.convert
import jobs.evaluate
from pipeline.model.conversion.state_dict import read_state_dict
from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import load_network, load_training
from pipeline.run.metadata import read_metadata
from pipeline.training.step import build_optimizer

CPU = torch.device("cpu")


def converted(tmp_path: Path, content: object, *options: str) -> Path:
    """Write the content of a foreign checkpoint, convert it, and return the folder."""
    path, out = tmp_path / "theirs.pth.tar", tmp_path / "converted"
    torch.save(content, path)
    jobs.convert.main(["--weights", str(path), "--out", str(out), *options])
    return out


def error_on_refusal(tmp_path: Path, capsys, content: object, *options: str) -> str:
    """Return the error for weights that are refused, without the file's name."""
    with pytest.raises(SystemExit) as end:
        converted(tmp_path, content, *options)
    assert end.value.code == 2
    assert not (tmp_path / "converted").exists()
    message = capsys.readouterr().err
    start = f"error: {tmp_path / 'theirs.pth.tar'}: "
    assert message.startswith(start)
    return message.removeprefix(start)


def images(side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def prefixed(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


# Equal networks

NETWORKS = [
    pytest.param(lambda: Hg(stacks=1), (1, 1, 4), id="hg, 1 stack"),
    pytest.param(lambda: Hg(blocks=2), (2, 2, 4), id="hg, 2 stacks of 2 blocks"),
    pytest.param(lambda: Hg(stacks=3, depth=2), (3, 1, 2), id="hg, 3 stacks of depth 2"),
    pytest.param(lambda: Hg(stem=Hg.GENUINE), (2, 1, 4), id="hg, genuine stem"),
    pytest.param(lambda: Hg(stem=(1 / 2, 3 / 4, 1)), (2, 1, 4), id="hg, a stem of its own"),
    pytest.param(lambda: PoseNet(stacks=1), (1, 1, 4), id="posenet, 1 stack"),
    pytest.param(lambda: PoseNet(), (2, 1, 4), id="posenet, 2 stacks"),
    pytest.param(lambda: PoseNet(stacks=3, depth=1), (3, 1, 1), id="posenet, 3 stacks of depth 1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_every_stack_predicts_the_same(tmp_path, make, shape):
    torch.manual_seed(0)
    theirs = trained(make())
    ours, metadata = load_network(converted(tmp_path, theirs.state_dict()), CPU)
    model = metadata.settings.model
    assert (model.stacks, model.modules, model.order) == shape
    assert (model.features, model.joints, model.input_px) == (16, 16, 256)
    with torch.no_grad():
        expected, predicted = theirs(images()), ours(images()).stacks
        assert predicted.shape == (model.stacks, 2, 16, 16, 16)
        # Sums in another order differ in float32, and leave nothing in float64.
        largest = expected.abs().amax(dim=(1, 2, 3, 4), keepdim=True)
        assert ((predicted - expected).abs() <= 1e-5 * largest).all()
        expected = theirs.double()(images().double())
        predicted = ours.double()(images().double()).stacks
        assert ((predicted - expected).abs() <= 1e-12 * largest).all()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_network_that_pytorch_pose_builds_predicts_the_same_in_its_own_widths(tmp_path, prefix):
    torch.manual_seed(0)
    theirs = trained(Hg(channels=256, stem=Hg.GENUINE))
    ours, metadata = load_network(converted(tmp_path, prefixed(theirs, prefix)), CPU)
    assert (metadata.settings.model.features, metadata.settings.model.stem_features) == (256, 256)
    with torch.no_grad():
        expected, predicted = theirs(images()), ours(images()).stacks
        assert (predicted - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_stem_as_the_authors_is_the_default(tmp_path):
    _, metadata = load_network(converted(tmp_path, Hg(stacks=1).state_dict()), CPU)
    assert metadata.settings.model.stem_features == 0


@pytest.mark.parametrize(
    ("make", "wrap"),
    [
        (
            lambda: Hg(),
            lambda network: {
                "epoch": 30,
                "arch": "hg",
                "state_dict": prefixed(network, "module."),
                "best_acc": torch.tensor(0.5),
                "optimizer": torch.optim.RMSprop(network.parameters()).state_dict(),
            },
        ),
        (
            lambda: PoseNet(),
            lambda network: {
                "state_dict": prefixed(network, "model.module."),
                "optimizer": torch.optim.Adam(network.parameters()).state_dict(),
                "epoch": 30,
            },
        ),
        (lambda: Hg(), lambda network: prefixed(network, "module.")),
        (lambda: PoseNet(), lambda network: prefixed(network, "module.")),
        (lambda: Hg(), lambda network: {"epoch": 3, "model": prefixed(network, "net._orig_mod.")}),
        (
            lambda: Hg(),
            lambda network: {
                "train": {"network": network.state_dict(), "epoch": 3},
                "optimizer": {"state": {0: {"step": torch.zeros(1)}}, "param_groups": []},
            },
        ),
    ],
    ids=["pytorch-pose's checkpoint", "Princeton's checkpoint", "hg", "posenet", "model", "nested"],
)
def test_checkpoints_are_unwrapped(tmp_path, make, wrap):
    theirs = trained(make())
    ours, _ = load_network(converted(tmp_path, wrap(theirs)), CPU)
    with torch.no_grad():
        torch.testing.assert_close(ours(images()).stacks, theirs(images()), rtol=1e-4, atol=1e-5)


def test_safetensors_are_read_too(tmp_path):
    theirs, path = trained(Hg(stacks=1)), tmp_path / "theirs.safetensors"
    save_file(theirs.state_dict(), path)
    jobs.convert.main(["--weights", str(path), "--out", str(tmp_path / "new" / "converted")])
    ours, _ = load_network(tmp_path / "new" / "converted", CPU)
    with torch.no_grad():
        torch.testing.assert_close(ours(images()).stacks, theirs(images()), rtol=1e-4, atol=1e-5)


def test_safetensors_are_read_by_content(tmp_path, capsys):
    path = tmp_path / "theirs.pth"
    save_file(trained(Hg(stacks=1)).state_dict(), path)
    jobs.convert.main(["--weights", str(path), "--out", str(tmp_path / "converted")])
    assert "carried over: " in capsys.readouterr().out


def test_files_of_old_torch_count_no_batches(tmp_path):
    weights = trained(PoseNet(stacks=1)).state_dict()
    old = {key: value for key, value in weights.items() if "num_batches" not in key}
    ours, _ = load_network(converted(tmp_path, old), CPU)
    assert ours.stem_norm.num_batches_tracked == 0
    assert torch.equal(ours.stem_norm.running_var, weights["pre.0.bn.running_var"])


# Report and files


@pytest.mark.slow
def test_the_report_lists_converted_dropped_and_missing_parts(tmp_path, capsys):
    out = converted(tmp_path, prefixed(trained(PoseNet()), "model.module."))
    assert capsys.readouterr().out.splitlines() == [
        "theirs.pth.tar: Princeton's PoseNet: 2 stacks, 1 modules, order 4, 16 features, 16 joints",
        "keys: prefix model.module. removed",
        "joints: assumed to be in the order of mpii; the file has no names",
        # 31 residuals of 21 tensors, 2 with a skip of 2; 7 of the stem, 9 of each head, 4 between.
        "carried over: 684 tensors unchanged, 29,800 parameters",
        "dropped: 58 tensors of skips that the network never uses",
        "not carried over: optimizer, epoch and training settings; training can't resume from it",
        "input of the original: RGB from 0 to 1, as here",
        f"written: {out}",
    ]


def test_a_mean_that_was_subtracted_is_not_in_the_file(tmp_path, capsys):
    converted(tmp_path, trained(Hg(stacks=1)).state_dict())
    output = capsys.readouterr().out
    assert "dropped" not in output
    assert (
        "input of the original: RGB from 0 to 1 minus the mean colour of the training images"
        in output
    )


def test_double_precision_is_rounded_and_reported(tmp_path, capsys):
    converted(tmp_path, trained(Hg(stacks=1)).double().state_dict())
    assert "rounded" not in capsys.readouterr().out
    (tmp_path / "again").mkdir()
    weights = Hg(stacks=1).state_dict()
    weights["conv1.bias"] = torch.full((4,), 0.1, dtype=torch.float64)
    converted(tmp_path / "again", weights)
    assert "rounded to float32: 1 tensors\n" in capsys.readouterr().out


def test_the_record_names_the_source(tmp_path):
    out = converted(tmp_path, Hg(stacks=1).state_dict())
    content = json.loads((out / "checkpoint.json").read_text())
    digest = hashlib.sha256((tmp_path / "theirs.pth.tar").read_bytes()).hexdigest()
    origin = {"file": "theirs.pth.tar", "sha256": digest, "layout": "pytorch-pose's hg"}
    assert content["origin"] == origin
    metadata = read_metadata(out)
    assert (metadata.origin, metadata.joint_set, metadata.metrics) == (origin, MPII, {})


def test_training_cannot_resume_from_a_converted_network(tmp_path):
    out = converted(tmp_path, Hg(stacks=1).state_dict())
    network, metadata = load_network(out, CPU)
    message = f"{out}: has no optimizer.pt, so training can't resume from it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_training(out, build_optimizer(network, metadata.settings.optim))


def test_a_converted_network_can_be_evaluated(tmp_path, capsys):
    out = converted(tmp_path, trained(PoseNet(stacks=1)).state_dict())
    [val] = pack_samples(tmp_path / "val", [samples(2, joint_set=MPII)], split="val")
    jobs.evaluate.main(["--checkpoint", str(out), "--data.val", str(val), "--threads", "1"])
    assert "PCKh@0.5" in capsys.readouterr().out


# Networks that differ


def test_a_stem_that_is_wider_from_its_first_residual_is_not_ours(tmp_path, capsys):
    message = error_on_refusal(tmp_path, capsys, Hg(stacks=1, stem=(1, 1, 1)).state_dict())
    head, *keys = message.splitlines()
    assert head == (
        "the network differs from ours, nothing was converted: pytorch-pose's hg: 1 stacks, "
        "1 modules, order 4, 16 features (16 in the stem), 16 joints"
    )
    assert "  layer1.0.conv1.weight has shape (8, 4, 1, 1), expected (4, 4, 1, 1)" in keys


def test_hourglasses_without_residuals_after_them_are_not_ours(tmp_path, capsys):
    weights = Hg(stacks=1).state_dict()
    early = {key: value for key, value in weights.items() if not key.startswith("res.")}
    message = error_on_refusal(tmp_path, capsys, early)
    assert "  it has no residuals between hourglass and heatmaps (early pytorch-pose)\n" in message


@pytest.mark.parametrize(
    ("make", "reasons"),
    [
        (
            lambda: PoseNet(stacks=1, increase=8),
            [
                "its hourglasses gain 8 channels at each lower resolution (`increase`), "
                "here they keep 16",
                "hgs.0.0.low1.conv1.conv.weight has shape (12, 16, 1, 1), expected (8, 16, 1, 1)",
            ],
        ),
        (
            lambda: PoseNet(stacks=1, stem=8),
            [
                "its stem has 8 channels for any number of features, here a quarter of 16: 4",
                "pre.0.conv.weight has shape (8, 3, 7, 7), expected (4, 3, 7, 7)",
            ],
        ),
    ],
    ids=["increase", "stem"],
)
def test_another_posenet_is_refused_with_the_reason(tmp_path, capsys, make, reasons):
    message = error_on_refusal(tmp_path, capsys, make().state_dict())
    for reason in reasons:
        assert f"  {reason}\n" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.update({"fc.0.0.weight": torch.zeros(16, 8, 1, 1)}),
            "fc.0.0.weight has shape (16, 8, 1, 1), expected (16, 16, 1, 1)",
        ),
        (
            lambda weights: weights.pop("conv1.bias"),
            "conv1.bias is absent, expected shape (4,)",
        ),
        (
            # As in networks with GroupNorm.
            lambda weights: weights.pop("bn1.running_var"),
            "bn1.running_var is absent, expected shape (4,)",
        ),
        (
            lambda weights: weights.update({"attention.weight": torch.zeros(3)}),
            "attention.weight of shape (3,) has no counterpart",
        ),
        (
            # PoseNet's spare skips are ignored, as it never uses them.
            lambda weights: weights.update({"res.0.0.downsample.0.weight": torch.eye(16)}),
            "res.0.0.downsample.0.weight of shape (16, 16) has no counterpart",
        ),
        (
            lambda weights: weights["conv1.weight"].fill_(float("nan")),
            "conv1.weight has values that are not finite",
        ),
        (
            lambda weights: weights.update({"bn1.bias": torch.zeros(4, dtype=torch.int64)}),
            "bn1.bias is of torch.int64, expected torch.float32",
        ),
    ],
    ids=["shape", "bias", "statistics", "extra", "skip", "nan", "integers"],
)
def test_a_key_without_equal_is_named(tmp_path, capsys, change, message):
    weights = Hg(stacks=1).state_dict()
    change(weights)
    head, *lines = error_on_refusal(tmp_path, capsys, weights).splitlines()
    assert head.startswith("the network differs from ours, nothing was converted: ")
    assert lines == [f"  {message}"]


def test_a_long_list_of_keys_is_cut(tmp_path, capsys):
    weights = Hg(stacks=1).state_dict()
    weights |= {f"extra.{number}": torch.zeros(1) for number in range(20)}
    *_, last = error_on_refusal(tmp_path, capsys, weights).splitlines()
    assert last == "  and 8 more such keys"


def test_other_joints_are_refused(tmp_path, capsys):
    weights = Hg(stacks=1).state_dict()
    message = error_on_refusal(tmp_path, capsys, weights, "--joint-set", "lsp")
    assert message == (
        "predicts 16 joints, expected 14, as many as lsp has; with --joint-set mpii or synthetic "
        "they fit\n"
    )


# Files that are refused


def test_another_layout_is_refused_by_its_keys(tmp_path, capsys):
    message = error_on_refusal(tmp_path, capsys, nn.Linear(2, 2).state_dict())
    assert message == (
        "not a stacked hourglass of a known layout, nothing was converted: the keys are "
        "weight (2, 2), bias (2,)\n"
        "  expected for pytorch-pose's hg: missing conv1.weight, hg.0.*, score.0.weight\n"
        "  expected for Princeton's PoseNet: missing pre.0.conv.weight, hgs.0.*, "
        "outs.0.conv.weight\n"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ("conv1.weight", "stage2.0.branches.0.0.conv1.weight", "final_layer.weight"),
            "looks like HRNet: it has keys stage2.0.*, final_layer.*",
        ),
        (("conv1.weight", "layer1.0.conv1.weight", "fc.weight"), "looks like a ResNet: "),
        (("deconv_layers.0.weight", "final_layer.weight"), "looks like SimpleBaseline"),
        (("backbone.conv1.weight", "keypoint_head.x.weight"), "looks like a network of MMPose"),
        (("stem_conv.weight", "stacks.0.head.weight"), "this repository's network, which needs"),
        (("conv1.weight", "block.weight"), "for pytorch-pose's hg: found conv1.weight, missing hg"),
        (
            ("outs.0.conv.weight", "x.weight"),
            "PoseNet: found outs.0.conv.weight, missing pre.0.con",
        ),
    ],
)
def test_a_refusal_names_the_network_that_the_keys_suggest(tmp_path, capsys, keys, message):
    weights = {key: torch.zeros(2, 3, 1, 1) for key in keys}
    assert message in error_on_refusal(tmp_path, capsys, weights)


def test_an_hourglass_without_heads_is_refused_by_the_missing_key(tmp_path, capsys):
    weights = {"conv1.weight": torch.zeros(64, 3, 7, 7), "hg.0.hg.0.0.0.bias": torch.zeros(3)}
    assert error_on_refusal(tmp_path, capsys, weights) == (
        "score.0.weight is absent or not a convolution, expected shape (joints, features, 1, 1)\n"
    )


class Trap:
    """Creates a file when it is unpickled without care."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def test_code_in_a_file_is_not_executed(tmp_path, capsys):
    content = {"state_dict": Hg(stacks=1).state_dict(), "best_acc": Trap(tmp_path / "ran")}
    message = error_on_refusal(tmp_path, capsys, content)
    assert message == (
        "holds objects of posix.mkdir, and reading these executes code; expected "
        "only tensors, as torch.save(network.state_dict()) writes\n"
    )
    assert not (tmp_path / "ran").exists()
    # The trap works: loaded without care, it runs.
    torch.load(tmp_path / "theirs.pth.tar", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_refusal_never_advises_to_execute_a_file(tmp_path, capsys):
    path, plain = tmp_path / "jit.pt", tmp_path / "plain.pth"
    archive = torch.jit.trace(torch.nn.Identity(), torch.zeros(1))
    torch.jit.save(archive, str(path))
    plain.write_bytes(b"no weights at all")
    for file, said in (
        (
            path,
            "a TorchScript archive, which is code; expected only tensors, as "
            "torch.save(network.state_dict()) writes",
        ),
        (
            plain,
            "not readable as a torch.save file, damaged or cut off: Weights only load failed",
        ),
    ):
        with pytest.raises(SystemExit):
            jobs.convert.main(["--weights", str(file), "--out", str(tmp_path / "out")])
        assert capsys.readouterr().err == f"error: {file}: {said}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": [1.0]}, "expected tensors by name, got a dict of 'weights' of type list"),
        ({"state_dict": {}}, "expected tensors by name, got a dict of 'state_dict' of type dict"),
        ({}, "expected tensors by name, got an empty dict"),
        ({"epoch": 3, "w": torch.zeros(1)}, "expected tensors by name, got a dict of 'epoch' of"),
        (
            {"state": {0: {"step": torch.zeros(1)}}, "param_groups": []},
            "expected tensors by name, got an optimizer's state; give the network's state_dict",
        ),
        (
            {"net_g": {"w": torch.zeros(1)}, "net_d": {"w": torch.zeros(1)}},
            "expected tensors by name, got several dicts of them: 'net_g', 'net_d'; save the",
        ),
        (torch.zeros(3), "expected tensors by name, got Tensor"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, capsys, content, message):
    assert error_on_refusal(tmp_path, capsys, content).startswith(message)


@pytest.mark.parametrize("name", ["theirs.pth", "theirs.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no weights at all", b"PK\x03\x04 cut off", b"<!DOCTYPE html>"),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, capsys, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        jobs.convert.main(["--weights", str(path), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: not readable as ")


def test_a_folder_that_exists_is_not_written_to(tmp_path, capsys):
    converted(tmp_path, Hg(stacks=1).state_dict())
    before = (tmp_path / "converted" / "checkpoint.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as end:
        converted(tmp_path, Hg(stacks=2).state_dict())
    assert end.value.code == 2
    message = f"error: --out {tmp_path / 'converted'} exists; expected a new folder\n"
    assert capsys.readouterr().err == message
    assert (tmp_path / "converted" / "checkpoint.json").stat().st_mtime_ns == before


def test_weights_that_are_compressed_are_refused_before_they_are_unpacked(tmp_path):
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(1000)}, plain)
    with zipfile.ZipFile(plain) as stored, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        for name in stored.namelist():
            z.writestr(name, stored.read(name))
    assert read_state_dict(plain).tensors["a"].shape == (1000,)
    with pytest.raises(ValueError, match=r"packed\.pth: .* it is compressed, expected a file as"):
        read_state_dict(packed)


def test_a_tensor_that_repeats_an_element_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1).expand(2**40)}, path)
    assert path.stat().st_size < 2000
    with pytest.raises(ValueError, match=r"its tensors state 4,398,046,511,104 bytes, expected at"):
        read_state_dict(path)
