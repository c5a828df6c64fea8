"""Parts 2 and 3: gradients beside float64 on the CPU, and joints beside those of the CPU."""

from collections.abc import Iterator
from itertools import product
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from jobs.accept.checks import Check, Place, at_most, equal, fact
from jobs.benchmark.step.curve import rendered_people
from jobs.benchmark.step.variants import JOINTS, random_batch
from pipeline.data.batch import Batch, network_input
from pipeline.evaluation.metrics import joint_counts, normalised_errors
from pipeline.model.arithmetic import Fp32, arithmetic
from pipeline.model.build import build_network
from pipeline.model.decoding import decode, predicted_heatmaps
from pipeline.model.heatmaps import render, unmirror
from pipeline.model.loss import batch_loss
from pipeline.pose.joint_sets import MPII
from pipeline.settings import Decoding, ModelSettings, OptimSettings
from pipeline.training.step import build_optimizer

CPU = torch.device("cpu")
# Share of the largest gradient below which a weight's own is rounding error: convolutions before a
# norm have biases whose gradient is zero.
_NOTHING = 1e-5
_FORMATS: tuple[tuple[str, torch.dtype | None, Fp32], ...] = (
    ("IEEE fp32", None, "ieee"),
    ("tf32", None, "tf32"),
    ("bf16", torch.bfloat16, "ieee"),
)


def gradients(place: Place) -> Iterator[Check]:
    """Compare loss, every gradient and the optimizers' updates with those of float64 on the CPU.

    A network magnifies rounding, so the bounds are multiples of how far the CPU's own fp32 and bf16
    lie from float64.
    """
    model = _model(place)
    batch = random_batch(8, model.input_px)
    loss, truth = _gradients(model, batch, CPU, None, "ieee", torch.float64)
    own = {
        dtype: _gradients(model, batch, CPU, dtype, "ieee", torch.float32)[1]
        for dtype in (None, torch.bfloat16)
    }
    fp32, bf16 = (_apart(each, truth) for each in own.values())
    yield fact("gradients of the CPU's fp32, relative error", fp32)
    yield fact("gradients of the CPU's bf16, relative error", bf16)
    bounds = {"IEEE fp32": 3 * fp32 + 1e-5, "tf32": bf16, "bf16": 2 * bf16}
    for name, dtype, arithmetic_of in _FORMATS:
        found_loss, found = _gradients(
            model, batch, place.device, dtype, arithmetic_of, torch.float32
        )
        close = 1e-4 if name == "IEEE fp32" else 0.02
        yield at_most(f"loss in {name}, relative error", abs(found_loss / loss - 1), close)
        yield at_most(f"gradients in {name}, relative error", _apart(found, truth), bounds[name])
        if name == "IEEE fp32":
            largest = max(float(each.norm()) for each in truth)
            worst = max(
                float((one - right).norm() / (3 * (cpu - right).norm() + 1e-3 * right.norm()))
                for one, cpu, right in zip(found, own[None], truth, strict=True)
                if float(right.norm()) > _NOTHING * largest
            )
            yield at_most("each weight's error over three times the CPU's and 0.1%", worst, 1.0)
    for optimizer in ("rmsprop", "adamw"):
        settings = OptimSettings(optimizer=optimizer)
        apart = _update_apart(model, settings, truth, place.device)
        yield at_most(f"weights after a step of {optimizer}, relative error", apart, 1e-5)


def _model(place: Place) -> ModelSettings:
    if place.is_gpu:
        return ModelSettings(stacks=2, joints=JOINTS)
    # With a smaller innermost map norms would magnify rounding.
    return ModelSettings(stacks=1, joints=JOINTS, features=16, order=2, input_px=64)


def _gradients(
    model: ModelSettings,
    batch: Batch,
    device: torch.device,
    reduced: torch.dtype | None,
    fp32: Fp32,
    dtype: torch.dtype,
) -> tuple[float, list[Tensor]]:
    """Return the loss and each weight's gradient in float64, with heads that start at random."""
    network = build_network(model, 0, device, zero_heads=False).to(dtype).train()
    batch = batch.changed(lambda tensor: tensor.to(device))
    images = network_input(batch, device).to(dtype)
    with arithmetic(fp32):
        with torch.autocast(device.type, reduced or torch.bfloat16, enabled=reduced is not None):
            heatmaps = network(images)
        loss = batch_loss(heatmaps, batch.joints, batch.annotated, OptimSettings())
        loss.backward()
    found = [weight.grad for weight in network.parameters()]
    return float(loss.detach()), [grad.double().cpu() for grad in found if grad is not None]


def _apart(found: list[Tensor], truth: list[Tensor]) -> float:
    """Return the norm of all differences as a share of that of the truth."""
    ours, right = (torch.cat([each.ravel() for each in part]) for part in (found, truth))
    return float((ours - right).norm() / right.norm())


def _update_apart(
    model: ModelSettings, settings: OptimSettings, gradients: list[Tensor], device: torch.device
) -> float:
    """Return how far the weights lie apart after the same gradients on `device` and on the CPU."""
    updated = []
    for each in (CPU, device):
        network = build_network(model, 0, each, zero_heads=False)
        optimizer = build_optimizer(network, settings)
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            weight.grad = torch.empty_like(weight).copy_(gradient)
        optimizer.step()
        updated.append(torch.cat([w.detach().cpu().ravel() for w in network.parameters()]))
    ours, truth = updated[1], updated[0]
    return float((ours - truth).norm() / truth.norm())


def joints(place: Place) -> Iterator[Check]:
    """Compare decoded joints, counts of PCKh, and a whole network's joints with the CPU's."""
    people = 64 if place.is_gpu else 4
    random = torch.Generator().manual_seed(0)
    truth = 4 + 56 * torch.rand(people, JOINTS, 2, generator=random)
    shown = torch.ones(people, JOINTS, dtype=torch.bool)
    maps = render(truth, shown, 64, 1.75, 1.0)
    maps = maps + 0.02 * torch.rand(maps.shape, generator=random)
    mirrored = unmirror(maps, MPII.mirror)
    size = np.full(people, 8.0)
    for decoding, flips in product(get_args(Decoding), (False, True)):
        found = []
        for device in (CPU, place.device):
            both = maps.to(device)
            if flips:
                both = (both + unmirror(mirrored.to(device), MPII.mirror)) / 2
            with arithmetic("ieee"):
                found.append(decode(both, decoding, 1.75)[0].double().cpu().numpy())
        name = f"{decoding}{' with the flip test' if flips else ''}"
        apart = float(np.abs(found[0] - found[1]).max())
        yield at_most(f"joints by {name}, heatmap pixels apart", apart, 0.01)
        counts = [
            joint_counts(normalised_errors(one, truth.double().numpy(), shown.numpy(), size))
            for one in found
        ]
        correct = [int(one.correct.sum()) for one in counts]
        yield equal(f"correct joints by {name}", correct[1], correct[0])
    yield at_most("a network's joints that differ from the CPU's", _network_apart(place), 1e-3)


def _network_apart(place: Place) -> float:
    """Return the share of joints of a network with random heads that lie elsewhere on the CPU."""
    model, people = _model(place), 32 if place.is_gpu else 2
    batch = rendered_people(people, model.input_px)
    found = []
    for device in (CPU, place.device):
        network: nn.Module = build_network(model, 0, device, zero_heads=False).eval()
        with torch.inference_mode(), arithmetic("ieee"):
            images = network_input(batch, device)
            maps = predicted_heatmaps(network, images, network(images), "mse", MPII.mirror)[-1]
            found.append(decode(maps, "quarter", 1.75)[0].cpu())
    return float(((found[0] - found[1]).abs() > 0.01).any(dim=-1).double().mean())
