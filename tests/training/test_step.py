"""One training step and what it needs, without data on disk."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.data.batch import Batch, network_input
from pipeline.model.build import build_network, compile_training, training_dtype
from pipeline.model.heatmaps import render
from pipeline.model.hourglass import Residual
from pipeline.model.loss import batch_loss
from pipeline.model.network import Heatmaps
from pipeline.model.parts import InParts, store
from pipeline.pose.joint_sets import MPII
from pipeline.settings import ModelSettings, OptimSettings, Settings
from pipeline.training.state import TrainState
from pipeline.training.step import build_optimizer, build_scaler, set_learning_rate, train_step

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
TINY = ModelSettings(stacks=1, features=8, joints=2, input_px=64, order=3)


def batch_of(joints, annotated=None, images=None, gains=None) -> Batch:
    """A batch from joints in heatmap pixels; images of 64 pixels are a fixed random pattern."""
    count, number = len(joints), len(joints[0])
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)
    return Batch(
        images=torch.from_numpy(np.asarray(images, np.uint8)),
        joints=torch.tensor(joints, dtype=torch.float32),
        annotated=torch.tensor(annotated or [[True] * number] * count),
        gains=torch.tensor(gains or [[1.0] * 3] * count),
        positions=np.arange(count),
    )


# Optimizer


def test_rmsprop_is_the_papers():
    network = build_network(TINY, 0, CPU)
    optimizer = build_optimizer(network, OptimSettings(weight_decay=0.01))
    assert isinstance(optimizer, torch.optim.RMSprop)
    [group] = optimizer.param_groups
    assert (group["lr"], group["alpha"], group["eps"]) == (2.5e-4, 0.99, 1e-8)
    assert (group["weight_decay"], group["momentum"], group["centered"]) == (0.01, 0, False)
    assert len(group["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_optimizers_update_as_torchs_own_do(name):
    settings = OptimSettings(optimizer=name, learning_rate=0.01, weight_decay=0.1)
    found = []
    for is_own in (True, False):
        weights = torch.nn.Conv2d(2, 3, 1)
        torch.nn.init.constant_(weights.weight, 0.5)
        torch.nn.init.constant_(weights.bias, 0.25)
        optimizer = build_optimizer(weights, settings)
        if not is_own:
            [kind] = type(optimizer).__bases__
            optimizer = kind(optimizer.param_groups)
        for power in (1, 2, 3):
            weights(torch.full((1, 2, 4, 4), 0.3)).pow(power).sum().backward()
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.zero_grad()
        found.append([weights.weight, weights.bias])
    assert all(map(torch.equal, *found))
    assert not torch.equal(found[0][0], torch.full_like(found[0][0], 0.5))


def test_neither_a_plan_nor_a_first_step_loads_torchs_compiler_or_matplotlib():
    code = """
import sys
import torch
import pipeline.training.loop
from pipeline.model.cost import network_cost, training_bytes
from test_step import CPU, TINY, OptimSettings, batch_of, build_network, build_optimizer, train_step

network_cost(TINY)
training_bytes(TINY, 2, torch.float32, forgetful=False)
for name in ("rmsprop", "adamw"):
    network, settings = build_network(TINY, 0, CPU), OptimSettings(optimizer=name)
    optimizer, batch = build_optimizer(network, settings), batch_of([[[3.0, 4.0], [8.0, 9.0]]])
    train_step(network, optimizer, batch, settings, CPU, torch.float32)
print({"torch._dynamo", "sympy", "matplotlib"} & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_adamw_takes_rate_and_decay():
    settings = OptimSettings(optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
    network = build_network(TINY, 0, CPU)
    optimizer = build_optimizer(network, settings)
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, spared = optimizer.param_groups
    assert (decayed["lr"], decayed["weight_decay"]) == (0.01, 0.1)
    assert (spared["lr"], spared["weight_decay"]) == (0.01, 0.0)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {id(w) for w in decayed["params"]} == {id(c.weight) for c in convolutions}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


def test_decay_shrinks_kernels_and_leaves_norms_and_biases_alone():
    network = build_network(TINY, 0, CPU)
    settings = OptimSettings(optimizer="adamw", learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(network, settings)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in network.named_parameters():
        # Without a gradient decay alone acts: 1 - 0.1 * 0.5.
        factor = 0.95 if weight.dim() == 4 else 1.0
        assert torch.allclose(weight, factor * before[name]), name


def test_without_decay_all_weights_are_one_group_in_the_networks_order():
    network = build_network(TINY, 0, CPU)
    [group] = build_optimizer(network, OptimSettings(optimizer="adamw")).param_groups
    assert [id(w) for w in group["params"]] == [id(w) for w in network.parameters()]
    assert (group["weight_decay"], group["fused"]) == (0.0, None)


def test_a_learning_rate_is_set_for_every_weight():
    optimizer = build_optimizer(build_network(TINY, 0, CPU), OptimSettings())
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 1.0})
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


# Input and loss


def test_pixels_become_floats_up_to_one_with_their_colours_varied():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, 3, 5] = (100, 200, 255)
    images[1, 3, 5] = (100, 200, 255)
    batch = batch_of([[(0, 0)]] * 2, images=images, gains=[[0.6, 1.0, 1.4], [1.0, 1.4, 0.6]])
    shown = network_input(batch, CPU)
    # Row 3, column 5; red, green, blue. Values above white are clipped to white.
    assert shown[0, :, 3, 5].tolist() == pytest.approx([60 / 255, 200 / 255, 1.0])
    assert shown[1, :, 3, 5].tolist() == pytest.approx([100 / 255, 1.0, 153 / 255])
    assert shown.sum() == pytest.approx(float(shown[:, :, 3, 5].sum()))
    assert shown.dtype == torch.float32
    assert shown.is_contiguous(memory_format=torch.channels_last)


def stacked(maps: torch.Tensor) -> Heatmaps:
    """Heatmaps of which every stack's are supervised."""
    return Heatmaps(stacks=maps, supervised=(maps,))


def gaussian_square(x: float, y: float, sigma: float, peak: float) -> float:
    """Mean square of a Gaussian on a map of 16 pixels, pixel by pixel."""
    return sum(
        (peak * np.exp(-((c - x) ** 2 + (r - y) ** 2) / (2 * sigma**2))) ** 2
        for r in range(16)
        for c in range(16)
    ) / (16 * 16)


def test_a_missing_joint_trains_an_empty_map_or_nothing():
    # Joint 0 is predicted zero, joint 1 is missing and predicted one everywhere.
    batch = batch_of([[(5.0, 6.5), (0.0, 0.0)]], annotated=[[True, False]])
    heatmaps = torch.zeros(2, 1, 2, 16, 16)
    heatmaps[:, :, 1] = 1.0
    known = gaussian_square(5.0, 6.5, 1.75, 2.0)
    zero = batch_loss(
        stacked(heatmaps), batch.joints, batch.annotated, OptimSettings(target_peak=2.0)
    )
    # Two stacks; the mean over two joints.
    assert float(zero) == pytest.approx(2 * (known + 1.0) / 2)
    mask = batch_loss(
        stacked(heatmaps),
        batch.joints,
        batch.annotated,
        OptimSettings(target_peak=2.0, missing_joints="mask"),
    )
    assert float(mask) == pytest.approx(2 * known)


def test_a_joint_far_outside_the_map_trains_as_a_missing_one():
    batch = batch_of([[(18.6, 3.0), (4.0, 4.0)]])
    heatmaps = torch.zeros(1, 1, 2, 16, 16)
    heatmaps[:, :, 0] = 3.0
    drawn = gaussian_square(4.0, 4.0, 1.0, 1.0)
    zero = batch_loss(stacked(heatmaps), batch.joints, batch.annotated, OptimSettings(sigma_px=1.0))
    assert float(zero) == pytest.approx((9.0 + drawn) / 2)
    mask = batch_loss(
        stacked(heatmaps),
        batch.joints,
        batch.annotated,
        OptimSettings(sigma_px=1.0, missing_joints="mask"),
    )
    assert float(mask) == pytest.approx(drawn)


def test_every_group_of_supervised_heatmaps_has_targets_of_its_own_size():
    # Pixel 5.5 of 16 lies at 0.375 of the side: pixel 2.5 of 8, and 1 of 4.
    batch = batch_of([[(5.5, 5.5), (1.5, 9.5)]])
    output = torch.zeros(1, 1, 2, 16, 16)
    groups = (output, torch.zeros(1, 1, 2, 8, 8), torch.zeros(1, 1, 2, 4, 4))
    optim = OptimSettings(sigma_px=0.8)
    places = {16: ((5.5, 5.5), (1.5, 9.5)), 8: ((2.5, 2.5), (0.5, 4.5)), 4: ((1, 1), (0, 2))}
    expected = 0.0
    for size, joints in places.items():
        maps = render(torch.tensor([joints]).float(), torch.tensor([[True, True]]), size, 0.8, 1.0)
        # Weighed by the area of the maps.
        expected += (size / 16) ** 2 * float(maps.square().mean())
    loss = batch_loss(
        Heatmaps(stacks=output, supervised=groups), batch.joints, batch.annotated, optim
    )
    assert float(loss) == pytest.approx(expected)


def test_heatmaps_that_are_not_supervised_cost_nothing():
    batch = batch_of([[(5.0, 5.0), (1.0, 9.0)]])
    maps = torch.stack((torch.full((1, 2, 16, 16), 9.0), torch.zeros(1, 2, 16, 16)))
    last = batch_loss(
        Heatmaps(stacks=maps, supervised=(maps[-1:],)),
        batch.joints,
        batch.annotated,
        OptimSettings(),
    )
    assert float(last) == float(
        batch_loss(stacked(maps[-1:]), batch.joints, batch.annotated, OptimSettings())
    )


def test_missing_joints_train_uniformly_or_not_at_all_with_cross_entropy():
    batch = batch_of([[(3.0, 4.0), (9.0, 9.0)]], annotated=[[True, False]])
    heatmaps = torch.zeros(1, 1, 2, 16, 16)
    # Certain of the missing joint's first pixel.
    heatmaps[0, 0, 1, 0, 0] = 50.0
    zero = batch_loss(
        stacked(heatmaps), batch.joints, batch.annotated, OptimSettings(loss="cross-entropy")
    )
    mask = batch_loss(
        stacked(heatmaps),
        batch.joints,
        batch.annotated,
        OptimSettings(loss="cross-entropy", missing_joints="mask"),
    )
    assert float(mask) == pytest.approx(np.log(256))
    assert float(zero) == pytest.approx((np.log(256) + 50 * 255 / 256) / 2)


# The network and a step


def test_heads_start_at_zero_unless_they_are_to_start_at_random():
    model = replace(TINY, stacks=2)
    zero, random = (build_network(model, 0, CPU, zero_heads=zero) for zero in (True, False))
    images = torch.rand(2, 3, 64, 64)
    assert not zero(images).stacks.any()
    assert random(images).stacks.all()
    # And nothing else differs.
    for (name, ours), theirs in zip(zero.named_parameters(), random.parameters(), strict=True):
        assert torch.equal(ours, theirs) is (".head." not in name)


def test_a_seed_gives_the_same_weights_and_leaves_other_generators_alone():
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    first, second = build_network(TINY, 7, CPU), build_network(TINY, 7, CPU)
    assert torch.equal(torch.rand(1), expected)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.stem_conv.weight, build_network(TINY, 8, CPU).stem_conv.weight)


def test_weights_are_laid_out_as_images_come():
    for name, parameter in build_network(TINY, 0, CPU).named_parameters():
        if parameter.dim() == 4:
            out, channels, height, width = parameter.shape
            assert parameter.stride() == (
                channels * height * width,
                1,
                width * channels,
                channels,
            ), (name, out)


def test_a_step_lowers_the_loss_and_moves_every_weight():
    network = build_network(TINY, 0, CPU)
    settings = OptimSettings(optimizer="adamw", learning_rate=3e-3, target_peak=10.0)
    optimizer = build_optimizer(network, settings)
    batch = batch_of([[(3.0, 4.0), (10.0, 12.0)], [(8.0, 8.0), (2.0, 13.0)]])
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    losses = [
        float(train_step(network, optimizer, batch, settings, CPU, torch.float32).loss)
        for _ in range(5)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.99 * losses[0]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert not torch.equal(parameter, before[name]), name


def test_a_returned_loss_keeps_no_graph_alive():
    network = build_network(TINY, 0, CPU)
    optimizer = build_optimizer(network, OptimSettings())
    batch = batch_of([[(3.0, 4.0), (10.0, 12.0)]] * 2)
    loss = train_step(network, optimizer, batch, OptimSettings(), CPU, torch.float32).loss
    assert not loss.requires_grad


def test_in_reduced_precision_the_weights_and_the_loss_stay_whole():
    network = build_network(TINY, 0, CPU)
    optimizer = build_optimizer(network, OptimSettings())
    batch = batch_of([[(3.0, 4.0), (10.0, 12.0)]] * 2)
    seen = []
    network.register_forward_hook(lambda *arguments: seen.append(arguments[2].stacks.dtype))
    loss = train_step(network, optimizer, batch, OptimSettings(), CPU, torch.bfloat16).loss
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("precision", "flags", "dtype"),
    [
        ("fp32", {"avx512_bf16": True}, torch.float32),
        ("bf16", {}, torch.bfloat16),
        ("fp16", {"avx512_bf16": True}, torch.float16),
        ("auto", {}, torch.float32),
        ("auto", {"avx2": True, "avx512_bf16": False}, torch.float32),
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_half_precision_is_taken_where_the_device_multiplies_it(
    monkeypatch, precision, flags, dtype
):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert training_dtype(OptimSettings(precision=precision), CPU) is dtype


@pytest.mark.parametrize(
    ("allowed", "dtype"),
    [
        ("AVX2", torch.float32),
        ("avx512_core", torch.float32),
        ("AVX512_CORE_BF16", torch.bfloat16),
        ("DEFAULT", torch.bfloat16),
    ],
)
def test_half_precision_is_not_taken_where_onednn_is_kept_from_it(monkeypatch, allowed, dtype):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert training_dtype(OptimSettings(), CPU) is dtype


# Parts of a batch, long gradients, small ones


PEOPLE = [[(3.0, 4.0), (10.0, 12.0)], [(8.0, 8.0), (2.0, 13.0)], [(5.0, 1.0), (6.0, 6.0)]] * 2


def stepped(changes, joints=PEOPLE, precision=torch.float32, scaler=None):
    """A network after a step and its loss. BatchNorm in eval mode does not depend on the parts."""
    settings = OptimSettings(target_peak=10.0, **changes)
    network = build_network(TINY, 0, CPU).eval()
    optimizer = build_optimizer(network, settings)
    step = train_step(network, optimizer, batch_of(joints), settings, CPU, precision, scaler)
    return network, float(step.loss)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_the_parts_of_a_batch_add_up_to_its_gradient(parts):
    whole, loss = stepped({})
    in_parts, same = stepped({"accumulate": parts})
    assert same == pytest.approx(loss, rel=1e-5)
    for (name, ours), theirs in zip(in_parts.named_parameters(), whole.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-5 * scale), name


def test_only_a_part_is_in_the_network_at_once():
    network = build_network(TINY, 0, CPU)
    seen = []
    network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    settings = OptimSettings(accumulate=3)
    train_step(
        network, build_optimizer(network, settings), batch_of(PEOPLE), settings, CPU, torch.float32
    )
    assert seen == [2, 2, 2]


def length(network) -> float:
    return float(torch.stack([w.grad.norm() for w in network.parameters()]).norm())


def test_long_gradients_are_shortened_and_short_ones_left():
    plain, _ = stepped({})
    whole = length(plain)
    settings = OptimSettings(target_peak=10.0, clip_norm=whole / 4)
    network = build_network(TINY, 0, CPU).eval()
    optimizer = build_optimizer(network, settings)
    step = train_step(network, optimizer, batch_of(PEOPLE), settings, CPU, torch.float32)
    # The norm returned is the one before clipping.
    assert float(step.norm) == pytest.approx(whole, rel=1e-4)
    shortened, _ = stepped({"clip_norm": whole / 4})
    assert length(shortened) == pytest.approx(whole / 4, rel=1e-4)
    # The direction stays.
    ours, theirs = (n.stacks[0].head.weight.grad for n in (shortened, plain))
    assert torch.allclose(4 * ours, theirs, rtol=1e-3, atol=1e-6 * whole)
    left, _ = stepped({"clip_norm": whole * 2})
    assert torch.equal(left.stacks[0].head.weight.grad, theirs)


def test_in_fp16_the_loss_is_scaled_and_the_step_is_not():
    scaler = build_scaler(torch.float16, CPU)
    assert scaler.is_enabled()
    assert not build_scaler(torch.bfloat16, CPU).is_enabled()
    # As it comes to be after steps that overflowed.
    scaler.load_state_dict(scaler.state_dict() | {"scale": 256.0})
    whole, loss = stepped({})
    half, same = stepped({"clip_norm": 1e9}, precision=torch.float16, scaler=scaler)
    assert same == pytest.approx(loss, rel=0.01)
    assert length(half) == pytest.approx(length(whole), rel=0.05)
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved():
    scaler = build_scaler(torch.float16, CPU)
    settings = OptimSettings(precision="fp16")
    network = build_network(TINY, 0, CPU)
    optimizer = build_optimizer(network, settings)
    head = network.stacks[0].head.weight
    before = head.detach().clone()
    hook = head.register_hook(lambda gradient: gradient * float("inf"))
    step = train_step(network, optimizer, batch_of(PEOPLE), settings, CPU, torch.float16, scaler)
    assert (step.is_taken, step.has_overflowed) == (False, True)
    assert torch.equal(head, before)
    assert scaler.get_scale() == 2.0**15
    hook.remove()
    train_step(network, optimizer, batch_of(PEOPLE), settings, CPU, torch.float16, scaler)
    assert not torch.equal(head, before)


# Memory for time


@pytest.mark.parametrize(
    ("precision", "norm"),
    [
        (torch.float32, torch.nn.BatchNorm2d),
        (torch.bfloat16, torch.nn.BatchNorm2d),
        # Without other ranks it computes on CPU too.
        (torch.float32, torch.nn.SyncBatchNorm),
    ],
)
def test_recomputed_residuals_train_as_kept_ones_do(precision, norm):
    settings = OptimSettings(target_peak=10.0, accumulate=2)
    found = []
    for recompute in (False, True):
        network = build_network(TINY, 0, CPU)
        if norm is torch.nn.SyncBatchNorm:
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
        assert any(type(module) is norm for module in network.modules())
        if recompute:
            network.recompute_residuals()
        optimizer = build_optimizer(network, settings)
        batch = batch_of(PEOPLE)
        losses = [
            train_step(network, optimizer, batch, settings, CPU, precision).loss for _ in range(3)
        ]
        found.append((losses, network))
    (kept, ours), (recomputed, theirs) = found
    assert kept == recomputed
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    # The running statistics and their counts of batches are among them.
    for (name, one), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_norms_output_is_overwritten_and_its_gradient_is_not():
    torch.manual_seed(0)
    residual = Residual(6, 6)
    x = torch.randn(2, 6, 5, 5)
    y = residual.norm1(x).relu()
    y = residual.conv2(residual.norm2(residual.conv1(y)).relu())
    expected = residual.conv3(residual.norm3(y).relu()) + x
    weights = list(residual.parameters())
    by_hand = torch.autograd.grad(expected.square().sum(), weights)
    found = residual(x)
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), weights), by_hand, strict=True
    ):
        assert torch.equal(ours, theirs)


def test_recomputed_residuals_keep_their_inputs_only():
    kept = []
    for recompute in (False, True):
        network = build_network(TINY, 0, CPU)
        if recompute:
            network.recompute_residuals()
        computed = []
        network.stem_residual2.conv2.register_forward_hook(
            lambda *_, computed=computed: computed.append(1)
        )
        network(torch.rand(2, 3, 64, 64)).stacks.sum().backward()
        kept.append(len(computed))
        with torch.no_grad():
            network(torch.rand(2, 3, 64, 64))
        assert len(computed) == kept[-1] + 1
    assert kept == [1, 2]


# Compiling takes tens of seconds, so the compiler is a stand-in for most of it.


@pytest.fixture
def compiler(monkeypatch) -> SimpleNamespace:
    """A stand-in for torch.compile: `asked` are what it was called with, `calls` counts the use."""
    made = SimpleNamespace(asked=[], calls=0)

    def stand_in(compute, **options):
        made.asked.append((compute, options))

        def counted(*inputs):
            made.calls += 1
            return compute(*inputs)

        return counted

    monkeypatch.setattr(torch, "compile", stand_in)
    monkeypatch.setenv("CXX", sys.executable)
    return made


@pytest.mark.parametrize(("device", "options"), [("cpu", {"inplace_buffers": False}), ("cuda", {})])
def test_each_part_of_a_network_in_training_is_compiled_once(compiler, device, options):
    plain, network = (build_network(TINY, 0, CPU) for _ in range(2))
    compile_training(network, torch.device(device))
    images = torch.rand(2, 3, 64, 64)
    for times in (1, 2):
        assert torch.equal(network(images).stacks, plain(images).stacks)
        # The stem in two parts; three of each of the three halvings, the innermost residual
        # between them; the end of the stack.
        assert (len(compiler.asked), compiler.calls) == (13, 13 * times)
    assert all(given == {"dynamic": False, "options": options} for _, given in compiler.asked)
    # Evaluation has batches of any size, and compiles nothing.
    with torch.no_grad():
        network.eval()(images)
    assert compiler.calls == 26


def test_compiling_on_cpu_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"^optim\.compile must be False on CPU .*'no-such-comp"):
        compile_training(build_network(TINY, 0, CPU), CPU)


_COMPILE = """
import torch
from pipeline.model.hourglass import Residual
from pipeline.model.parts import CompiledParts, store

torch.manual_seed(0)
residual, x = Residual(4, 4), torch.randn(2, 4, 8, 8)
for policy in (store, CompiledParts({"inplace_buffers": False})):
    residual.zero_grad()
    residual.norm2.reset_running_stats()
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy(residual, residual, x).float().square().mean()
    loss.backward()
    print(float(loss), float(residual.conv2.weight.grad.norm()))
    print(float(residual.norm2.running_mean.norm()))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on CPU")
def test_a_compiled_residual_has_the_gradients_of_one_that_is_not(tmp_path):
    # In a separate process: torch can't compile code that the hook for shape checks has changed.
    (tmp_path / "train.py").write_text(_COMPILE)
    done = subprocess.run(
        [sys.executable, tmp_path / "train.py"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "CXX": "g++",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
            # A process that compiles would load torch once more.
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loss, length, mean, same_loss, same_length, same_mean = map(float, done.stdout.split())
    assert same_loss == pytest.approx(loss, rel=0.02)
    assert same_length == pytest.approx(length, rel=0.05)
    assert same_mean == pytest.approx(mean, rel=0.02)


def test_compiled_training_computes_each_part_of_a_batch_and_keeps_the_weights_names(compiler):
    settings = Settings.from_flat({f"model.{n}": v for n, v in vars(TINY).items()})
    changes = {"optim.accumulate": 2, "optim.compile": True, "optim.ema_samples": 100}
    state = TrainState(settings.replaced(changes), MPII, 0, 1, CPU)
    names = build_network(TINY, 0, CPU).state_dict().keys()
    state.step(batch_of(PEOPLE), samples_in_all=6)
    assert compiler.calls == 2 * 13
    assert state.network.state_dict().keys() == names
    # The average, which is evaluated alone, is a copy with nothing compiled.
    average = state.network_of("auto")
    assert average is not state.network
    assert {part.policy for part in average.modules() if isinstance(part, InParts)} == {store}
