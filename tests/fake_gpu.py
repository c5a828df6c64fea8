"""A GPU that computes shapes alone: prints where the host waits for it, as JSON by case.

Run as a program, since it changes torch for its whole process.
"""

import ctypes
import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import torch
from factories import checkpoint, pack_samples, samples
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.evaluation.evaluate import Evaluator
from pipeline.inference.predictor import Frame, Predictor
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import MPII
from pipeline.settings import Decoding, Loss, Settings
from pipeline.training.deferred import LateRead
from pipeline.training.state import TrainState

GPU = torch.device("cuda", 0)
# What an operator reads from a GPU to know its own result.
_READERS = ("nonzero", "masked_select", "unique", "equal", "is_nonzero")
_TINY = {
    "model.stacks": 1,
    "model.features": 8,
    "model.order": 3,
    "model.joints": 16,
    "model.input_px": 64,
}
STEPS: dict[str, dict[str, Any]] = {
    "rmsprop": {"optim.precision": "fp32"},
    "rmsprop with an average": {
        "optim.precision": "bf16",
        "optim.ema_samples": 100,
        "optim.weight_decay": 0.1,
    },
    "adamw in parts": {
        "optim.optimizer": "adamw",
        "optim.precision": "bf16",
        "optim.ema_samples": 100,
        "optim.accumulate": 2,
    },
    "adamw in fp16": {
        "optim.optimizer": "adamw",
        "optim.precision": "fp16",
        "optim.clip_norm": 1.0,
        "optim.loss": "cross-entropy",
    },
}


class Waits(TorchDispatchMode):
    """Counts the operators for which the host waits until the GPU has done its work."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        on_gpu = [tensor for tensor in _tensors(args) if tensor.device.type == "cuda"]
        if name in ("_local_scalar_dense", "item"):
            # What the host reads is 1.
            self.found += [name] * bool(on_gpu)
            kind = args[0].dtype
            return True if kind is torch.bool else 1.0 if kind.is_floating_point else 1
        by_mask = name in ("index", "index_put_") and any(
            tensor.dtype is torch.bool or (tensor.device.type == "cpu" and tensor.dim())
            for tensor in _tensors(args[1])
        )
        if on_gpu and (by_mask or name.startswith(_READERS)):
            self.found.append(name)
        result = func(*args, **kwargs)
        # In inference mode the operators are those of the program, else what they are made of.
        if name in ("_to_copy", "to", "copy_", "cpu", "cuda"):
            source, target = args[1 if name == "copy_" else 0].device.type, result.device.type
            if source != target and not _argument(func, args, kwargs, "non_blocking"):
                self.found.append(f"copy to {target}")
        return result


def _argument(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    """Return an argument of an operator, given or not."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            given = args[place] if place < len(args) else argument.default_value
            return kwargs.get(name, given)
    return None


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in nested arguments."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def change_torch() -> None:
    """Let a torch for CPUs make and move tensors of a GPU that have no memory."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    cuda, meta, kinds = 1, 14, 21
    name = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (ctypes.c_void_p * kinds).in_dll(library, name)
    if not guards[cuda]:
        # The meta device's, which does nothing.
        guards[cuda] = guards[meta]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    torch.cuda.Event = lambda: event
    torch.Tensor.pin_memory = lambda tensor: tensor
    torch.Tensor.numpy = lambda tensor: np.ones(tensor.shape, np.float32)
    torch.Tensor.tolist = lambda tensor: np.ones(tensor.shape).tolist()
    torch.nn.Module.to = _moved


def _moved(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move a module as `to` does, which can't swap tensors that have no memory."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                there = weight.detach().to(device)
                part._parameters[name] = torch.nn.Parameter(there, weight.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return module


def _batch() -> Batch:
    return Batch(
        images=torch.zeros(2, 64, 64, 3, dtype=torch.uint8, device=GPU),
        joints=torch.zeros(2, 16, 2, device=GPU),
        annotated=torch.ones(2, 16, dtype=torch.bool, device=GPU),
        gains=torch.ones(2, 3, device=GPU),
        positions=np.arange(2),
    )


def _state(changes: dict[str, Any]) -> TrainState:
    """Return a state after its optimizer's first step. Gradients are zeros: autograd has no GPU."""
    state = TrainState(Settings.from_flat(_TINY | changes), MPII, 0, 1, GPU)

    def backward(*_: Any, **__: Any) -> None:
        for weight in state.network.parameters():
            weight.grad = torch.zeros_like(weight)

    torch.Tensor.backward = backward
    state.step(_batch(), 100)
    assert {weight.device for weight in state.network.parameters()} == {GPU}
    return state


def _steps(waits: Waits, changes: dict[str, Any]) -> None:
    state = _state(changes)
    waits.found.clear()
    for _ in range(2):
        _, _, bad = state.step(_batch(), 100)
        assert not bad


def _bad_step(waits: Waits) -> None:
    state, numbers = _state({}), LateRead.numbers
    state.step(_batch(), 100)
    LateRead.numbers = lambda _: [np.nan, np.nan, 1.0, 1.0]
    state._what_is_wrong = lambda *_, **__: "the loss is nan"
    waits.found.clear()
    *_, [bad] = state.step(_batch(), 100)
    assert (bad.number, bad.step) == (1, 2)
    [bad] = state.settle()
    assert (bad.number, bad.step) == (2, 3)
    LateRead.numbers = numbers


def _evaluation(waits: Waits, loader: SampleLoader, decoding: str, loss: str) -> None:
    changes = {"evaluation.decoding": decoding, "optim.loss": loss}
    settings = Settings.from_flat(_TINY | changes)
    network = build_network(settings.model, 0, GPU)
    evaluator = Evaluator(network=network, loader=loader, settings=settings, device=GPU)
    waits.found.clear()
    [predictions] = evaluator.predict([_batch()])
    assert predictions.joints.shape == (2, 16, 2)


def _prediction(waits: Waits, predictor: Predictor) -> None:
    image = np.zeros((64, 64, 4), np.uint8)
    views = [predictor.view(image, Frame.of_whole(image))] * 2
    predictor._network = build_network(predictor._settings.model, 0, GPU).eval()
    predictor._device = GPU
    waits.found.clear()
    assert [pose.joints.shape for pose in predictor.predict(views)] == [(16, 2)] * 2


def main() -> None:
    """Print the waits of each case."""
    # Collecting tensors that have no memory, in any order, may end the process.
    gc.disable()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shards = list(map(str, pack_samples(folder / "shards", [samples(2)])))
        loader = SampleLoader(ShardReader(shards), MPII, 64)
        checkpoint(folder / "c")
        predictor = Predictor(folder / "c", torch.device("cpu"), exact=True)
        change_torch()
        cases: dict[str, Callable[[Waits], None]] = {
            f"step: {name}": lambda waits, changes=changes: _steps(waits, changes)
            for name, changes in STEPS.items()
        }
        cases["bad step"] = _bad_step
        for decoding, loss in product(get_args(Decoding), get_args(Loss)):
            cases[f"evaluation: {decoding}, {loss}"] = lambda waits, how=(decoding, loss): (
                _evaluation(waits, loader, *how)
            )
        cases["prediction"] = lambda waits: _prediction(waits, predictor)
        found = {}
        for name, run in cases.items():
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
                run(waits)
            found[name] = waits.found
    json.dump(found, sys.stdout)
    sys.stdout.flush()
    # Some of its tensors can't be freed in order.
    os._exit(0)


if __name__ == "__main__":
    # Copying a network looks at the memory of its weights, of which they have none.
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
    main()
