"""Parts 4 and 5: bad steps, waits of the host, copies to the device, and resuming."""

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.accept.checks import Check, Place, at_most, equal, fact
from jobs.benchmark.step.variants import JOINTS, random_batch
from pipeline.data.batch import Batch
from pipeline.data.prefetch import prefetch
from pipeline.model.build import build_network
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.training.updater import Updater

_MODEL = ModelSettings(stacks=1, joints=JOINTS, features=16, order=3, input_px=64)


def bad_steps(place: Place) -> Iterator[Check]:
    """Take steps that are not finite, after which all must be as before to the bit."""
    good = _batch(place)
    nan = replace(good, gains=torch.full_like(good.gains, torch.nan))
    for optimizer in ("rmsprop", "adamw"):
        updater = _updater(place, optimizer=optimizer, weight_decay=0.1)
        _train(updater, good, 3)
        for name, batch, factor in (
            ("an image that is not a number", nan, 1.0),
            ("an infinite gradient", good, torch.inf),
        ):
            changed = _changed(updater, batch, factor)
            yield equal(f"tensors that {optimizer} changes by {name}", changed, 0)
        yield fact(f"tensors that {optimizer} changes by a good step", _changed(updater, good))
    half = _updater(place, precision="fp16")
    _train(half, good, 3)
    before = half.scaler.get_scale()
    yield equal("tensors that fp16 changes by an overflow", _changed(half, good, torch.inf), 0)
    yield equal("loss scale after an overflow", half.scaler.get_scale(), before / 2)
    if place.is_gpu:
        yield equal("host waits for a good step", _waits(place, good), "no")


def _batch(place: Place, size: int = 4) -> Batch:
    return random_batch(size, _MODEL.input_px).changed(lambda tensor: tensor.to(place.device))


def _updater(place: Place, **changes: Any) -> Updater:
    settings: dict[str, Any] = {"ema_samples": 100, "precision": "fp32", "batch_size": 4}
    network = build_network(_MODEL, 0, place.device, zero_heads=False).train()
    return Updater(network, OptimSettings(**(settings | changes)), place.device)


def _train(updater: Updater, batch: Batch, steps: int, done: int = 0) -> None:
    for step in range(done, done + steps):
        updater.step(batch, 4 * (step + 1))


def _tensors(updater: Updater) -> list[Tensor]:
    """Return copies of all that a step changes: weights, moments, average and statistics."""
    assert updater.average is not None
    networks = updater.network.state_dict(), updater.average.network.state_dict()
    states = updater.optimizer.state.values()
    live = [*networks[0].values(), *networks[1].values()]
    live += [value for state in states for value in state.values()]
    return [tensor.detach().clone() for tensor in live]


def _changed(updater: Updater, batch: Batch, factor: float = 1.0) -> int:
    """Count the tensors that a step changes whose head's gradient is multiplied by `factor`."""
    before = _tensors(updater)
    head = updater.network.output_head().weight
    hook = head.register_hook(lambda gradient: gradient * factor)
    _train(updater, batch, 1)
    hook.remove()
    after = _tensors(updater)
    return sum(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def _waits(place: Place, batch: Batch) -> str:
    """Return "no", or the error by which torch reports that the host waited."""
    updater = _updater(place, optimizer="adamw", precision="bf16")
    _train(updater, batch, 3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _train(updater, batch, 1)
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def copies(place: Place) -> Iterator[Check]:
    """Copy batches beside long kernels, and resume from a file."""
    number = 200 if place.is_gpu else 5
    images = [random_batch(4, 64).images.roll(index) for index in range(number)]
    batches = [replace(random_batch(4, 64), images=each) for each in images]
    wrong = 0
    sums = []
    work = torch.ones(2048 if place.is_gpu else 8, 2048 if place.is_gpu else 8, device=place.device)
    for batch in prefetch(iter(batches), place.device):
        for _ in range(5):
            work = (work @ work).clamp(max=1.0)
        weights = torch.arange(batch.images.numel(), device=place.device) % 251
        sums.append((batch.images.ravel().long() * weights).sum())
    for found, batch in zip(sums, batches, strict=True):
        weights = torch.arange(batch.images.numel()) % 251
        wrong += int(found) != int((batch.images.ravel().long() * weights).sum())
    yield equal(f"of {number} batches copied wrongly", wrong, 0)
    yield equal("largest difference of a resumed run, deterministic", _resumed(place, True), 0.0)
    largest = _resumed(place, False)
    yield at_most("largest difference of a resumed run, as trained", largest, 0.1)


def _homes(updater: Updater) -> list[Any]:
    """Return what has a state to be saved."""
    assert updater.average is not None
    return [updater.network, updater.average.network, updater.optimizer]


def _resumed(place: Place, deterministic: bool) -> float:
    """Return the largest difference of weights between 10 + 10 steps and 20."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            whole, first, second = (_updater(place) for _ in range(3))
            steps = 10 if place.is_gpu else 2
            batch, path = _batch(place), Path(folder) / "state.pt"
            _train(whole, batch, 2 * steps)
            _train(first, batch, steps)
            torch.save([home.state_dict() for home in _homes(first)], path)
            stored = torch.load(path, weights_only=True, map_location="cpu")
            for home, state in zip(_homes(second), stored, strict=True):
                home.load_state_dict(state)
            second.restored()
            _train(second, batch, steps, done=steps)
    finally:
        torch.use_deterministic_algorithms(before)
    return max(
        float((one.double() - other.double()).abs().max())
        for one, other in zip(_tensors(whole), _tensors(second), strict=True)
    )
