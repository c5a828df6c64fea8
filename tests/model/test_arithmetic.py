"""Arithmetic with fp32 numbers on a GPU, which a CPU's settings show too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factories import checkpoint, pack_samples, samples

from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.evaluation.evaluate import Evaluator
from pipeline.inference.predictor import Frame, Predictor
from pipeline.model.arithmetic import arithmetic
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import MPII
from pipeline.run.provenance import equipment
from pipeline.settings import ModelSettings, OptimSettings, Settings
from pipeline.training.step import build_optimizer, train_step

CPU = torch.device("cpu")
TINY = ModelSettings(stacks=1, features=8, joints=16, input_px=64, order=3)


def now() -> tuple[str, str, bool]:
    cudnn = torch.backends.cudnn
    return (
        torch.backends.cuda.matmul.fp32_precision,
        cudnn.conv.fp32_precision,
        cudnn.benchmark,
    )


def noted(network: torch.nn.Module) -> list[tuple[str, str, bool]]:
    """Return a list that gets the arithmetic of each forward pass."""
    found: list[tuple[str, str, bool]] = []
    network.register_forward_pre_hook(lambda *_: found.append(now()))
    return found


def loader_of(folder: Path) -> SampleLoader:
    return SampleLoader(ShardReader(list(map(str, pack_samples(folder, [samples(2)])))), MPII, 64)


def test_kernels_are_not_chosen_by_time_where_torch_is_to_be_deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        with arithmetic("ieee", tries_kernels=True):
            assert now() == ("ieee", "ieee", False)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_arithmetic_of_before_returns_also_after_an_error():
    before, found = now(), []

    def fail() -> None:
        with arithmetic("tf32", tries_kernels=True):
            found.append(now())
            with arithmetic("ieee"):
                found.append(now())
            found.append(now())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert found == [("tf32", "tf32", True), ("ieee", "ieee", False), ("tf32", "tf32", True)]
    assert now() == before


@pytest.mark.parametrize(
    ("precision", "fp32"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")]
)
def test_training_rounds_to_tf32_only_where_asked_and_times_cudnns_kernels(
    tmp_path, precision, fp32
):
    settings = OptimSettings(precision=precision)
    batch = loader_of(tmp_path).batch(np.arange(2))
    network = build_network(TINY, 0, CPU)
    found = noted(network)
    optimizer = build_optimizer(network, settings)
    train_step(network, optimizer, batch, settings, CPU, torch.float32)
    assert found == [(fp32, fp32, True)]


@pytest.mark.parametrize(("precision", "fp32"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_evaluation_is_exact_unless_asked_otherwise(tmp_path, precision, fp32):
    settings = Settings.from_flat(
        {f"model.{name}": value for name, value in vars(TINY).items()}
        | {"evaluation.precision": precision}
    )
    loader = loader_of(tmp_path)
    network = build_network(TINY, 0, CPU)
    found = noted(network)
    evaluator = Evaluator(network=network, loader=loader, settings=settings, device=CPU)
    list(evaluator.predict([loader.batch(np.arange(2))]))
    # The images, and their mirror images.
    assert found == [(fp32, fp32, False)] * 2


@pytest.mark.parametrize(("exact", "fp32"), [(True, "ieee"), (False, "tf32")])
def test_prediction_is_exact_where_asked(tmp_path, exact, fp32):
    checkpoint(tmp_path / "c")
    predictor = Predictor(tmp_path / "c", CPU, exact=exact)
    found = noted(predictor._network)
    image = np.zeros((64, 64, 4), np.uint8)
    list(predictor.predict([predictor.view(image, Frame.of_whole(image))]))
    assert set(found) == {(fp32, fp32, False)}


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({"optim.precision": "tf32"}, "tf32, evaluated in fp32"),
        ({"evaluation.precision": "tf32"}, "bf16, evaluated in tf32"),
    ],
)
def test_a_run_records_its_arithmetic_and_what_auto_has_chosen(monkeypatch, changes, precision):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    tags = equipment(CPU, 2, Settings.from_flat(changes))
    assert (tags["precision"], tags["workers"]) == (precision, "2")
