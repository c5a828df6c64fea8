"""Where the time of a training step goes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from jobs.benchmark.step.variants import Runner
from pipeline.model.network import Heatmaps

KINDS = ("convolution", "norm", "pointwise", "optimizer", "input", "other")
_NETWORK, _BACKWARD, _OPTIMIZER = "network", "autograd::engine", "optimizer."
# Parts of operators' names; a matrix product here is a 1x1 convolution's.
_BY_NAME = {
    "convolution": ("conv", "::mm", "::addmm", "::bmm", "im2col", "col2im"),
    "norm": ("batch_norm",),
    "pointwise": ("relu", "threshold", "::add", "::mul", "::copy_", "::fill_", "::sum", "::div"),
}


class _Marked(nn.Module):
    """A network whose forward pass has a name in the profile."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Heatmaps:
        with record_function(_NETWORK):
            heatmaps: Heatmaps = self.network(images)
        return heatmaps


def time_shares(runner: Runner, device: torch.device) -> dict[str, float]:
    """Return the share of each kind of work in a training step, after a warm-up step.

    `input` is the work before and after the network: floats, targets and loss.
    On a GPU the time is that of its kernels.
    """
    runner.network = _Marked(runner.network)
    runner.train()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as taken:
        runner.train()
    spent = dict.fromkeys(KINDS, 0.0)
    for event in taken.events() or ():
        # A kernel is an event too, beside the operator that launched it.
        if event.device_type.name == "CPU":
            time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            spent[kind_of(event)] += time
    return {kind: time / sum(spent.values()) for kind, time in spent.items()}


def kind_of(event: Any) -> str:
    """Return the kind of work of a profiler's event, by its name and those of its callers."""
    above = []
    while event is not None:
        above.append(event.name.lower())
        event = event.cpu_parent
    if any(name.startswith(_OPTIMIZER) for name in above):
        return "optimizer"
    if not any(name == _NETWORK or name.startswith(_BACKWARD) for name in above):
        return "input"
    for kind, parts in _BY_NAME.items():
        # Work that an operator calls counts as its own: a convolution also adds and copies.
        if any(part in name for name in above for part in parts):
            return kind
    return "other"
