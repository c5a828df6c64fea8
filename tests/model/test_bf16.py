"""Prediction in bf16: the parts that stay in fp32, and the processors that use it."""

from pathlib import Path

import pytest
import torch
from factories import checkpoint
from torch import nn

from pipeline.inference.predictor import Predictor
from pipeline.model.build import Bf16Network, build_network, fastest
from pipeline.settings import ModelSettings

CPU = torch.device("cpu")
MODEL = ModelSettings(stacks=2, features=8, order=2, joints=3, input_px=64)


def test_heatmaps_of_the_last_stack_are_not_rounded():
    network = build_network(MODEL, 0, CPU)
    for stack in network.stacks:
        nn.init.constant_(stack.head.bias, 1.001)
    with torch.inference_mode():
        first, last = Bf16Network(network)(torch.rand(1, 3, 64, 64)).stacks
    # The heads start with weights of zero. In bf16 the next number above 1 is 1 + 1/128.
    assert first.unique().tolist() == [1.0]
    assert last.unique().tolist() == pytest.approx([1.001], abs=1e-7)


def test_it_predicts_as_the_network_does_up_to_rounding():
    exact = build_network(MODEL, 0, CPU, zero_heads=False).eval()
    ours = Bf16Network(build_network(MODEL, 0, CPU, zero_heads=False))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = exact(images).stacks, ours(images).stacks
    assert found.dtype == torch.float32
    # bf16 has eight bits: a share of 1/256 a layer, of errors that go either way.
    assert 1e-5 < (found - expected).abs().max() / expected.abs().max() < 0.05


def test_norms_keep_their_statistics():
    ours = Bf16Network(build_network(MODEL, 0, CPU))
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.running_mean.dtype for norm in norms} == {torch.float32}


@pytest.mark.parametrize("multiplies", [True, False])
def test_bf16_is_used_where_the_processor_multiplies_it(monkeypatch, multiplies):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": multiplies, "amx_bf16": False}
    )
    network = build_network(MODEL, 0, CPU)
    assert isinstance(fastest(network, CPU), Bf16Network) is multiplies


def test_exact_joints_are_computed_in_fp32(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    checkpoint(tmp_path / "c")
    for exact in (True, False):
        weights = Predictor(tmp_path / "c", CPU, exact=exact)._network.parameters()
        kinds = {torch.float32} if exact else {torch.float32, torch.bfloat16}
        assert {weight.dtype for weight in weights} == kinds
