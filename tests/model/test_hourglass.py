"""The network against figures that follow from the authors' definition."""

import re
from dataclasses import replace

import pytest
import torch
from foreign_networks import Hg

from pipeline.model.build import build_network
from pipeline.model.cost import activation_bytes, network_cost, training_bytes
from pipeline.model.hourglass import StackedHourglass
from pipeline.settings import ModelSettings


def tiny(**changes) -> ModelSettings:
    """Return settings of one stack of eight features on 64 pixels."""
    return ModelSettings(**{"stacks": 1, "features": 8, "joints": 3, "input_px": 64} | changes)


def images(settings: ModelSettings, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, settings.input_px, settings.input_px, generator=random)


@pytest.mark.parametrize(
    ("stacks", "modules", "parameters", "gmacs"),
    [
        (1, 1, 3_426_448, 5.15),
        (2, 1, 6_570_400, 8.33),
        (4, 1, 12_858_304, 14.70),
        (8, 1, 25_434_112, 27.44),
        (4, 2, 24_871_872, 25.16),
        (2, 4, 24_590_752, 24.02),
        (1, 8, 24_450_192, 23.45),
    ],
)
def test_the_network_has_the_cost_of_the_authors(stacks, modules, parameters, gmacs):
    cost = network_cost(ModelSettings(stacks=stacks, modules=modules, joints=16))
    assert cost.parameters == parameters
    assert cost.macs / 1e9 == pytest.approx(gmacs, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stacks", "parameters"), [(1, 3_586_960), (2, 6_730_912), (8, 25_594_624)]
)
def test_a_wider_stem_has_the_cost_of_pytorch_pose(stacks, parameters):
    settings = ModelSettings(stacks=stacks, stem_features=256, joints=16)
    theirs = Hg(stacks=stacks, channels=256, stem=Hg.GENUINE)
    cost = network_cost(settings)
    assert cost.parameters == parameters == sum(tensor.numel() for tensor in theirs.parameters())
    # A residual is in * out/2 + 9 * (out/2)**2 + out/2 * out MACs a pixel of 64 x 64, and in * out
    # more where they differ: 128 -> 256 -> 256 takes 442,368, 128 -> 128 -> 256 takes 282,624.
    narrow = network_cost(replace(settings, stem_features=0))
    assert cost.macs - narrow.macs == 64 * 64 * (442_368 - 282_624)


def test_half_the_features_are_the_stems_default():
    [by_default, explicit] = (
        {name: tensor.shape for name, tensor in StackedHourglass(settings).state_dict().items()}
        for settings in (tiny(features=16), tiny(features=16, stem_features=8))
    )
    assert by_default == explicit


@pytest.mark.parametrize(("stacks", "gflops"), [(1, 30.9), (2, 50.0)])
def test_training_takes_six_operations_a_multiply_accumulate(stacks, gflops):
    cost = network_cost(ModelSettings(stacks=stacks, joints=16))
    assert cost.training_flops / 1e9 == pytest.approx(gflops, abs=0.05)


@pytest.mark.parametrize(("stacks", "mebibytes"), [(1, 124), (2, 187)])
def test_autograd_keeps_the_activations_that_were_measured(stacks, mebibytes):
    settings = ModelSettings(stacks=stacks, joints=16)
    found = activation_bytes(settings, torch.float32, forgetful=False)
    assert found / 2**20 == pytest.approx(mebibytes, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_those_of_a_network_in_training(dtype):
    settings = tiny(stacks=2, features=32, input_px=128)
    network, saved = StackedHourglass(settings), {}
    weights = {id(weight) for weight in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Autocast's copies of kernels are not the images'; joint and channel numbers differ from 2.
        if id(tensor) not in weights and not (tensor.dim() == 4 and len(tensor) != 2):
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    reduced = dtype is torch.bfloat16
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=reduced),
    ):
        network(images(settings))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / 2
    assert activation_bytes(settings, dtype, forgetful=False) == pytest.approx(measured, rel=0.01)


def test_a_recomputing_network_keeps_inputs_and_the_largest_part():
    # Maps are 8 features on 16, 8 and so on down to 1 pixel: order 4.
    settings = tiny(features=64, input_px=256)
    kept = activation_bytes(settings, torch.float32, forgetful=False)
    forgotten = activation_bytes(settings, torch.float32, forgetful=True)
    more = activation_bytes(
        tiny(features=64, input_px=256, stacks=3), torch.float32, forgetful=True
    )
    assert forgotten < 0.4 * kept
    # A stack's own input and its hourglass's output, and below a third of as much as the two:
    # what goes in at each resolution and what comes out; and the heatmaps that are fed back.
    a_map = 64 * 64 * 64 * 4
    stack = (2 + 2 / 3) * a_map + 3 * 64 * 64 * 4
    assert more - forgotten < 2 * 1.1 * stack


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_halves_in_half_precision():
    settings = tiny()
    parameters = network_cost(settings).parameters
    fp32 = {
        kept: activation_bytes(settings, torch.float32, forgetful=kept) for kept in (False, True)
    }
    bf16 = activation_bytes(settings, torch.bfloat16, forgetful=False)
    found = training_bytes(settings, 8, torch.float32, forgetful=False)
    assert found == 16 * parameters + 8 * fp32[False]
    found = training_bytes(settings, 8, torch.float32, forgetful=True)
    assert found == 16 * parameters + 8 * fp32[True]
    # In bf16 the weights exist twice; max-pooling's indices take as many bytes as in fp32.
    found = training_bytes(settings, 8, torch.bfloat16, forgetful=False)
    assert found == 18 * parameters + 8 * bf16
    assert 0.5 < bf16 / fp32[False] < 0.56


@pytest.mark.parametrize(
    "settings",
    [
        tiny(),
        tiny(stacks=3),
        tiny(stem_features=8),
        tiny(stem_features=6),
        # Only the last stack's loss: the others learn through what they feed back.
        tiny(stacks=3, supervision="last-stack"),
        tiny(supervision="inside"),
    ],
    ids=lambda settings: (
        f"{settings.stacks} stacks, {settings.supervision}, {settings.stem_features} in the stem"
    ),
)
def test_every_parameter_is_trained(settings):
    torch.manual_seed(0)
    network = StackedHourglass(settings)
    supervised = network(images(settings)).supervised
    sum(maps.square().sum() for maps in supervised).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias just before a BatchNorm cancels out; a kernel never does.
        if parameter.dim() == 4:
            assert parameter.grad.any(), name


@pytest.mark.parametrize(
    "settings",
    [
        tiny(),
        tiny(stacks=3, joints=16),
        tiny(order=1, input_px=8, features=4, joints=1),
        tiny(stacks=2, modules=2, order=2, features=12, input_px=48),
    ],
    ids=lambda settings: f"{settings.stacks} stacks, {settings.input_px} px",
)
def test_every_stack_predicts_a_map_a_joint_at_a_quarter_of_the_input(settings):
    predicted = StackedHourglass(settings)(images(settings)).stacks
    side = settings.input_px // 4
    assert predicted.shape == (settings.stacks, 2, settings.joints, side, side)
    assert predicted.isfinite().all()


def test_a_prediction_is_fed_back_to_the_next_stack_alone():
    settings = tiny(stacks=3)
    torch.manual_seed(0)
    network = StackedHourglass(settings).eval()
    before = network(images(settings)).stacks
    with torch.no_grad():
        network.stacks[1].merge_heatmaps.weight.add_(1.0)
    after = network(images(settings)).stacks
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2])


def test_the_last_stack_has_nothing_to_feed():
    network = StackedHourglass(tiny(stacks=2))
    assert network.stacks[0].merge_heatmaps is not None
    assert network.stacks[1].merge_heatmaps is None
    assert network.stacks[1].merge_features is None


@pytest.mark.parametrize(("order", "sees"), [(4, True), (1, False)])
def test_the_order_sets_the_receptive_field_of_an_hourglass(order, sees):
    # Order 4 turns 16 heatmap pixels into one, in which all corners of the input meet.
    settings = tiny(order=order)
    torch.manual_seed(0)
    network = StackedHourglass(settings).eval()
    image = images(settings, 1).requires_grad_()
    network(image).stacks[0, 0, 0, -1, -1].backward()
    assert image.grad[0, :, -16:, -16:].any()
    assert bool(image.grad[0, :, :16, :16].any()) is sees


# Where supervision goes


def test_every_stacks_heatmaps_are_supervised_by_default():
    settings = tiny(stacks=3)
    stacks, [supervised] = StackedHourglass(settings)(images(settings))
    assert torch.equal(supervised, stacks)
    assert len(stacks) == 3


def test_the_last_stack_alone_is_supervised_by_the_same_network():
    settings = tiny(stacks=3, supervision="last-stack")
    network = StackedHourglass(settings)
    every = StackedHourglass(tiny(stacks=3))
    assert network.state_dict().keys() == every.state_dict().keys()
    stacks, [supervised] = network(images(settings))
    assert len(stacks) == 3
    assert torch.equal(supervised, stacks[-1:])


def test_an_hourglass_supervised_inside_predicts_at_a_quarter_and_half_of_the_output():
    settings = tiny(supervision="inside", input_px=128)
    stacks, supervised = StackedHourglass(settings)(images(settings))
    assert [tuple(maps.shape) for maps in supervised] == [
        (1, 2, 3, 32, 32),
        (1, 2, 3, 8, 8),
        (1, 2, 3, 16, 16),
    ]
    assert torch.equal(supervised[0], stacks)


@pytest.mark.parametrize("order", [3, 4])
def test_predictions_inside_come_after_upsampling_and_feed_later_layers(order):
    settings = tiny(supervision="inside", order=order)
    torch.manual_seed(0)
    network = StackedHourglass(settings).eval()
    hourglass = network.stacks[0].hourglass
    assert hourglass.inside is not None
    assert hourglass.inner.inside is not None
    assert hourglass.inner.inner.inside is None
    _, (output, coarse, fine) = network(images(settings))
    with torch.no_grad():
        hourglass.inner.inside.merge_heatmaps.weight.add_(1.0)
    _, (new_output, new_coarse, new_fine) = network(images(settings))
    assert torch.equal(coarse, new_coarse)
    assert not torch.allclose(fine, new_fine)
    assert not torch.allclose(output, new_output)


def test_heads_inside_start_at_zero_too():
    settings = tiny(supervision="inside")
    network = StackedHourglass(settings)
    network.start_heads_at_zero()
    _, supervised = network(images(settings))
    assert not any(maps.any() for maps in supervised)


def test_norms_start_at_one_or_between_zero_and_one_on_the_same_kernels():
    settings, cpu = tiny(), torch.device("cpu")
    ones = build_network(settings, 3, cpu).state_dict()
    drawn = build_network(settings, 3, cpu, norm_weights="uniform").state_dict()
    again = build_network(settings, 3, cpu, norm_weights="uniform").state_dict()
    norms = [name for name in ones if re.search(r"norm\d?\.weight$", name)]
    weights = torch.cat([drawn[name] for name in norms])
    assert all(ones[name].eq(1).all() for name in norms)
    assert 0 <= weights.min() < 0.1
    assert 0.9 < weights.max() < 1
    assert weights.mean().item() == pytest.approx(0.5, abs=0.1)
    assert all(torch.equal(drawn[name], again[name]) for name in norms)
    assert all(torch.equal(ones[name], drawn[name]) for name in ones if name not in norms)


def test_supervised_heatmaps_are_half_precision_under_autocast():
    settings = tiny(supervision="inside")
    with torch.autocast("cpu", torch.bfloat16):
        supervised = StackedHourglass(settings)(images(settings)).supervised
    assert {maps.dtype for maps in supervised} == {torch.bfloat16}
