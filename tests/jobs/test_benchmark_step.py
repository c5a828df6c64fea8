"""The benchmark of the training step: what it compares, and that it runs where there is little."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jobs.benchmark.step.curve import Pupil, goals_of, learning_curves, over_first, rendered_people
from jobs.benchmark.step.profile import KINDS, kind_of, time_shares
from jobs.benchmark.step.training_step import (
    StepBenchmark,
    curve_variants,
    found_device,
    matmul_run,
    memory_variants,
    over_plain,
    variants_of,
)
from jobs.benchmark.step.variants import Runner, Variant
from jobs.benchmark.timing import Timing
from pipeline.data.batch import network_input
from pipeline.data.synthetic.scene import render_scene

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
# Importable in every process of the command: what a bare machine lacks cannot be found.
BARE = """
import sys
from importlib.machinery import PathFinder
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {absent}:
            return super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""
ABSENT = {
    *("beartype", "braceexpand", "h5py", "jaxtyping", "matplotlib", "mlflow", "pandas", "PIL"),
    *("pyarrow", "ray", "safetensors", "scipy", "simplejpeg", "tyro", "webdataset"),
}


@pytest.mark.slow
def test_it_runs_with_torch_numpy_and_opencv_alone(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE.format(absent=ABSENT))
    options = ("--stacks", "1", "--batch", "2", "--input-px", "64", "--rounds", "1")
    path = tmp_path / "step.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jobs.benchmark", "step", *options),
            *("--memory-stacks", "--json", path, "--device", "cpu", "--curve-steps", "12"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    figures = ["over_plain_fp32", "peak_memory_mib", "to_same_loss_over_plain_fp32"]
    assert list(result)[:3] == figures
    assert result["peak_memory_mib"] == {}
    [method] = result["to_same_loss_over_plain_fp32"]
    losses = result["curves"]["runs"][0]["loss"]
    assert [len(losses[name]) for name in ("fp32 contiguous", method)] == [12, 12]
    for row in result["speed"]:
        assert row["flops_per_s"] == pytest.approx(
            row["images_per_s"] * {"training": 3, "forward": 1}[row["pass"]] * 2 * 5.15e9 / 16,
            rel=0.01,
        )
        peak = result["matmul_flops_per_s"][row["precision"]]
        assert row["of_matmul_peak"] == pytest.approx(row["flops_per_s"] / peak)
    assert "over_plain_fp32   stacks 1: " in done.stdout
    assert f"to_same_loss_over_plain_fp32   {method}: steps " in done.stdout


# The same work


def test_layouts_differ_in_memory_and_not_in_results():
    plain = Variant(stacks=1, batch=2, input_px=64, layout="contiguous")
    ours = Variant(stacks=1, batch=2, input_px=64)
    one, other = Runner(plain, CPU), Runner(ours, CPU)
    kernels = [w for w in one.network.parameters() if w.shape[-2:] == (3, 3)]
    assert all(kernel.is_contiguous() for kernel in kernels)
    assert not any(w.is_contiguous() for w in other.network.parameters() if w.shape[-1:] == (3,))
    flat = [w for w in one.network.parameters() if w.dim() == 4 and w.shape[-1] == 1]
    # A 1x1 kernel counts as contiguous in either layout; its strides tell.
    assert all(w.stride()[1] == 1 and w.stride()[0] == w.shape[1] for w in flat)
    assert all(w.stride()[-1] == 1 for w in flat)
    images = network_input(one.batch, CPU)
    one.network.eval()
    other.network.eval()
    with torch.no_grad():
        expected, found = one.network(images).stacks, other.network(images).stacks
    assert torch.allclose(expected, found, atol=1e-4 * float(expected.abs().max() + 1))


def test_every_variant_stands_beside_the_plain_one():
    settings = StepBenchmark(stacks=(1, 2), batches=(4, 8), compile=True)
    methods = ["fp32 contiguous", "fp32 channels_last", "bf16 channels_last"]
    methods += ["fp32 channels_last compiled", "bf16 channels_last compiled"]
    variants = variants_of(settings, "bf16")
    assert [variant.method for variant in variants] == 4 * methods
    assert len({variant.name for variant in variants}) == 20


def test_memory_is_measured_with_and_without_checkpointing():
    names = [v.name for v in memory_variants(StepBenchmark(), "bf16")]
    assert names == [
        "8 stacks, batch 4, fp32 contiguous",
        "8 stacks, batch 4, bf16 channels_last",
        "8 stacks, batch 4, bf16 channels_last, checkpointing",
    ]


def test_the_ratio_is_the_median_of_the_rounds_own():
    variants = variants_of(StepBenchmark(stacks=(1,)), "bf16")
    seconds = {
        "fp32 contiguous": (1.0, 2.0, 4.0),
        "fp32 channels_last": (1.0, 1.0, 1.0),
        "bf16 channels_last": (0.5, 0.5, 2.0),
    }
    timings = {
        f"1 stack, batch 4, {method} training": [
            Timing(samples=4, wall_s=s, cpu_s=s) for s in rounds
        ]
        for method, rounds in seconds.items()
    }
    assert over_plain(variants, timings, 4, "bf16") == {"1": 2.0}


# Parts


def test_shares_of_time_add_up_and_convolutions_and_optimizer_have_theirs():
    shares = time_shares(Runner(Variant(stacks=1, batch=2, input_px=64), CPU), CPU)
    assert tuple(shares) == KINDS
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares["convolution"], shares["norm"], shares["optimizer"], shares["input"]) > 0


def event_within(*names: str) -> SimpleNamespace:
    """The profiler's event of the last name, called by the one before it, and so on."""
    event = None
    for name in names:
        event = SimpleNamespace(name=name, cpu_parent=event)
    return event


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("network", "aten::conv2d", "aten::mkldnn_convolution", "aten::add_"), "convolution"),
        (
            ("autograd::engine::evaluate_function: ConvolutionBackward0", "aten::fill_"),
            "convolution",
        ),
        (("network", "aten::batch_norm", "aten::native_batch_norm"), "norm"),
        (("network", "aten::relu_", "aten::clamp_min_"), "pointwise"),
        (("autograd::engine::evaluate_function: AddBackward0", "aten::sum"), "pointwise"),
        (("network", "aten::max_pool2d"), "other"),
        (("network",), "other"),
        (("Optimizer.step#RMSprop.step", "aten::_foreach_mul_"), "optimizer"),
        (("aten::mul",), "input"),
    ],
)
def test_calls_of_an_operator_count_as_its_kind(names, kind):
    assert kind_of(event_within(*names)) == kind


def test_a_product_of_matrices_counts_two_operations_a_multiply_accumulate():
    assert matmul_run("fp32", CPU)() == 2 * 4096**3


def learned(losses: list[float], seconds_a_step: float) -> Pupil:
    return Pupil(losses=losses, seconds=[seconds_a_step * (n + 1) for n in range(len(losses))])


def test_a_loss_is_reached_when_the_mean_of_ten_steps_is_as_low():
    # One step far below does not decide: the mean falls by 0.8 with it and rises again after ten.
    pupil = learned([8.0] * 10 + [0.0] + [8.0] * 10 + [4.0] * 10, 0.5)
    assert pupil.smooth()[0] == 8.0
    assert pupil.smooth()[1] == pytest.approx(7.2)
    assert pupil.reached(7.5) == {"steps": 11, "seconds": 5.5}
    # Ten steps of which eight have a loss of 4.
    assert pupil.reached(4.81) == {"steps": 29, "seconds": 14.5}
    assert pupil.reached(3.9) is None


def test_variants_are_compared_at_losses_of_the_first_and_may_come_out_worse():
    falling = [float(loss) for loss in range(30, 0, -1)]
    # 21 means of ten steps, from 25.5 down to 5.5; ten of them end at 16.5, sixteen at 10.5.
    goals = goals_of({"plain": learned(falling, 2.0), "ours": learned(falling[::2], 1.0)})
    assert [goal["loss"] for goal in goals] == [16.5, 10.5, 5.5]
    assert goals[0]["reached"]["plain"] == {"steps": 19, "seconds": 38.0}
    # 30, 28, 26 and so on: six means from 21 down to 11.
    assert goals[0]["reached"]["ours"] == {"steps": 13, "seconds": 13.0}
    assert goals[1]["reached"]["ours"] is None
    assert over_first(goals[:1], "plain", "ours", "steps") == pytest.approx(19 / 13)
    assert over_first(goals[:1], "plain", "ours", "seconds") == pytest.approx(38 / 13)
    # Never, twice of three times.
    assert over_first(goals, "plain", "ours", "seconds") == 0.0


@pytest.mark.slow
def test_both_variants_learn_the_same_batches_from_the_same_weights():
    variants = curve_variants(StepBenchmark(batches=(2,), input_px=64), "fp32")
    assert [variant.method for variant in variants] == ["fp32 contiguous", "fp32 channels_last"]
    found = learning_curves(variants, CPU, steps=20, seeds=(3,))
    [run] = found["runs"]
    plain, ours = (run["loss"][variant.method] for variant in variants)
    assert len(plain) == 20
    # At 64 px the innermost norms see two values a channel, whose rounding they magnify.
    assert ours[0] == pytest.approx(plain[0], rel=0.01)
    assert sum(plain[10:]) < sum(plain[:10])
    assert all(taken[0] > 0 and taken == sorted(taken) for taken in run["seconds"].values())
    assert set(found["over_first"]) == {"fp32 channels_last"}


def test_people_lie_where_their_joints_are():
    batch = rendered_people(2, 128)
    [person, *_] = render_scene(0, 1)[1]
    # The frame's side of 200 * scale becomes 32 heatmap pixels, its centre (15.5, 15.5).
    expected = [(x - person.center[0]) * 32 / (200 * person.scale) + 15.5 for x, _ in person.joints]
    assert batch.joints[1, :, 0].tolist() == pytest.approx(expected, abs=0.01)
    assert batch.images.shape == (2, 128, 128, 3)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found_device("auto") == CPU
    with pytest.raises(ValueError, match="--device must be cpu or auto where torch finds no GPU"):
        found_device("cuda")
