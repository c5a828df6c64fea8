"""Pairs of options of the training step: each takes a step, or is refused with a sentence."""

import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data.batch import Batch
from pipeline.model.build import build_network, compile_training
from pipeline.settings import Settings
from pipeline.training.updater import Updater

CPU = torch.device("cpu")
# The layout of every network is channels_last, so it takes no setting.
OPTIONS: dict[str, dict[str, Any]] = {
    "fp16": {"optim.precision": "fp16"},
    "bf16": {"optim.precision": "bf16"},
    "channels_last": {},
    "SyncBatchNorm": {"optim.sync_batchnorm": True, "ray.gpus_per_worker": 1.0},
    "compile": {"optim.compile": True},
    "accumulate": {"optim.accumulate": 2},
    "checkpointing": {"optim.checkpointing": True},
}
PAIRS = list(combinations(OPTIONS, 2))
_BASE = {
    "model.stacks": 1,
    "model.features": 8,
    "model.joints": 2,
    "model.order": 3,
    "model.input_px": 64,
    "optim.precision": "fp32",
    "optim.zero_heads": False,
    "optim.batch_size": 4,
}


def refusal(pair: tuple[str, str]) -> str:
    """Return the sentence that refuses a pair, "" if there is none."""
    first, second = (OPTIONS[name] for name in pair)
    both = sorted(first.keys() & second.keys())
    if both:
        return f"two values of {both[0]}"
    try:
        settings_of(pair)
    except ValueError as error:
        return str(error)
    return ""


def settings_of(names: Sequence[str]) -> Settings:
    changes = {key: value for name in names for key, value in OPTIONS[name].items()}
    return Settings.from_flat(_BASE | changes)


def take_step(names: Sequence[str]) -> tuple[float, float]:
    """Take a step on a CPU; return its loss and the norm of all gradients.

    SyncBatchNorm is that of one rank, which needs no GPU.
    """
    settings = settings_of(names)
    network = build_network(settings.model, 0, CPU, zero_heads=False)
    if settings.optim.sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    updater = Updater(network.train(), settings.optim, CPU)
    before = [weight.detach().clone() for weight in network.parameters()]
    convolutions = [weight for weight in network.parameters() if weight.dim() == 4]
    assert all(w.stride()[1] == 1 for w in convolutions if w.shape[1] > 1)
    random = np.random.default_rng(0)
    batch = Batch(
        images=torch.from_numpy(random.integers(0, 256, (4, 64, 64, 3), np.uint8)),
        joints=torch.from_numpy(random.uniform(2, 13, (4, 2, 2)).astype(np.float32)),
        annotated=torch.ones(4, 2, dtype=torch.bool),
        gains=torch.ones(4, 3),
        positions=np.arange(4),
    )
    # The scale of fp16 may be too high for the first step.
    for _ in range(8):
        step = updater.step(batch, 4)
        if step.is_taken:
            break
    assert step.is_taken
    assert not all(map(torch.equal, before, network.parameters()))
    return float(step.loss), float(step.norm)


def codes_of(stacks: int) -> int:
    """Return how many codes torch.compile makes for two training passes of a network."""
    codes = []

    def counted(graph: Any, _: Any, **__: Any) -> Any:
        codes.append(graph)
        return graph

    torch._dynamo.reset()
    compiler, torch.compile = torch.compile, partial(torch.compile, backend=counted)
    settings = settings_of(("compile",)).replaced({"model.stacks": stacks})
    network = build_network(settings.model, 0, CPU)
    compile_training(network, CPU)
    for _ in range(2):
        network(torch.rand(2, 3, 64, 64)).stacks.sum().backward()
    torch.compile = compiler
    return len(codes)


def main() -> None:
    """Take the step of each pair with compile, traced as on a GPU and run by plain operators."""
    codes = [codes_of(stacks) for stacks in (2, 3)]
    torch.compile = partial(torch.compile, backend="eager", fullgraph=True)
    taken = {
        " ".join(pair): take_step(pair)
        for pair in [("compile",), *PAIRS]
        if "compile" in pair and not (len(pair) == 2 and refusal(pair))
    }
    assert all(math.isfinite(value) for values in taken.values() for value in values)
    json.dump({"taken": taken, "codes": codes}, sys.stdout)


if __name__ == "__main__":
    main()
